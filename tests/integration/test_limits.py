"""What the gRPC port refuses for being too much, or for being nothing that can be read, over a real socket."""

import queue
import socket
import struct
import time
from collections.abc import Iterator

import grpc
import pytest
from docarray import DocList
from grpc_health.v1 import health_pb2, health_pb2_grpc
from jina.proto import jina_pb2_grpc
from jina.serve.helper import get_default_grpc_options

from executor import ImagePrompt
from executor.server.policy import SHORTEST_PING_INTERVAL_MS
from tests.integration.inprocess import TIMEOUT_S, HeldService, as_request, gateway_to, hold_service, numbered
from tests.support.raw_calls import STREAM, UNARY, outcome

MOST_CALLS = 2
GARBAGE = [b"\xff\xff\xff\xff", b"not protobuf at all", b"\x0a\xff\xff\xff\x7f", bytes(range(256))]


@pytest.fixture
def held(tiny_t5, monkeypatch) -> Iterator[HeldService]:
    settings = {"model": str(tiny_t5), "max_message_mb": 1, "max_calls": MOST_CALLS}
    with hold_service(uses_with=settings) as service:
        yield service


def is_serving(channel: grpc.Channel) -> bool:
    reply = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=TIMEOUT_S)
    return bool(reply.status == health_pb2.HealthCheckResponse.SERVING)


@pytest.mark.parametrize("method", [UNARY, STREAM])
def test_a_message_above_the_limit_is_refused(held, channel, method):
    large = as_request(DocList[ImagePrompt]([ImagePrompt(img_bytes=b"x" * 2**20, prompt="?")]))
    code, told = outcome(channel, method, large.proto_with_data.SerializeToString())
    assert code is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert "message larger than max" in told
    assert held.engine.batches == []
    assert is_serving(channel)


@pytest.mark.parametrize("kind", ["unary", "stream"])
def test_calls_beyond_the_limit_are_refused_at_once_while_health_answers(held, channel, picture, kind):
    unary = jina_pb2_grpc.JinaSingleDataRequestRPCStub(channel).process_single_data
    busy = [unary.future(as_request(numbered(picture, seed)), TIMEOUT_S) for seed in range(MOST_CALLS)]
    held.batcher.wait_for_submitted(range(MOST_CALLS))
    message = as_request(numbered(picture, 9)).proto_with_data.SerializeToString()
    code, told = outcome(channel, UNARY if kind == "unary" else STREAM, message)
    assert code is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert told == "OVERLOADED: 2 calls are in progress (max_calls); try again in a second."
    assert is_serving(channel)
    held.engine.let(MOST_CALLS + 1)
    for call in busy:
        call.result(TIMEOUT_S)
    assert outcome(channel, UNARY, message)[0] is grpc.StatusCode.OK


def test_calls_that_have_not_sent_their_message_yet_count_too(held, channel, picture):
    message = as_request(numbered(picture, 1)).proto_with_data.SerializeToString()
    unsent: list[queue.Queue[bytes | None]] = [queue.Queue() for _ in range(MOST_CALLS)]
    assert is_serving(channel)  # calls of one connection arrive in their order, those that wait for it in any
    waiting = [channel.stream_stream(UNARY)(iter(of_call.get, None), timeout=TIMEOUT_S) for of_call in unsent]
    assert outcome(channel, UNARY, message)[0] is grpc.StatusCode.RESOURCE_EXHAUSTED
    held.engine.let(MOST_CALLS)
    for of_call in unsent:
        of_call.put(message)
    assert all(b"1" in next(call) for call in waiting)
    for of_call in unsent:
        of_call.put(None)


@pytest.mark.parametrize("garbage", GARBAGE, ids=["bytes", "text", "length", "all bytes"])
@pytest.mark.parametrize("method", [UNARY, STREAM, "/jina.JinaDataRequestRPC/process_data"])
def test_a_message_that_cannot_be_read_is_refused_in_few_words(channel, method, garbage):
    code, told = outcome(channel, method, garbage)
    assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert told == "the message is not what this method takes, it cannot be read."
    assert is_serving(channel)


@pytest.mark.parametrize("method", [UNARY, "/jina.JinaDiscoverEndpointsRPC/endpoint_discovery"])
def test_a_call_without_a_message_is_refused_in_few_words(channel, method):
    assert outcome(channel, method) == (grpc.StatusCode.INVALID_ARGUMENT, "the call has no message.")


def test_an_unexpected_error_of_a_call_is_logged_and_not_told(held, channel, monkeypatch, caplog):
    def fail() -> None:
        raise RuntimeError("the secret of the service")

    monkeypatch.setattr(held.executor, "_get_endpoint_models_dict", fail)
    code, told = outcome(channel, "/jina.JinaDiscoverEndpointsRPC/endpoint_discovery", b"")
    assert (code, told) == (grpc.StatusCode.INTERNAL, "the service failed on this call; tell its operator.")
    assert "the secret of the service" in caplog.text


def test_answers_before_a_broken_message_of_a_stream_arrive(held, channel, picture):
    held.engine.let(1)
    good = as_request(numbered(picture, 1)).proto_with_data.SerializeToString()
    call = channel.stream_stream(STREAM)(iter([good, GARBAGE[0]]), timeout=TIMEOUT_S)
    assert b"1" in next(call)
    with pytest.raises(grpc.RpcError) as raised:
        next(call)
    assert raised.value.code() is grpc.StatusCode.INVALID_ARGUMENT


def test_a_client_that_pings_too_often_is_cut_off(held):
    """Spoken by hand: a client of gRPC's own library slows down when it is told to."""
    with socket.create_connection(("127.0.0.1", held.port), TIMEOUT_S) as connection:
        pings = b"".join(frame(PING, struct.pack(">Q", number)) for number in range(20))
        connection.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + frame(SETTINGS, b"") + pings)
        received = b""
        while part := connection.recv(65536):
            received += part
    goaways = [payload for kind, payload in frames(received) if kind == GOAWAY]
    assert [struct.unpack(">I", payload[4:8])[0] for payload in goaways][-1] == ENHANCE_YOUR_CALM
    assert b"too_many_pings" in goaways[-1]


def test_pings_of_the_stock_client_are_rarer_than_what_is_borne():
    assert dict(get_default_grpc_options())["grpc.keepalive_time_ms"] > SHORTEST_PING_INTERVAL_MS


@pytest.mark.parametrize("where", ["service", "gateway"])
def test_pings_that_are_no_more_frequent_than_allowed_are_borne(tiny_t5, monkeypatch, where):
    """Far more of them than gRPC's own limit allows, which is one in five minutes."""
    monkeypatch.setattr("executor.server.policy.SHORTEST_PING_INTERVAL_MS", 100)
    with hold_service(uses_with={"model": str(tiny_t5)}) as held, gateway_to(held.port) as gateway:
        port = held.port if where == "service" else gateway
        with socket.create_connection(("127.0.0.1", port), TIMEOUT_S) as connection:
            connection.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + frame(SETTINGS, b""))
            received = b""
            for number in range(8):
                connection.sendall(frame(PING, struct.pack(">Q", number)))
                while not answered(received, number):
                    part = connection.recv(65536)
                    assert part, list(frames(received))
                    received += part
                time.sleep(0.15)  # the shortest interval and more; a slow machine makes it longer
    assert GOAWAY not in [kind for kind, _ in frames(received)]


def answered(received: bytes, number: int) -> bool:
    return (PING, struct.pack(">Q", number)) in list(frames(received))


SETTINGS, PING, GOAWAY = 4, 6, 7
ENHANCE_YOUR_CALM = 11


def frame(kind: int, payload: bytes) -> bytes:
    """Of HTTP/2, without flags, of the connection itself."""
    return struct.pack(">I", len(payload))[1:] + bytes([kind, 0]) + bytes(4) + payload


def frames(received: bytes) -> Iterator[tuple[int, bytes]]:
    while len(received) >= 9:
        length = int.from_bytes(received[:3], "big")
        yield received[3], received[9 : 9 + length]
        received = received[9 + length :]
