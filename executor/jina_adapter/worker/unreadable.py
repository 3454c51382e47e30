"""What arrives on Jina's gRPC methods: read at once, and refused in few words where it cannot be read."""

import logging
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from functools import lru_cache
from typing import Any

import grpc

from executor.server.calls import MOST_HANDLERS, is_health_check
from executor.telemetry.observer import SILENT, Observer, Refusal

_log = logging.getLogger(__name__)


class TerseErrors(grpc.aio.ServerInterceptor):
    """Jina reads requests late, and gRPC tells clients of an exception its class and its text.

    Here every request is read before Jina gets it. Methods that take one request become methods that take a stream, of
    which they read one: so a call is in the handler's hands, and can be counted, from its first byte.

    Args:
        observer: told of calls that cannot be read.
    """

    def __init__(self, observer: Observer = SILENT) -> None:
        self._observer = observer
        self._wrapped = lru_cache(MOST_HANDLERS)(self._terse)

    async def intercept_service(
        self, continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Any]], details: grpc.HandlerCallDetails
    ) -> Any:
        handler = await continuation(details)
        if (
            handler is None
            or is_health_check(details.method)
            or handler.request_streaming != handler.response_streaming
        ):
            return handler
        return self._wrapped(handler)

    def _terse(self, handler: Any) -> Any:
        answers_to = _stream if handler.request_streaming else _one

        async def answer(messages: AsyncIterator[bytes], context: grpc.aio.ServicerContext) -> AsyncIterator[Any]:
            try:
                async with aclosing(answers_to(handler, _readable(handler, messages), context)) as answers:
                    async for response in answers:
                        yield response
            except _UnreadableError as error:
                self._observer.call_refused(Refusal.UNREADABLE)
                await context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(error))
            except grpc.aio.AbortError:
                raise
            except Exception:  # noqa: BLE001 - whatever it is, it is logged
                _log.exception("unexpected error in a call")
                await context.abort(grpc.StatusCode.INTERNAL, "the service failed on this call; tell its operator.")

        return grpc.stream_stream_rpc_method_handler(answer, None, handler.response_serializer)


class _UnreadableError(Exception):
    """`str()` of it is what the client reads."""


async def _one(
    handler: Any, requests: AsyncIterator[Any], context: grpc.aio.ServicerContext
) -> AsyncGenerator[Any, None]:
    async for request in requests:
        yield await handler.unary_unary(request, context)
        return
    raise _UnreadableError("the call has no message.")


def _stream(handler: Any, requests: AsyncIterator[Any], context: grpc.aio.ServicerContext) -> AsyncGenerator[Any, None]:
    return handler.stream_stream(requests, context)  # type: ignore[no-any-return]


async def _readable(handler: Any, messages: AsyncIterator[bytes]) -> AsyncIterator[Any]:
    async for message in messages:
        try:
            request = handler.request_deserializer(message)
            # Jina's requests are read when this is asked for. Of a list it takes the first for granted.
            getattr(request[0] if isinstance(request, list) else request, "proto_with_data", None)
        except Exception:  # noqa: BLE001 - whatever it is, the message is at fault
            raise _UnreadableError("the message is not what this method takes, it cannot be read.") from None
        yield request
