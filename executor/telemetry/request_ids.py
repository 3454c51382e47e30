"""One id for all that a call leaves behind: in the log, in spans, and in the reply.

A client names its call in the metadata `x-request-id`; where it does not, or not well, the service does. The call's own
metadata bring the name back. Of a stream each request has the id of the call, a `/` and a number that grows; those that
travel together (`jina_fixes.merging`) share one.

Knows gRPC's interceptors, and neither Jina nor what is called.
"""

import inspect
import itertools
import re
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator
from contextlib import aclosing
from contextvars import ContextVar
from functools import lru_cache
from typing import Any

import grpc

from executor.server.calls import MOST_HANDLERS, is_health_check
from executor.telemetry.observer import SILENT, Observer

KEY = "x-request-id"
_WELL_FORMED = re.compile(r"[A-Za-z0-9._:=@+-]{1,64}")
"""What others make: UUIDs, ULIDs, trace ids. Without `/`, which is for streams, and what a log could be forged with."""

_call: ContextVar[tuple[str, Iterator[int]] | None] = ContextVar("call", default=None)
_request: ContextVar[str | None] = ContextVar("request", default=None)


def current() -> str | None:
    """The id of the request, or the call, within which this is asked; None outside of any."""
    return _request.get()


def next_of_stream() -> str:
    """The id of the next request of the current call, which is `current` in this task from now on."""
    call = _call.get()
    request_id = f"{call[0]}/{next(call[1])}" if call is not None else _new()
    _request.set(request_id)
    return request_id


def chosen(metadata: Iterable[tuple[str, str | bytes]]) -> str:
    """The client's id where it is well-formed, else a new one."""
    for key, value in metadata:
        if key == KEY:
            return value if isinstance(value, str) and _WELL_FORMED.fullmatch(value) else _new()
    return _new()


def _new() -> str:
    return secrets.token_hex(8)


def _status(context: grpc.aio.ServicerContext) -> int | None:
    code = context.code()
    if code is None:
        return None
    return int(code.value[0] if isinstance(code, grpc.StatusCode) else code)


class NameCalls(grpc.aio.ServerInterceptor):
    """Gives every call but health checks its id, and tells of it. The first interceptor, so that refusals have one.

    Args:
        observer: told of calls.
    """

    def __init__(self, observer: Observer = SILENT) -> None:
        self._observer = observer
        self._wrapped = lru_cache(MOST_HANDLERS)(self._named)

    async def intercept_service(
        self, continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Any]], details: grpc.HandlerCallDetails
    ) -> Any:
        handler = await continuation(details)
        if handler is None or handler.stream_stream is None or is_health_check(details.method):
            return handler
        return self._wrapped(details.method, handler)

    def _named(self, method: str, handler: Any) -> Any:
        is_generator = inspect.isasyncgenfunction(handler.stream_stream)

        async def named(messages: AsyncIterator[Any], context: grpc.aio.ServicerContext) -> AsyncIterator[Any]:
            metadata = tuple(context.invocation_metadata() or ())
            call_id = chosen(metadata)
            # In the task of this call alone, so they need not be set back.
            _call.set((call_id, itertools.count(1)))
            _request.set(call_id)
            ours = ((KEY, call_id),)
            context.set_trailing_metadata(ours)
            with self._observer.call(method, metadata, call_id, lambda: _status(context)):
                if is_generator:
                    async with aclosing(handler.stream_stream(messages, context)) as answers:
                        async for response in answers:
                            yield response
                else:
                    await handler.stream_stream(messages, context)
            if (others := tuple(context.trailing_metadata())) != ours:  # Jina sets its own where a request fails
                context.set_trailing_metadata((*others, *ours))

        return handler._replace(stream_stream=named)
