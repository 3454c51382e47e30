"""A service that is full says so at once, before it reads a document."""

from collections.abc import Iterator

import grpc
import pytest
from docarray import DocList
from jina.proto import jina_pb2_grpc

from executor import ImagePrompt, Response
from tests.integration.inprocess import TIMEOUT_S, HeldService, as_request, hold_service, numbered


@pytest.fixture
def full(tiny_t5, monkeypatch, picture) -> Iterator[tuple[HeldService, grpc.Channel]]:
    """One document is in the service, which has room for no other."""
    monkeypatch.setenv("BLIP2_MODEL", str(tiny_t5))
    with (
        hold_service(monkeypatch, uses_with={"max_queue": 1}) as held,
        grpc.insecure_channel(f"127.0.0.1:{held.port}") as channel,
    ):
        stub = jina_pb2_grpc.JinaSingleDataRequestRPCStub(channel)
        inside = stub.process_single_data.future(as_request(numbered(picture, 0)), TIMEOUT_S)
        assert held.engine.entered.acquire(timeout=TIMEOUT_S)
        yield held, channel
        inside.cancel()


@pytest.mark.parametrize("kind", ["unary", "stream"])
def test_each_document_is_refused_under_its_id_and_none_is_read(full, picture, monkeypatch, kind):
    _, channel = full
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
