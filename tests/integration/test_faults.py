"""Faults stay where they are: 64 clients at the same time, one of them guilty, over real sockets."""

import io
import random
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import grpc
import pytest
import torch
from docarray import BaseDoc, DocList
from jina.proto import jina_pb2
from PIL import Image

from demo.service import ROOT
from executor import Blip2Executor, ImagePrompt
from executor.model.engine import BatchReport, Engine, PreparedBatch
from executor.model.feature_cache import content_key
from executor.questions import templates as prompts
from tests.conftest import PICTURES
from tests.integration.inprocess import TIMEOUT_S, as_request, serve_executor

CLIENTS = 64
QUESTION = "Question: how many cats are there? Answer:"
SECRET = "s3cret"


@dataclass
class Served:
    port: int
    executor: Blip2Executor
    expected: list[str]

    def key_of(self, picture: bytes) -> bytes:
        return content_key(self.executor._images._decoder(picture))


@pytest.fixture(scope="module")
def pictures() -> list[bytes]:
    """One for each client, all different, PNG."""
    numbers = random.Random(5)
    drawn = [Image.open(PICTURES / name) for name in ("two-cats.jpg", "one-dog.jpg", "cats-and-dogs.jpg")]
    encoded = []
    for client in range(CLIENTS):
        picture = drawn[client % len(drawn)].convert("RGB")
        picture.putpixel((numbers.randrange(picture.width), numbers.randrange(picture.height)), (client, 0, 0))
        stream = io.BytesIO()
        picture.resize((96, 96)).save(stream, "PNG")
        encoded.append(stream.getvalue())
    return encoded


@pytest.fixture(scope="module")
def served(pictures) -> Iterator[Served]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BLIP2_MODEL", str(ROOT / "demo" / "checkpoint"))
        patch.setenv("BLIP2_FEATURE_CACHE_MB", "0")
        with serve_executor() as (port, executor):
            served = Served(port, executor, [])
            served.expected = [answers(reply)[0] for reply in ask_all(port, pictures)]
            assert len(set(served.expected)) > 1
            yield served


def ask(port: int, request: bytes) -> bytes:
    """The raw bytes of the reply, over a connection of its own."""
    with grpc.insecure_channel(f"127.0.0.1:{port}", [("grpc.use_local_subchannel_pool", 1)]) as channel:
        call = channel.unary_unary("/jina.JinaSingleDataRequestRPC/process_single_data")
        reply: bytes = call(request, timeout=TIMEOUT_S)
        return reply


def ask_all(port: int, pictures: list[bytes], guilty: dict[int, BaseDoc] | None = None) -> list[bytes]:
    """One request of one document from each client, all at the same time."""
    requests = []
    for client, picture in enumerate(pictures):
        document = (guilty or {}).get(client) or ImagePrompt(img_bytes=picture, prompt=QUESTION)
        requests.append(serialised(document))
    with ThreadPoolExecutor(len(requests)) as clients:
        return list(clients.map(lambda request: ask(port, request), requests))


def serialised(document: BaseDoc) -> bytes:
    request = as_request(DocList[ImagePrompt]([]))
    request.data.docs = DocList.__class_getitem__(type(document))([document])
    return bytes(request.proto_with_data.SerializeToString())


def fields(reply: bytes) -> list[Any]:
    proto = jina_pb2.DataRequestProto.FromString(reply)
    assert proto.header.status.code == jina_pb2.StatusProto.SUCCESS, proto.header.status.description
    return [document.data for document in proto.data.docs.docs]


def answers(reply: bytes) -> list[str]:
    assert [one["error"].text for one in fields(reply)] == [""] * len(fields(reply))
    return [one["answer"].text for one in fields(reply)]


def error(reply: bytes) -> str:
    (one,) = fields(reply)
    assert one["answer"].text == ""
    return str(one["error"].text)


def assert_terse(reply: bytes, picture: bytes) -> None:
    """No traceback, no path, no exception class, no echo of the picture."""
    for told in (b"Traceback", b"File ", b".py", str(ROOT).encode(), SECRET.encode(), b"Exception", b"ValueError"):
        assert told not in reply
    assert b"KeyError" not in reply
    assert b"pydantic" not in reply
    assert picture[40:80] not in reply
    assert len(reply) < 2000


def only(served: Served, pictures: list[bytes], guilty: int, code: str, document: BaseDoc | None = None) -> str:
    """Asks all; everybody but `guilty` must get the right answer, and `guilty` an error with `code`."""
    replies = ask_all(served.port, pictures, {guilty: document} if document else None)
    for client, (reply, expected) in enumerate(zip(replies, served.expected, strict=True)):
        if client != guilty:
            assert answers(reply) == [expected]
    assert error(replies[guilty]).startswith(f"{code}: ")
    assert_terse(replies[guilty], pictures[guilty])
    return error(replies[guilty])


class Wrong(BaseDoc):
    img_bytes: bytes
    prompt: int = 7


def test_a_broken_picture(served, pictures):
    only(served, pictures, 5, "NOT_AN_IMAGE", ImagePrompt(img_bytes=b"no picture", prompt=QUESTION))


def test_a_field_of_a_wrong_type(served, pictures):
    told = only(served, pictures, 5, "INVALID_DOCUMENT", Wrong(img_bytes=pictures[5]))
    assert told == "INVALID_DOCUMENT: 'prompt': input should be a valid string."


def test_a_missing_field(served, pictures):
    class Promptless(BaseDoc):
        img_bytes: bytes

    only(served, pictures, 5, "EMPTY_PROMPT", Promptless(img_bytes=pictures[5]))


def test_an_option_out_of_range(served, pictures):
    only(served, pictures, 5, "INVALID_OPTIONS", ImagePrompt(img_bytes=pictures[5], prompt=QUESTION, num_beams=99))


def fail_with(guilty: bytes, failure: Exception) -> Callable[[Engine, PreparedBatch], list[str]]:
    """A device that fails on every batch with the picture of `guilty`."""
    run = Engine._run

    def failing(self: Engine, batch: PreparedBatch) -> list[str]:
        if guilty in batch.keys:
            raise failure
        return run(self, batch)

    return failing


def test_a_model_call_that_raises(served, pictures, monkeypatch):
    guilty = served.key_of(pictures[9])
    monkeypatch.setattr(Engine, "_run", fail_with(guilty, ValueError(f"{SECRET} in {ROOT}")))
    assert "reference" in only(served, pictures, 9, "INTERNAL")


def test_out_of_memory_of_one_document(served, pictures, monkeypatch):
    guilty = served.key_of(pictures[9])
    monkeypatch.setattr(Engine, "_run", fail_with(guilty, torch.OutOfMemoryError(SECRET)))
    only(served, pictures, 9, "OUT_OF_MEMORY")


def test_out_of_memory_at_16_but_not_at_8_harms_nobody(served, pictures, monkeypatch):
    sizes = []
    run = Engine._run

    def limited(self: Engine, batch: PreparedBatch) -> list[str]:
        sizes.append(len(batch.keys))
        if len(batch.keys) > 8:
            raise torch.OutOfMemoryError
        return run(self, batch)

    monkeypatch.setattr(Engine, "_run", limited)
    replies = ask_all(served.port, pictures)
    assert [answers(reply)[0] for reply in replies] == served.expected
    assert max(sizes) > 8


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_a_logit_that_is_not_finite(served, pictures, monkeypatch, number):
    """The features of one picture are not finite, so none of its scores is."""
    model = served.executor._model
    guilty = served.executor._images._decoder(pictures[9])
    encode = model.encode_images

    def overflow(pixels: torch.Tensor) -> torch.Tensor:
        features = encode(pixels).clone()
        features[(pixels == guilty).flatten(1).all(1)] = number
        return features

    monkeypatch.setattr(model, "encode_images", overflow)
    only(served, pictures, 9, "MODEL_FAILED")


@pytest.mark.parametrize("options", [{"num_beams": 3}, {"do_sample": True, "seed": 1}], ids=["beams", "sampling"])
def test_a_logit_that_is_not_finite_in_every_kind_of_search(served, pictures, monkeypatch, options):
    model = served.executor._model
    encode = model.encode_images
    monkeypatch.setattr(model, "encode_images", lambda pixels: encode(pixels) * float("nan"))
    reply = ask(served.port, serialised(ImagePrompt(img_bytes=pictures[0], prompt=QUESTION, **options)))
    assert error(reply).startswith("MODEL_FAILED: ")


def test_a_bug_in_our_own_handling_of_a_document(served, pictures, monkeypatch):
    render = prompts.render

    def buggy(prompt: str | None, template: str) -> str:
        if prompt == "bug?":
            raise KeyError(f"{SECRET} in {ROOT}")
        return str(render(prompt, template))

    monkeypatch.setattr(prompts, "render", buggy)
    only(served, pictures, 3, "INTERNAL", ImagePrompt(img_bytes=pictures[3], prompt="bug?"))


def test_a_bug_in_our_own_handling_of_a_request(served, pictures, monkeypatch, capfd):
    respond = Blip2Executor._respond_to_all

    async def buggy(self: Blip2Executor, docs: Any, *args: Any) -> None:
        if docs[0].prompt == "bug?":
            raise KeyError(f"{SECRET} in {ROOT}")
        await respond(self, docs, *args)

    monkeypatch.setattr(Blip2Executor, "_respond_to_all", buggy)
    replies = ask_all(served.port, pictures, {3: ImagePrompt(img_bytes=pictures[3], prompt="bug?")})
    for client, reply in enumerate(replies):
        if client != 3:
            assert answers(reply) == [served.expected[client]]
    failed = jina_pb2.DataRequestProto.FromString(replies[3])
    assert failed.header.status.code == jina_pb2.StatusProto.ERROR
    assert failed.header.status.description.startswith("INTERNAL: the service failed on this request; report reference")
    assert not failed.header.status.HasField("exception")
    assert_terse(replies[3], pictures[3])
    reference = failed.header.status.description.split("reference ")[1].split()[0]
    logged = capfd.readouterr()
    assert reference in logged.out + logged.err
    assert SECRET in logged.out + logged.err


def test_a_sink_of_metrics_that_fails_costs_nobody_anything(served, pictures, monkeypatch):
    told = []

    def fail(report: BatchReport) -> None:
        told.append(report)
        raise ConnectionError(SECRET)

    monkeypatch.setattr(served.executor._engine, "_on_batch", fail)
    assert [answers(reply)[0] for reply in ask_all(served.port, pictures)] == served.expected
    assert sum(report.documents for report in told) == CLIENTS


def request_error(reply: bytes) -> str:
    proto = jina_pb2.DataRequestProto.FromString(reply)
    assert proto.header.status.code == jina_pb2.StatusProto.ERROR
    assert not proto.data.docs.docs
    return str(proto.header.status.description)


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_parameters_that_are_no_numbers(served, pictures, number, capfd):
    request = as_request(DocList[ImagePrompt]([ImagePrompt(img_bytes=pictures[0], prompt=QUESTION)]))
    request.proto_with_data.parameters["temperature"] = number
    reply = ask(served.port, request.proto_with_data.SerializeToString())
    assert request_error(reply) == "INVALID_OPTIONS: a number in 'parameters' is not finite."
    assert_terse(reply, pictures[0])
    assert "Traceback" not in capfd.readouterr().out


def test_documents_that_are_no_documents(served, pictures):
    request = jina_pb2.DataRequestProto()
    request.header.exec_endpoint = "/"
    request.data.docs_bytes = b"\xff" + pictures[0]
    reply = ask(served.port, request.SerializeToString())
    assert request_error(reply) == "INVALID_DOCUMENT: the request's documents cannot be read."
    assert_terse(reply, pictures[0])


def test_an_empty_request_gets_an_empty_answer(served):
    assert fields(ask(served.port, as_request(DocList[ImagePrompt]([])).proto_with_data.SerializeToString())) == []
