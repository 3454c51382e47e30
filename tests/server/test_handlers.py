"""Calls of all four kinds pass the interceptors, over a socket: each is counted, named, read and refused alike."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractContextManager, asynccontextmanager, nullcontext
from typing import Any

import grpc
import pytest

from executor.jina_adapter.worker.unreadable import RefuseUnreadable
from executor.server.call_ids import NameCalls
from executor.server.calls import Calls
from executor.telemetry import request_ids
from executor.telemetry.observer import Observer, Refusal

TIMEOUT_S = 30


class Noting(Observer):
    def __init__(self) -> None:
        self.called: list[str] = []
        self.refused: list[Refusal] = []

    def call(
        self, method: str, metadata: Sequence[tuple[str, str | bytes]], call_id: str, status: Callable[[], int | None]
    ) -> AbstractContextManager[object]:
        self.called.append(f"{method} {call_id}")
        return nullcontext()

    def call_refused(self, reason: Refusal) -> None:
        self.refused.append(reason)


class Methods:
    """Each answers with the id of its call, how many are in progress, and what it was sent."""

    def __init__(self, calls: Calls) -> None:
        self._calls = calls

    def _seen(self, *requests: str) -> bytes:
        return f"{request_ids.current()} {self._calls.in_progress} {'+'.join(requests)}".encode()

    async def one_to_one(self, request: str, context: object) -> bytes:
        return self._seen(request)

    async def one_to_many(self, request: str, context: object) -> AsyncIterator[bytes]:
        for part in range(2):
            yield self._seen(request, str(part))

    async def many_to_one(self, requests: AsyncIterator[str], context: object) -> bytes:
        return self._seen(*[request async for request in requests])

    async def many_to_many(self, requests: AsyncIterator[str], context: object) -> AsyncIterator[bytes]:
        async for request in requests:
            yield self._seen(request)


KINDS = {
    "one_to_one": (grpc.unary_unary_rpc_method_handler, ["an-id 1 a"]),
    "one_to_many": (grpc.unary_stream_rpc_method_handler, ["an-id 1 a+0", "an-id 1 a+1"]),
    "many_to_one": (grpc.stream_unary_rpc_method_handler, ["an-id 1 a+b"]),
    "many_to_many": (grpc.stream_stream_rpc_method_handler, ["an-id 1 a", "an-id 1 b"]),
}


@asynccontextmanager
async def serving(observer: Noting, most: int = 8) -> AsyncIterator[tuple[grpc.aio.Channel, Calls]]:
    calls = Calls(most, observer=observer)
    methods = Methods(calls)
    handlers: dict[str, Any] = {name: make(getattr(methods, name), bytes.decode) for name, (make, _) in KINDS.items()}
    server = grpc.aio.server(interceptors=[NameCalls(observer), calls, RefuseUnreadable(observer)])
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("test.Kinds", handlers),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            yield channel, calls
    finally:
        await server.stop(None)


def open_call(channel: grpc.aio.Channel, kind: str, messages: Sequence[bytes]) -> grpc.aio.StreamStreamCall:
    """On the wire a call of every kind is a stream that is answered by a stream."""
    call = channel.stream_stream(f"/test.Kinds/{kind}")
    return call(iter(messages), timeout=TIMEOUT_S, metadata=(("x-request-id", "an-id"),))


@pytest.mark.parametrize("kind", KINDS)
def test_a_call_of_each_kind_is_counted_and_named(kind):
    async def ask() -> tuple[list[bytes], Any, int]:
        async with serving(observer) as (channel, calls):
            call = open_call(channel, kind, [b"a", b"b"] if kind.startswith("many") else [b"a"])
            answers = [answer async for answer in call]
            return answers, await call.trailing_metadata(), calls.in_progress

    observer = Noting()
    answers, trailing, left = asyncio.run(ask())
    assert [answer.decode() for answer in answers] == KINDS[kind][1]
    assert ("x-request-id", "an-id") in tuple(trailing)
    assert left == 0
    assert observer.called == [f"/test.Kinds/{kind} an-id"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("messages", "most", "drains", "code", "reason"),
    [
        ([b"\xff"], 8, False, grpc.StatusCode.INVALID_ARGUMENT, Refusal.UNREADABLE),
        ([b"a"], 0, False, grpc.StatusCode.RESOURCE_EXHAUSTED, Refusal.OVERLOADED),
        ([b"a"], 8, True, grpc.StatusCode.UNAVAILABLE, Refusal.DRAINING),
    ],
    ids=["unreadable", "too many", "draining"],
)
def test_a_call_of_each_kind_is_refused_alike(kind, messages, most, drains, code, reason):
    async def ask() -> None:
        async with serving(observer, most) as (channel, calls):
            if drains:
                await calls.drain(0)
            await open_call(channel, kind, messages).read()

    observer = Noting()
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        asyncio.run(ask())
    assert refused.value.code() is code
    assert observer.refused == [reason]


@pytest.mark.parametrize("kind", ["one_to_one", "one_to_many"])
def test_a_call_that_must_bring_a_message_and_brings_none_is_refused(kind):
    async def ask() -> None:
        async with serving(observer) as (channel, _):
            await open_call(channel, kind, []).read()

    observer = Noting()
    with pytest.raises(grpc.aio.AioRpcError, match=r"the call has no message\."):
        asyncio.run(ask())
    assert observer.refused == [Refusal.UNREADABLE]
