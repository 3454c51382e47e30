"""What comes beyond the limits is told so at once, and harms nobody who was there before."""

import asyncio
import threading
from collections.abc import Iterator

import grpc
import pytest
import torch
from docarray import DocList

from executor import ImagePrompt, Response
from executor.pictures.loader import ImageLoader
from tests.integration.inprocess import TIMEOUT_S, HeldService, hold_service, numbered
from tests.integration.test_load import answers, call


@pytest.fixture
def settings() -> dict[str, object]:
    return {"max_queue": 6}


@pytest.fixture
def held(tiny_t5, settings, monkeypatch) -> Iterator[HeldService]:
    batching = {"/vqa": {"preferred_batch_size": 2, "timeout": 0}}
    uses_with = settings | {"model": str(tiny_t5)}
    with hold_service(uses_with=uses_with, uses_dynamic_batching=batching) as service:
        yield service


def errors(call: grpc.Future) -> list[str]:
    reply = call.result(TIMEOUT_S)
    reply.document_array_cls = DocList[Response]
    return [response.error for response in reply.docs]


def fill(held: HeldService, channel: grpc.Channel, picture: bytes, documents: int = 6) -> list[grpc.Future]:
    """Single documents, one of which is on the device."""
    calls = [call(channel, "unary", numbered(picture, 0))]
    assert held.engine.entered.acquire(timeout=TIMEOUT_S)
    calls += [call(channel, "unary", numbered(picture, number)) for number in range(1, documents)]
    held.batcher.wait_for_submitted(range(documents))
    return calls


def test_documents_beyond_max_queue_are_refused_at_once_with_a_hint_and_the_others_answered(held, channel, picture):
    waiting = fill(held, channel, picture)
    refused = call(channel, "unary", numbered(picture, 100))
    assert errors(refused) == ["OVERLOADED: 6 documents are in the service (max_queue); try again in 1 s."]
    assert not any(one.done() for one in waiting)
    held.engine.let(1000)
    assert [answers(one) for one in waiting] == [[str(number)] for number in range(6)]
    assert answers(call(channel, "unary", numbered(picture, 200))) == ["200"]
    assert 100 not in held.batcher.submitted


def test_a_refused_document_costs_no_picture(held, channel, picture, monkeypatch):
    waiting = fill(held, channel, picture)
    loaded: list[object] = []

    async def load(*args: object) -> None:
        loaded.append(args)

    monkeypatch.setattr(ImageLoader, "load", load)
    assert errors(call(channel, "unary", numbered(picture, 100)))[0].startswith("OVERLOADED: ")
    held.engine.let(1000)
    for one in waiting:
        answers(one)
    assert loaded == []


def test_documents_whose_pictures_still_load_count(held, channel, picture, monkeypatch):
    began, ended = threading.Semaphore(0), threading.Semaphore(0)
    load = ImageLoader.load

    async def load_slowly(self: ImageLoader, reference: str | None, data: bytes | None = None) -> torch.Tensor:
        if reference is None:
            return await load(self, reference, data)
        began.release()
        try:
            return await asyncio.get_running_loop().create_future()
        finally:
            ended.release()

    monkeypatch.setattr(ImageLoader, "load", load_slowly)
    slow = [
        call(channel, "unary", DocList[ImagePrompt]([ImagePrompt(img="http://slow.example/", prompt="what?")]))
        for _ in range(6)
    ]
    assert all(began.acquire(timeout=TIMEOUT_S) for _ in slow)
    assert errors(call(channel, "unary", numbered(picture, 100)))[0].startswith("OVERLOADED: ")
    for one in slow:
        one.cancel()
    assert all(ended.acquire(timeout=TIMEOUT_S) for _ in slow)
    held.engine.let(1000)
    assert answers(call(channel, "unary", numbered(picture, 200))) == ["200"]


def test_long_requests_leave_places_to_others(held, channel, picture):
    long_one = call(channel, "unary", numbered(picture, *range(50)))
    assert held.engine.entered.acquire(timeout=TIMEOUT_S)
    single = call(channel, "unary", numbered(picture, 100))
    held.batcher.wait_for_submitted([100])
    held.engine.let(1000)
    assert answers(single) == ["100"]
    assert answers(long_one) == [str(number) for number in range(50)]


@pytest.mark.parametrize("settings", [{"max_queue_mb": 1}])
def test_bytes_beyond_max_queue_mb_are_refused_at_once(held, channel, picture):
    large = picture + bytes(600_000)  # what follows a PNG's end is not read
    first = call(channel, "unary", numbered(large, 1))
    assert held.engine.entered.acquire(timeout=TIMEOUT_S)
    refused = call(channel, "unary", numbered(large, 2))
    assert errors(refused) == ["OVERLOADED: 1 MB of requests are in the service (max_queue_mb); try again in 1 s."]
    small = call(channel, "unary", numbered(picture, 3))
    held.batcher.wait_for_submitted([3])
    held.engine.let(1000)
    assert (answers(first), answers(small)) == (["1"], ["3"])
    assert answers(call(channel, "unary", numbered(large, 4))) == ["4"]


def test_clients_that_leave_give_their_places_back(held, channel, picture):
    waiting = fill(held, channel, picture)
    for one in waiting[1:]:
        one.cancel()
    held.batcher.wait_for_left(range(1, 6))
    again = [call(channel, "unary", numbered(picture, number)) for number in (11, 12)]
    held.batcher.wait_for_submitted([11, 12])
    held.engine.let(1000)
    assert [answers(one) for one in again] == [["11"], ["12"]]
    assert not {1, 2, 3, 4, 5} & {seed for batch in held.engine.batches for seed in batch}
