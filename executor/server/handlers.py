"""Handlers of gRPC calls, of all four kinds: how they are called, wrapped and refused.

A call brings one message or many, and gets one or many. An interceptor that knew two of these kinds would let the
others pass unseen, so here all of them become one: a stream that is answered by a stream. On the wire that is the
same.

Knows gRPC; knows neither Jina nor what is called.
"""

import asyncio
import inspect
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import aclosing, suppress
from functools import lru_cache
from typing import Any

import grpc

_MOST_WRAPPED = 64
"""Handlers that an interceptor keeps a wrapper for, so that not every call makes one: each method has one, and each
reason to refuse."""
LONGEST_WAIT_S = 1.0
"""For a client that is refused, or that calls in the moment when the server closes."""
_HEALTH = "/grpc.health.v1.Health/"
_MOST_WAITED_FOR = 16
"""Clients that are refused, at a time: each may bring a message of the largest size."""


class NoMessageError(Exception):
    """Says that a call which must bring one message has brought none."""


def is_health_check(method: str) -> bool:
    """Tells whether a method is gRPC's health, which is never refused.

    A probe that fails under load would have the service restarted for being busy.
    """
    return method.startswith(_HEALTH)


class CallInterceptor(grpc.aio.ServerInterceptor, ABC):
    """Puts something around the handlers of all calls but health checks."""

    def __init__(self) -> None:
        self.wrapped = lru_cache(_MOST_WRAPPED)(self.wrap)

    async def intercept_service(
        self, continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Any]], details: grpc.HandlerCallDetails
    ) -> Any:
        handler = await continuation(details)
        if handler is None or is_health_check(details.method):
            return handler
        return self.choose(details, handler)

    def choose(self, details: grpc.HandlerCallDetails, handler: Any) -> Any:
        """Returns the handler of one call: the wrapped one, or another."""
        return self.wrapped(details.method, handler)

    @abstractmethod
    def wrap(self, method: str, handler: Any) -> Any:
        """Returns a handler around `handler`; called once for each method and handler."""


def responses(
    handler: Any, requests: AsyncIterator[Any], context: grpc.aio.ServicerContext
) -> AsyncGenerator[Any, None]:
    """Calls a handler of any kind. Returns what yields its answers.

    Args:
        handler: whose functions are `async`.
        requests: of the call; a handler that takes one gets the first.

    Raises:
        NoMessageError: the handler takes one message and there is none; raised by what is returned.
    """
    if handler.stream_stream is not None and inspect.isasyncgenfunction(handler.stream_stream):
        return handler.stream_stream(requests, context)  # type: ignore[no-any-return]  # a layer less in every call
    return _responses_of_any_kind(handler, requests, context)


async def _responses_of_any_kind(
    handler: Any, requests: AsyncIterator[Any], context: grpc.aio.ServicerContext
) -> AsyncGenerator[Any, None]:
    if handler.request_streaming:
        call = handler.stream_stream or handler.stream_unary
        brought: Any = requests
    else:
        call = handler.unary_stream or handler.unary_unary
        brought = await anext(requests, _NONE)
        if brought is _NONE:
            raise NoMessageError
    answer = call(brought, context)
    if not handler.response_streaming:
        yield await answer
    elif hasattr(answer, "__aiter__"):
        async with aclosing(answer):
            async for response in answer:
                yield response
    else:  # it writes to the context by itself
        await answer


def as_stream(handler: Any, respond: Callable[..., AsyncIterator[Any]], reads_bytes: bool = False) -> Any:
    """Makes a handler of streams that takes and gives what `handler` does.

    Args:
        respond: takes the requests and the context, yields the responses.
        reads_bytes: whether `respond` gets messages as they came.
    """
    deserialise = None if reads_bytes else handler.request_deserializer
    return grpc.stream_stream_rpc_method_handler(respond, deserialise, handler.response_serializer)


def aborting(code: grpc.StatusCode, details: str, tell: Callable[[], None] = lambda: None) -> Any:
    """Makes a handler that ends any kind of call with a status, and drops what the call brings.

    A client of grpc.aio, as Jina's is, that is still sending when its call ends hears INTERNAL and not why: so the
    end waits until it has sent everything, though not for long, and not for many clients.

    Args:
        tell: called for each call.
    """
    waited_for = 0

    async def abort(messages: AsyncIterator[bytes], context: grpc.aio.ServicerContext) -> None:
        nonlocal waited_for
        tell()
        if waited_for < _MOST_WAITED_FOR:
            waited_for += 1
            try:
                with suppress(asyncio.TimeoutError):
                    await asyncio.wait_for(_drop(messages), LONGEST_WAIT_S)
            finally:
                waited_for -= 1
        await context.abort(code, details)

    return grpc.stream_stream_rpc_method_handler(abort)


async def _drop(messages: AsyncIterator[bytes]) -> None:
    async for _ in messages:
        pass


_NONE = object()
