"""What arrives on Jina's gRPC methods: read at once, and refused in few words where it cannot be read."""

import logging
from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any

import grpc

from executor.server.handlers import CallInterceptor, NoMessageError, as_stream, responses
from executor.telemetry.observer import SILENT, Observer, Refusal

_log = logging.getLogger(__name__)


class RefuseUnreadable(CallInterceptor):
    """Reads every request before Jina gets it, and refuses in few words what cannot be read.

    Jina reads requests late, and gRPC tells clients of an exception its class and its text. The innermost interceptor:
    it gets messages as they came, so a call is in its hands, and can be counted, from its first byte.

    Args:
        observer: told of calls that cannot be read.
    """

    def __init__(self, observer: Observer = SILENT) -> None:
        super().__init__()
        self._observer = observer

    def wrap(self, method: str, handler: Any) -> Any:
        """Returns a handler that reads its messages before it calls `handler`."""

        async def answer(messages: AsyncIterator[bytes], context: grpc.aio.ServicerContext) -> AsyncIterator[Any]:
            try:
                async with aclosing(responses(handler, _readable(handler, messages), context)) as answers:
                    async for response in answers:
                        yield response
            except NoMessageError:
                await self._refuse(context, "the call has no message.")
            except _UnreadableError:
                await self._refuse(context, "the message is not what this method takes, it cannot be read.")
            except grpc.aio.AbortError:
                raise
            except Exception:  # noqa: BLE001 - whatever it is, it is logged
                _log.exception("unexpected error in a call")
                await context.abort(grpc.StatusCode.INTERNAL, "the service failed on this call; tell its operator.")

        return as_stream(handler, answer, reads_bytes=True)

    async def _refuse(self, context: grpc.aio.ServicerContext, why: str) -> None:
        self._observer.call_refused(Refusal.UNREADABLE)
        await context.abort(grpc.StatusCode.INVALID_ARGUMENT, why)


class _UnreadableError(Exception):
    pass


async def _readable(handler: Any, messages: AsyncIterator[bytes]) -> AsyncIterator[Any]:
    async for message in messages:
        try:
            request = handler.request_deserializer(message)
            # Jina's requests are read when this is asked for. Of a list it takes the first for granted.
            getattr(request[0] if isinstance(request, list) else request, "proto_with_data", None)
        except Exception:  # noqa: BLE001 - whatever it is, the message is at fault
            raise _UnreadableError from None
        yield request
