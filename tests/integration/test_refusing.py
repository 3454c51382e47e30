"""A service that is full says so at once, before it reads a document."""

import asyncio
from collections.abc import Iterator

import grpc
import pytest
from docarray import DocList
from jina.proto import jina_pb2_grpc

from executor import ImagePrompt, Response
from executor.server.calls import Allowance
from tests.integration.inprocess import TIMEOUT_S, HeldService, as_request, hold_service, numbered
from tests.support.raw_calls import STREAM, UNARY, outcome


@pytest.fixture
def full(tiny_t5, monkeypatch, picture) -> Iterator[tuple[HeldService, grpc.Channel, grpc.Future]]:
    """One document is in the service, which has room for no other."""
    monkeypatch.setenv("BLIP2_MODEL", str(tiny_t5))
    with (
        hold_service(uses_with={"max_queue": 1}) as held,
        grpc.insecure_channel(f"127.0.0.1:{held.port}") as channel,
    ):
        stub = jina_pb2_grpc.JinaSingleDataRequestRPCStub(channel)
        inside = stub.process_single_data.future(as_request(numbered(picture, 0)), TIMEOUT_S)
        assert held.engine.entered.acquire(timeout=TIMEOUT_S)
        yield held, channel, inside
        inside.cancel()


@pytest.mark.parametrize("kind", ["unary", "stream"])
def test_each_document_is_refused_under_its_id_and_none_is_read(full, picture, monkeypatch, kind):
    _, channel, _ = full
    read: list[object] = []
    monkeypatch.setattr(ImagePrompt, "from_protobuf", read.append)
    documents = numbered(picture, 1, 2, 3)
    request = as_request(documents)
    if kind == "unary":
        reply = jina_pb2_grpc.JinaSingleDataRequestRPCStub(channel).process_single_data(request, TIMEOUT_S)
    else:
        reply = next(jina_pb2_grpc.JinaRPCStub(channel).Call(iter([request]), TIMEOUT_S))
    reply.document_array_cls = DocList[Response]
    assert [response.id for response in reply.docs] == [document.id for document in documents]
    assert all(response.error.startswith("OVERLOADED: 1 documents are in the service") for response in reply.docs)
    assert all(response.answer == "" for response in reply.docs)
    assert read == []


@pytest.fixture
def flooded(full) -> tuple[HeldService, grpc.Channel, grpc.Future]:
    """As many calls have been refused document by document as may be in this second."""
    held = full[0]
    held.executor.server_policy.calls._detailed_refusals = Allowance(0)
    return full


@pytest.mark.parametrize("size", [0, 8 * 2**20])
def test_of_a_flood_a_call_is_refused_before_its_message_is_received(flooded, picture, monkeypatch, size):
    held = flooded[0]
    received: list[object] = []
    monkeypatch.setattr(held.executor, "overload", lambda: received.append("its documents"))
    message = as_request(numbered(picture + bytes(size), 1)).proto_with_data.SerializeToString()

    async def ask() -> None:  # as jina.Client does
        async with grpc.aio.insecure_channel(f"127.0.0.1:{held.port}") as channel:
            await channel.unary_unary(UNARY)(message, timeout=TIMEOUT_S)

    with pytest.raises(grpc.aio.AioRpcError) as refused:
        asyncio.run(ask())
    assert refused.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert refused.value.details() == ("OVERLOADED: 1 documents are in the service (max_queue); try again in 1 s.")
    assert received == []


def test_of_a_flood_streams_and_what_gateways_send_are_refused_document_by_document(flooded, picture):
    channel = flooded[1]
    message = as_request(numbered(picture, 1)).proto_with_data.SerializeToString()
    assert outcome(channel, UNARY, message)[0] is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert outcome(channel, STREAM, message)[0] is grpc.StatusCode.OK
    assert outcome(channel, UNARY, message, metadata=(("endpoint", "/"),))[0] is grpc.StatusCode.OK


def test_a_flood_ends_when_there_is_room(flooded, picture):
    held, channel, inside = flooded
    message = as_request(numbered(picture, 1)).proto_with_data.SerializeToString()
    assert outcome(channel, UNARY, message)[0] is grpc.StatusCode.RESOURCE_EXHAUSTED
    held.engine.let(2)
    inside.result(TIMEOUT_S)
    assert outcome(channel, UNARY, message)[0] is grpc.StatusCode.OK
