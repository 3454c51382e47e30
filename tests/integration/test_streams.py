"""One stream of many requests, which is what `jina.Client.post` sends, over a real socket."""

import queue
from collections.abc import Iterator

import grpc
import numpy as np
import pytest
from docarray import DocList
from jina import Client
from jina.proto import jina_pb2_grpc
from jina.types.request.data import DataRequest
from PIL import Image

from executor import Response
from tests.integration.inprocess import TIMEOUT_S, HeldService, as_request, hold_service, numbered

BATCH = 2
IN_FLIGHT = 4 * BATCH


@pytest.fixture(scope="module")
def picture(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    file = tmp_path_factory.mktemp("picture") / "picture.png"
    Image.fromarray(np.arange(32 * 32 * 3, dtype=np.uint8).reshape(32, 32, 3)).save(file)
    return file.read_bytes()


@pytest.fixture
def held(tiny_t5, monkeypatch) -> Iterator[HeldService]:
    monkeypatch.setenv("BLIP2_MODEL", str(tiny_t5))
    batching = {"/vqa": {"preferred_batch_size": BATCH, "timeout": 0}}
    with hold_service(monkeypatch, uses_dynamic_batching=batching) as service:
        yield service


class Stream:
    """A stream in the hands of the test, which sends requests and reads answers when it wants to."""

    def __init__(self, port: int, **metadata: str) -> None:
        self._requests: queue.Queue[DataRequest | None] = queue.Queue()
        self._channel = grpc.insecure_channel(f"127.0.0.1:{port}")
        self.sent = 0
        self.call = jina_pb2_grpc.JinaRPCStub(self._channel).Call(
            self._outgoing(), TIMEOUT_S, metadata=tuple((f"__{key}__", value) for key, value in metadata.items())
        )

    def _outgoing(self) -> Iterator[DataRequest]:
        while (request := self._requests.get()) is not None:
            self.sent += 1
            yield request

    def send(self, *requests: DataRequest) -> None:
        for request in requests:
            self._requests.put(request)

    def read(self) -> list[str]:
        reply = next(self.call)
        reply.document_array_cls = DocList[Response]
        return [response.answer for response in reply.docs]

    def end(self) -> None:
        self._requests.put(None)

    def close(self) -> None:
        self.end()
        self.call.cancel()
        self._channel.close()


@pytest.fixture
def stream(held) -> Iterator[Stream]:
    stream = Stream(held.port)
    yield stream
    stream.close()


def each(picture: bytes, seeds: range) -> list[DataRequest]:
    return [as_request(numbered(picture, seed)) for seed in seeds]


def test_requests_of_one_stream_are_in_flight_at_the_same_time_and_share_batches(held, stream, picture):
    stream.send(*each(picture, range(6)))
    held.batcher.wait_for_submitted(range(6))  # and none of them was answered
    assert held.engine.entered.acquire(timeout=TIMEOUT_S)
    held.engine.let(10)
    assert [stream.read() for _ in range(6)] == [[str(seed)] for seed in range(6)]
    assert max(len(batch) for batch in held.engine.batches) == BATCH


@pytest.mark.parametrize("request_size", [1, 3, 100])
def test_the_stock_client_gets_its_answers_in_order_for_any_request_size(held, picture, request_size):
    held.engine.let(10_000)
    documents = numbered(picture, *range(120))
    responses = Client(port=held.port).post(
        "/vqa", inputs=documents, request_size=request_size, return_type=DocList[Response]
    )
    assert [response.answer for response in responses] == [str(seed) for seed in range(120)]
    assert [response.id for response in responses] == [document.id for document in documents]
