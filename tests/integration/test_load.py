"""What the device computes, in which order, and what it never does, over a real socket."""

import re
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from docarray import DocList
from jina import Client, dynamic_batching, requests
from jina.proto import jina_pb2_grpc

from executor import ImagePrompt, Response
from tests.integration.inprocess import TIMEOUT_S, HeldExecutor, HeldService, as_request, hold_service, numbered

BATCH = 4
CALLS = ["unary", "stream"]


@pytest.fixture
def tiny_environment(tiny_t5, monkeypatch):
    monkeypatch.setenv("BLIP2_MODEL", str(tiny_t5))


@pytest.fixture
def held(tiny_environment, monkeypatch) -> Iterator[HeldService]:
    batching = {"/vqa": {"preferred_batch_size": BATCH, "timeout": 0}}
    with hold_service(uses_dynamic_batching=batching) as service:
        yield service


def call(channel: grpc.Channel, kind: str, documents: DocList, timeout_s: float | None = None) -> grpc.Future:
    """A call in progress."""
    request = as_request(documents)
    if kind == "unary":
        return jina_pb2_grpc.JinaSingleDataRequestRPCStub(channel).process_single_data.future(request, timeout_s)
    return jina_pb2_grpc.JinaRPCStub(channel).Call(iter([request]), timeout_s)


def occupy(held: HeldService, channel: grpc.Channel, picture: bytes) -> grpc.Future:
    """Returns while the device is busy with document 0."""
    busy = call(channel, "unary", numbered(picture, 0))
    assert held.engine.entered.acquire(timeout=TIMEOUT_S)
    return busy


def answers(call: grpc.Future) -> list[str]:
    reply = call.result(TIMEOUT_S)
    reply.document_array_cls = DocList[Response]
    return [response.answer for response in reply.docs]


@pytest.mark.parametrize("kind", CALLS)
def test_documents_of_a_client_that_left_are_never_computed(held, channel, picture, kind):
    busy = occupy(held, channel, picture)
    leaving = call(channel, kind, numbered(picture, 1, 2, 3))
    held.batcher.wait_for_submitted([1, 2, 3])
    leaving.cancel()
    held.batcher.wait_for_left([1, 2, 3])
    staying = call(channel, "unary", numbered(picture, 4))
    held.batcher.wait_for_submitted([4])
    held.engine.let(2)
    assert (answers(busy), answers(staying)) == (["0"], ["4"])
    assert held.engine.batches == [[0], [4]]


@pytest.mark.parametrize("kind", CALLS)
def test_documents_whose_deadline_passed_are_never_computed(held, channel, picture, kind):
    busy = occupy(held, channel, picture)
    expiring = call(channel, kind, numbered(picture, 1, 2), timeout_s=3)
    held.batcher.wait_for_submitted([1, 2])
    assert expiring.exception(TIMEOUT_S).code() is grpc.StatusCode.DEADLINE_EXCEEDED
    held.batcher.wait_for_left([1, 2])
    held.engine.let(1)
    assert answers(busy) == ["0"]
    assert held.engine.batches == [[0]]


def test_what_a_long_request_has_not_yet_sent_to_the_queue_is_not_computed_when_its_client_leaves(
    held, channel, picture
):
    busy = occupy(held, channel, picture)
    leaving = call(channel, "unary", numbered(picture, *range(1, 500)))
    held.batcher.wait_for_submitted(range(1, 2 * BATCH + 1))
    leaving.cancel()
    held.batcher.wait_for_left(range(1, 2 * BATCH + 1))
    held.engine.let(1)
    assert answers(busy) == ["0"]
    assert held.engine.batches == [[0]]
    assert len(held.batcher.submitted) == 1 + 2 * BATCH


def test_single_documents_do_not_wait_for_all_of_a_long_request(held, channel, picture):
    long_one = call(channel, "unary", numbered(picture, *range(2000)))
    assert held.engine.entered.acquire(timeout=TIMEOUT_S)
    in_order: list[int | None] = []
    for number in range(3):
        single = call(channel, "unary", numbered(picture, 10_000 + number))
        held.batcher.wait_for_submitted([10_000 + number])
        submitted_before = held.batcher.submitted.index(10_000 + number)
        while not single.done():
            held.engine.let(1)
            assert held.engine.entered.acquire(timeout=TIMEOUT_S)
        assert answers(single) == [str(10_000 + number)]
        in_order = [seed for batch in list(held.engine.batches) for seed in batch]
        assert in_order.index(10_000 + number) <= submitted_before
        assert not long_one.done()
    assert len(in_order) < 1000
    held.engine.let(10_000)
    assert answers(long_one) == [str(number) for number in range(2000)]


def test_presets_and_options_of_request_and_document_reach_the_device_as_documented(held, picture):
    held.engine.let(10)
    chosen: list[dict[str, Any]] = [
        {},
        {"num_beams": 2},
        {"preset": "caption"},
        {"preset": "caption", "max_new_tokens": 4},
        {"preset": "article"},
    ]
    documents = DocList[ImagePrompt](
        ImagePrompt(img_bytes=picture, prompt="how many cats?", **options) for options in chosen
    )
    responses = Client(port=held.port).post(
        "/vqa", documents, return_type=DocList[Response], parameters={"preset": "paper", "max_new_tokens": 6.0}
    )
    assert [response.error for response in responses] == [""] * len(chosen)
    assert {(seen.num_beams, seen.length_penalty, seen.max_new_tokens) for seen in held.engine.options} == {
        (5, -1.0, 6),
        (2, -1.0, 6),
        (5, 1.0, 30),
        (5, 1.0, 4),
        (1, 1.0, 20),
    }


def test_an_unknown_preset_is_that_documents_error(held, picture):
    held.engine.let(1)
    good, bad = numbered(picture, 1, 2)
    bad.preset = "papers"
    responses = Client(port=held.port).post("/vqa", DocList[ImagePrompt]([good, bad]), return_type=DocList[Response])
    assert [response.answer for response in responses] == ["1", ""]
    assert responses[1].error.startswith("INVALID_OPTIONS: 'preset' must be one of: ")


def test_an_unexpected_error_is_that_documents_with_a_reference_that_is_in_the_log(held, channel, picture, capfd):
    held.engine.fault = ValueError("s3cret")
    reply = call(channel, "unary", numbered(picture, 1)).result(TIMEOUT_S)
    reply.document_array_cls = DocList[Response]
    error = reply.docs[0].error
    assert error.startswith("INTERNAL: ")
    assert "s3cret" not in error
    reference = re.search(r"reference (\w+)", error)
    assert reference
    logged = capfd.readouterr()
    assert reference[1] in logged.out + logged.err
    assert "s3cret" in logged.out + logged.err


class Decorated(HeldExecutor):
    @dynamic_batching(preferred_batch_size=3, timeout=0)
    @requests
    async def vqa(self, docs: DocList[ImagePrompt], parameters: dict = {}, **kwargs: Any) -> DocList[Response]:  # noqa: B006
        return await super().vqa(docs, parameters, **kwargs)


@pytest.mark.parametrize(
    ("uses", "arguments", "batch_size"),
    [
        ("HeldExecutor", {}, 16),
        ("config.yml", {}, 7),
        ("config.yml", {"uses_dynamic_batching": {"/vqa": {"preferred_batch_size": 2}}}, 2),
        ("HeldExecutor", {"uses_dynamic_batching": {"/vqa": {"preferred_batch_size": 5}}}, 5),
        ("HeldExecutor", {"uses_dynamic_batching": {"/default": {"preferred_batch_size": 6, "timeout": 1}}}, 6),
        ("Decorated", {}, 3),
    ],
    ids=["default", "config.yml", "uses_dynamic_batching over config.yml", "path", "default endpoint", "decorator"],
)
@pytest.mark.usefixtures("tiny_environment")
def test_batches_are_as_large_as_configured_wherever_that_is(
    monkeypatch, tmp_path, picture, uses, arguments, batch_size
):
    monkeypatch.chdir(tmp_path)
    section = "dynamic_batching:\n  /vqa:\n    preferred_batch_size: 7\n"
    Path("config.yml").write_text(f"jtype: HeldExecutor\n{section}")
    with hold_service(uses, **arguments) as held:
        done: list[str] = []

        def post() -> None:
            documents = numbered(picture, *range(40))
            posted = Client(port=held.port).post("/vqa", inputs=documents, return_type=DocList[Response])
            done.extend(response.answer for response in posted)

        posting = threading.Thread(target=post)
        posting.start()
        assert held.engine.entered.acquire(timeout=TIMEOUT_S)
        held.batcher.wait_for_submitted(range(2 * batch_size))
        held.engine.let(10_000)
        posting.join(TIMEOUT_S)
        assert done == [str(number) for number in range(40)]
        assert max(len(batch) for batch in held.engine.batches) == batch_size
