"""Gives every call its id, and has the reply carry it back.

Knows gRPC's interceptors; what an id is, `telemetry.request_ids` knows.
"""

from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any

import grpc

from executor.server.handlers import CallInterceptor, as_stream, responses
from executor.telemetry import request_ids
from executor.telemetry.observer import SILENT, Observer


class NameCalls(CallInterceptor):
    """Gives every call but health checks its id, and tells of it. The first interceptor, so that refusals have one.

    The call's metadata `x-request-id` bring the client's name for it, and its trailing metadata bring it back.

    Args:
        observer: told of calls.
    """

    def __init__(self, observer: Observer = SILENT) -> None:
        super().__init__()
        self._observer = observer

    def wrap(self, method: str, handler: Any) -> Any:
        """Returns a handler that gives its calls an id."""

        async def named(messages: AsyncIterator[Any], context: grpc.aio.ServicerContext) -> AsyncIterator[Any]:
            metadata = tuple(context.invocation_metadata() or ())
            call_id = request_ids.chosen(metadata)
            request_ids.begin_call(call_id)
            ours = ((request_ids.KEY, call_id),)
            context.set_trailing_metadata(ours)
            with self._observer.call(method, metadata, call_id, lambda: _status(context)):
                async with aclosing(responses(handler, messages, context)) as answers:
                    async for response in answers:
                        yield response
            if (others := tuple(context.trailing_metadata())) != ours:  # Jina sets its own where a request fails
                context.set_trailing_metadata((*others, *ours))

        return as_stream(handler, named)


def _status(context: grpc.aio.ServicerContext) -> int | None:
    code = context.code()
    if code is None:
        return None
    return int(code.value[0] if isinstance(code, grpc.StatusCode) else code)
