"""One stream of many requests, which is what `jina.Client.post` sends, over a real socket."""

import itertools
import queue
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

import grpc
import pytest
from docarray import DocList
from jina import Client
from jina.proto import jina_pb2, jina_pb2_grpc
from jina.types.request.data import DataRequest

from executor import Response
from executor.service import Query
from tests.integration.inprocess import TIMEOUT_S, HeldService, as_request, gateway_to, hold_service, numbered

BATCH = 2
PER_REQUEST = 2 * BATCH  # documents of one request that are in the queue
IN_FLIGHT = 4 * BATCH  # documents of one stream
PASSER_BY = 10_000


@pytest.fixture
def held(tiny_t5, monkeypatch) -> Iterator[HeldService]:
    monkeypatch.setenv("BLIP2_MODEL", str(tiny_t5))
    batching = {"/vqa": {"preferred_batch_size": BATCH, "timeout": 0}}
    with hold_service(uses_dynamic_batching=batching) as service:
        yield service


@pytest.fixture(params=["alone", "behind a gateway"])
def port(request: pytest.FixtureRequest, held: HeldService) -> Iterator[int]:
    if request.param == "alone":
        yield held.port
    else:
        with gateway_to(held.port) as port:
            yield port


class Stream:
    """A stream in the hands of the test, which sends requests and reads answers when it wants to."""

    def __init__(self, port: int, timeout_s: float = TIMEOUT_S, **metadata: str) -> None:
        self._requests: queue.Queue[DataRequest | None] = queue.Queue()
        self._channel = grpc.insecure_channel(f"127.0.0.1:{port}")
        self.call = jina_pb2_grpc.JinaRPCStub(self._channel).Call(
            self._outgoing(), timeout_s, metadata=tuple((f"__{key}__", value) for key, value in metadata.items())
        )

    def _outgoing(self) -> Iterator[DataRequest]:
        while (request := self._requests.get()) is not None:
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


@contextmanager
def open_stream(port: int, timeout_s: float = TIMEOUT_S, **metadata: str) -> Iterator[Stream]:
    stream = Stream(port, timeout_s, **metadata)
    try:
        yield stream
    finally:
        stream.close()


@pytest.fixture
def stream(port: int) -> Iterator[Stream]:
    with open_stream(port) as stream:
        yield stream


def each(picture: bytes, seeds: Iterable[int]) -> list[DataRequest]:
    """Requests of one document."""
    return [as_request(numbered(picture, seed)) for seed in seeds]


@contextmanager
def passing_by(held: HeldService, picture: bytes) -> Iterator[grpc.Future]:
    """Another client's call, which has reached the queue: what could have gone there before has had its time."""
    with grpc.insecure_channel(f"127.0.0.1:{held.port}") as channel:
        request = as_request(numbered(picture, PASSER_BY))
        call = jina_pb2_grpc.JinaSingleDataRequestRPCStub(channel).process_single_data.future(request, TIMEOUT_S)
        held.batcher.wait_for_submitted([PASSER_BY])
        yield call


def compute(held: HeldService, *seeds: int) -> None:
    """Lets batches through until these documents have been in one.

    Documents come to the queue in any order: their pictures are decoded at the same time.
    """
    assert held.engine.entered.acquire(timeout=TIMEOUT_S)
    while not set(seeds) <= set(itertools.chain(*held.engine.batches)):
        held.engine.let(1)
        assert held.engine.entered.acquire(timeout=TIMEOUT_S)
    held.engine.let(1)


def test_requests_of_one_stream_are_in_flight_at_the_same_time_and_share_batches(held, stream, picture):
    stream.send(*each(picture, range(6)))
    held.batcher.wait_for_submitted(range(6))  # and none of them was answered
    held.engine.let(10)
    assert [stream.read() for _ in range(6)] == [[str(seed)] for seed in range(6)]
    assert max(len(batch) for batch in held.engine.batches) == BATCH


@pytest.mark.parametrize("request_size", [1, 3, 100])
def test_the_stock_client_gets_its_answers_in_order_for_any_request_size(held, port, picture, request_size):
    held.engine.let(10_000)
    documents = numbered(picture, *range(120))
    responses = Client(port=port).post(
        "/vqa", inputs=documents, request_size=request_size, return_type=DocList[Response]
    )
    assert [response.answer for response in responses] == [str(seed) for seed in range(120)]
    assert [response.id for response in responses] == [document.id for document in documents]


def test_answers_keep_their_order_when_the_second_request_is_done_first(held, stream, picture):
    # PER_REQUEST of these are in the queue when the second comes. Three batches make room for as many as they answer.
    first = range(PER_REQUEST + 3 * BATCH + 2)
    stream.send(as_request(numbered(picture, *first)))
    held.batcher.wait_for_submitted(range(PER_REQUEST))
    stream.send(*each(picture, [100]))
    held.batcher.wait_for_submitted([100])
    held.engine.let(3)
    for _ in range(4):
        assert held.engine.entered.acquire(timeout=TIMEOUT_S)
    assert 100 in itertools.chain(*held.engine.batches[:3])
    assert first[-1] not in itertools.chain(*held.engine.batches)
    held.engine.let(100)
    assert stream.read() == [str(seed) for seed in first]
    assert stream.read() == ["100"]


def test_no_more_of_a_stream_is_read_than_is_allowed_in_flight_and_the_rest_follows(held, picture):
    with open_stream(held.port) as stream:
        stream.send(*each(picture, range(5 * IN_FLIGHT)))
        held.batcher.wait_for_submitted(range(IN_FLIGHT))
        with passing_by(held, picture):
            assert sorted(held.batcher.submitted) == [*range(IN_FLIGHT), PASSER_BY]
            compute(held, 0, 1)
            assert [stream.read() for _ in range(2)] == [["0"], ["1"]]
            held.batcher.wait_for_submitted(range(IN_FLIGHT + 2))
            held.engine.let(10_000)
        assert [stream.read() for _ in range(2, 5 * IN_FLIGHT)] == [[str(seed)] for seed in range(2, 5 * IN_FLIGHT)]


def test_two_requests_of_a_stream_are_in_flight_however_large_they_are(held, picture):
    size = 3 * IN_FLIGHT
    with open_stream(held.port) as stream:
        stream.send(*(as_request(numbered(picture, *range(start, start + size))) for start in (0, size, 2 * size)))
        held.batcher.wait_for_submitted([*range(PER_REQUEST), *range(size, size + PER_REQUEST)])
        with passing_by(held, picture):
            assert 2 * size not in held.batcher.submitted
            held.engine.let(10_000)
        assert [len(stream.read()) for _ in range(3)] == [size] * 3


def test_a_clients_prefetch_bounds_what_is_in_flight(held, port, picture):
    with open_stream(port, prefetch="2") as stream:
        stream.send(*each(picture, range(5)))
        held.batcher.wait_for_submitted(range(2))
        with passing_by(held, picture):
            assert sorted(held.batcher.submitted) == [0, 1, PASSER_BY]
            held.engine.let(10_000)
        assert [stream.read() for _ in range(5)] == [[str(seed)] for seed in range(5)]


def test_an_executor_that_does_not_ask_for_it_gets_one_request_of_a_stream_at_a_time(held, picture):
    held.executor.keeps_contract = False
    with open_stream(held.port) as stream:
        stream.send(*each(picture, range(3)))
        held.batcher.wait_for_submitted([0])
        with passing_by(held, picture):
            assert sorted(held.batcher.submitted) == [0, PASSER_BY]
            held.engine.let(10_000)
        assert [stream.read() for _ in range(3)] == [[str(seed)] for seed in range(3)]


@pytest.mark.parametrize("how", ["cancels", "runs into its deadline"])
def test_nothing_of_a_stream_is_computed_when_its_client_leaves(held, port, picture, how):
    with passing_by(held, picture) as busy:
        assert held.engine.entered.acquire(timeout=TIMEOUT_S)
        with open_stream(port, timeout_s=TIMEOUT_S if how == "cancels" else 3) as stream:
            stream.send(*each(picture, range(6)))
            held.batcher.wait_for_submitted(range(6))
            if how == "cancels":
                stream.call.cancel()
            held.batcher.wait_for_left(range(6))
            held.engine.let(1)
            busy.result(TIMEOUT_S)
    assert held.engine.batches == [[PASSER_BY]]


def test_nothing_of_a_call_behind_a_gateway_is_computed_when_its_client_leaves(held, picture):
    with passing_by(held, picture) as busy, gateway_to(held.port) as port:
        assert held.engine.entered.acquire(timeout=TIMEOUT_S)
        with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
            stub = jina_pb2_grpc.JinaSingleDataRequestRPCStub(channel)
            leaving = stub.process_single_data.future(as_request(numbered(picture, 1, 2)), TIMEOUT_S)
            held.batcher.wait_for_submitted([1, 2])
            leaving.cancel()
            held.batcher.wait_for_left([1, 2])
            held.engine.let(1)
            busy.result(TIMEOUT_S)
    assert held.engine.batches == [[PASSER_BY]]


def test_a_request_that_fails_leaves_its_stream_unharmed(held, stream, picture):
    wrong = DataRequest()
    wrong.proto_with_data.data.docs_bytes = b"no documents"
    wrong.header.exec_endpoint = "/vqa"
    held.engine.let(10)
    stream.send(*each(picture, [0]), wrong, *each(picture, [1]))
    assert stream.read() == ["0"]
    assert next(stream.call).header.status.code == jina_pb2.StatusProto.ERROR
    assert stream.read() == ["1"]


@pytest.mark.parametrize("order", ["true", "false"])
def test_a_stream_that_ends_after_its_last_answer_ends(held, port, picture, order):
    held.engine.let(10)
    with open_stream(port, results_in_order=order) as stream:
        stream.send(*each(picture, [0]))
        assert stream.read() == ["0"]
        stream.end()
        assert list(stream.call) == []


def test_an_empty_stream_ends(stream):
    stream.end()
    assert list(stream.call) == []


def test_many_long_requests_at_once_are_all_answered_though_the_queue_is_short(tiny_t5, monkeypatch, picture):
    monkeypatch.setenv("BLIP2_MODEL", str(tiny_t5))
    max_queue, requests, size = 4 * PER_REQUEST, 5, 3 * PER_REQUEST
    batching = {"/vqa": {"preferred_batch_size": BATCH, "timeout": 0}}
    with (
        hold_service(uses_with={"max_queue": max_queue}, uses_dynamic_batching=batching) as held,
        gateway_to(held.port) as port,
        open_stream(port) as stream,
    ):
        starts = range(0, requests * size, size)
        stream.send(*(as_request(numbered(picture, *range(start, start + size))) for start in starts))
        held.batcher.wait_for_submitted(starts)  # every request has a document in the queue
        assert len(held.batcher.submitted) <= max_queue
        held.engine.let(10_000)
        assert [stream.read() for _ in starts] == [[str(start + n) for n in range(size)] for start in starts]


@pytest.fixture
def sizes(held) -> list[int]:
    """How many documents each request had that reached the service."""
    sizes: list[int] = held.service.sizes
    return sizes


@pytest.fixture
def full(port, held) -> int:
    """So many documents of a stream are in flight when the next ones have to wait."""
    return IN_FLIGHT if port == held.port else 64


def test_what_arrives_while_a_stream_is_full_travels_together(held, sizes, port, picture, full):
    seeds = range(3 * full)
    with open_stream(port) as stream:
        requests = each(picture, seeds)
        for number, request in enumerate(requests):
            request.header.request_id = str(number)
        stream.send(*requests)
        held.batcher.wait_for_submitted(range(full))
        held.engine.let(10_000)
        replies = [next(stream.call) for _ in seeds]
    assert [reply.header.request_id for reply in replies] == [str(seed) for seed in seeds]
    for reply in replies:
        reply.document_array_cls = DocList[Response]
    assert [[response.answer for response in reply.docs] for reply in replies] == [[str(seed)] for seed in seeds]
    assert sum(sizes) == len(seeds)
    assert max(sizes) > 1


def test_requests_with_other_parameters_or_too_large_travel_alone(held, sizes, port, picture, full):
    with open_stream(port) as stream:
        first = each(picture, range(full))
        large = each(picture + bytes(2**20), range(100, 104))
        other = each(picture, range(200, 204))
        for number, request in enumerate(other):
            request.parameters = {"max_new_tokens": 1 + number}
        stream.send(*first, *large, *other)
        held.batcher.wait_for_submitted(range(full))
        held.engine.let(10_000)
        answers = [stream.read() for _ in range(full + 8)]
    assert answers == [[str(seed)] for seed in (*range(full), *range(100, 104), *range(200, 204))]
    assert sizes[-8:] == [1] * 8


def test_a_request_that_fails_as_a_whole_fails_alone_though_it_travelled_with_others(held, port, picture, full):
    seeds, guilty = range(2 * full), full
    failed = []

    def fail(queries: Sequence[Query]) -> None:
        if guilty in [query.options["seed"] for query in queries]:
            failed.append(len(queries))
            raise RuntimeError("of this request")

    held.service.fault = fail
    with open_stream(port) as stream:
        stream.send(*each(picture, seeds))
        held.batcher.wait_for_submitted(range(full))
        with passing_by(held, picture):
            held.engine.let(10_000)
        replies = [next(stream.call) for _ in seeds]
    assert failed[0] > 1
    assert failed[1:] == [1]
    faults = [seed for seed, reply in zip(seeds, replies, strict=True) if reply.header.status.code]
    assert faults == [guilty]
