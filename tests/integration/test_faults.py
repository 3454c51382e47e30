"""Faults stay where they are: 64 clients at the same time, one of them guilty, over real sockets."""

import io
import random
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, cast

import grpc
import pytest
import torch
from docarray import BaseDoc, DocList
from jina.proto import jina_pb2
from PIL import Image

from demo.service import ROOT
from executor import ImagePrompt
from executor.model.blip2 import Blip2Model
from executor.model.engine import Engine
from executor.pictures.decoding import Decoder
from executor.pictures.limits import ImageLimits
from executor.scheduling.dynamic_batching import BatchingOptions
from executor.service import Query
from executor.startup import load_model
from executor.telemetry.observer import BatchReport, Observer, Observers
from tests.conftest import PICTURES
from tests.integration.inprocess import TIMEOUT_S, GatedExecutor, as_request, serve_executor

CLIENTS = 64
QUESTION = "Question: how many cats are there? Answer:"
SECRET = "s3cret"


class FaultyModel:
    """The real model, with the faults that a test wants.

    Attributes:
        encode: does a test's work around `encode_images`: takes that and the pixels.
        generate_fault: raised for batches of more documents than `largest`.
    """

    def __init__(self, model: Blip2Model) -> None:
        self._model = model
        self.reset()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)

    def reset(self) -> None:
        self.encode: Callable[[Callable[..., torch.Tensor], torch.Tensor], torch.Tensor] | None = None
        self.generate_fault: Exception | None = None
        self.largest = 0
        self.sizes: list[int] = []
        self.broken_prompt: str | None = None

    def tokenize(self, prompt: str) -> list[int]:
        if prompt == self.broken_prompt:
            raise KeyError(f"{SECRET} in {ROOT}")
        return self._model.tokenize(prompt)

    def encode_images(self, pixels: torch.Tensor) -> torch.Tensor:
        if self.encode is not None:
            return self.encode(self._model.encode_images, pixels)
        return self._model.encode_images(pixels)

    def generate(self, features: torch.Tensor, *args: Any) -> list[str]:
        self.sizes.append(len(features))
        if self.generate_fault is not None and len(features) > self.largest:
            raise self.generate_fault
        return self._model.generate(features, *args)


class Listener(Observer):
    """Fails at every batch that it is told of, and remembers it."""

    def __init__(self) -> None:
        self.told: list[BatchReport] = []

    def batch_answered(self, report: BatchReport) -> None:
        self.told.append(report)
        raise ConnectionError(SECRET)


class FaultyExecutor(GatedExecutor):
    """The Executor with a model that fails as a test wants it, and somebody who listens and fails always."""

    def new_engine(self, batching: BatchingOptions, observer: Observer) -> Engine:
        model, _ = load_model(self.settings, batching, self.logger.logger)
        self.model, self.listener = FaultyModel(model), Listener()
        return Engine(cast(Any, self.model), 0, Observers([self.listener]).batch_answered)


@dataclass
class Served:
    port: int
    executor: FaultyExecutor
    expected: list[str]

    @property
    def model(self) -> FaultyModel:
        return self.executor.model

    def pixels_of(self, picture: bytes) -> torch.Tensor:
        return Decoder(self.model.image_size, self.model.resample, ImageLimits())(picture)


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
        with serve_executor("FaultyExecutor") as (port, executor):
            assert isinstance(executor, FaultyExecutor)
            served = Served(port, executor, [])
            served.expected = [answers(reply)[0] for reply in ask_all(port, pictures)]
            assert len(set(served.expected)) > 1
            yield served


@pytest.fixture(autouse=True)
def faultless(served) -> Iterator[None]:
    yield
    served.model.reset()
    served.executor.service.fault = lambda queries: None


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


def break_encoding(served: Served, picture: bytes, failure: Exception) -> None:
    """Has the device fail on every batch with a picture."""
    guilty = served.pixels_of(picture)

    def encode(encode_images: Callable[..., torch.Tensor], pixels: torch.Tensor) -> torch.Tensor:
        if (pixels == guilty).flatten(1).all(1).any():
            raise failure
        return encode_images(pixels)

    served.model.encode = encode


def test_a_model_call_that_raises(served, pictures):
    break_encoding(served, pictures[9], ValueError(f"{SECRET} in {ROOT}"))
    assert "reference" in only(served, pictures, 9, "INTERNAL")


def test_out_of_memory_of_one_document(served, pictures):
    break_encoding(served, pictures[9], torch.OutOfMemoryError(SECRET))
    only(served, pictures, 9, "OUT_OF_MEMORY")


def test_out_of_memory_at_16_but_not_at_8_harms_nobody(served, pictures):
    served.model.generate_fault, served.model.largest = torch.OutOfMemoryError(), 8
    replies = ask_all(served.port, pictures)
    assert [answers(reply)[0] for reply in replies] == served.expected
    assert max(served.model.sizes) > 8


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_a_logit_that_is_not_finite(served, pictures, number):
    """The features of one picture are not finite, so none of its scores is."""
    guilty = served.pixels_of(pictures[9])

    def overflow(encode_images: Callable[..., torch.Tensor], pixels: torch.Tensor) -> torch.Tensor:
        features = encode_images(pixels).clone()
        features[(pixels == guilty).flatten(1).all(1)] = number
        return features

    served.model.encode = overflow
    only(served, pictures, 9, "MODEL_FAILED")


@pytest.mark.parametrize("options", [{"num_beams": 3}, {"do_sample": True, "seed": 1}], ids=["beams", "sampling"])
def test_a_logit_that_is_not_finite_in_every_kind_of_search(served, pictures, options):
    served.model.encode = lambda encode_images, pixels: encode_images(pixels) * float("nan")
    reply = ask(served.port, serialised(ImagePrompt(img_bytes=pictures[0], prompt=QUESTION, **options)))
    assert error(reply).startswith("MODEL_FAILED: ")


def test_a_bug_in_our_own_handling_of_a_document(served, pictures):
    served.model.broken_prompt = "bug"
    only(served, pictures, 3, "INTERNAL", ImagePrompt(img_bytes=pictures[3], prompt="bug"))


def test_a_bug_in_our_own_handling_of_a_request(served, pictures, capfd):
    def buggy(queries: Sequence[Query]) -> None:
        if queries[0].prompt == "bug?":
            raise KeyError(f"{SECRET} in {ROOT}")

    served.executor.service.fault = buggy
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


def test_a_sink_of_metrics_that_fails_costs_nobody_anything(served, pictures):
    told = len(served.executor.listener.told)
    assert [answers(reply)[0] for reply in ask_all(served.port, pictures)] == served.expected
    assert sum(report.documents for report in served.executor.listener.told[told:]) == CLIENTS


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
