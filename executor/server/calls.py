"""Calls in progress: how many there may be, and waiting for their end.

Knows gRPC's interceptors, and of Jina two names: of the method that brings one request, and of the metadata that its
gateways send. Knows nothing of what is called.
"""

import asyncio
import math
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import aclosing, contextmanager, suppress
from typing import Any

import grpc

from executor.errors import ErrorCode
from executor.server.handlers import LONGEST_WAIT_S, CallInterceptor, aborting, as_stream, responses
from executor.telemetry.observer import SILENT, Observer, Refusal

_ONE_REQUEST = "/jina.JinaSingleDataRequestRPC/process_single_data"
_OF_A_GATEWAY = "endpoint"
"""The metadata that a gateway of Jina sends with each request."""
_NO_ROOM = f"{ErrorCode.OVERLOADED.value}: there is no room for more documents; try again in a second."
_QUIET_S = 0.1
_DETAILED_REFUSALS_PER_S = 10
"""To read a message only to refuse each of its documents takes 0.7 ms of CPU, three times what a status takes."""


class Allowance:
    """Allows so many a second, and no more than that at once.

    Args:
        per_s: how many.
    """

    def __init__(self, per_s: float) -> None:
        self._per_s = self._left = per_s
        self._since_s = time.monotonic()

    def take(self) -> bool:
        """Tells whether one is left, which then is not any more."""
        now_s = time.monotonic()
        self._left = min(self._per_s, self._left + (now_s - self._since_s) * self._per_s)
        self._since_s = now_s
        if self._left < 1:
            return False
        self._left -= 1
        return True


class Calls(CallInterceptor):
    """Counts the calls in progress, all but health checks, and refuses those beyond a limit with RESOURCE_EXHAUSTED.

    Calls that bring one request are refused too, before it is received, where what they bring would be refused anyway
    and more of that comes than can be told document by document. Not a gateway's: it would fail others with them.

    Args:
        most: calls in progress.
        overload: returns what a document that comes now would be told; None where there is room for it.
        observer: told of refusals.
    """

    def __init__(
        self, most: int, overload: Callable[[], str | None] = lambda: None, observer: Observer = SILENT
    ) -> None:
        super().__init__()
        self._most = most
        self._overload = overload
        self._detailed_refusals = Allowance(_DETAILED_REFUSALS_PER_S)
        self._in_progress = 0
        self._is_draining = False
        self._none_left = asyncio.Event()
        self._last_refused_s = -math.inf
        self._too_many = aborting(
            grpc.StatusCode.RESOURCE_EXHAUSTED,
            f"{ErrorCode.OVERLOADED.value}: {most} calls are in progress (max_calls); try again in a second.",
            lambda: observer.call_refused(Refusal.OVERLOADED),
        )

        async def end_at_once(_: AsyncIterator[bytes], context: grpc.aio.ServicerContext) -> None:
            observer.call_refused(Refusal.OVERLOADED)
            await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, overload() or _NO_ROOM)

        self._flood = grpc.stream_stream_rpc_method_handler(end_at_once)
        self._shutting_down = aborting(
            grpc.StatusCode.UNAVAILABLE,
            "the service is shutting down; try again, or elsewhere.",
            lambda: observer.call_refused(Refusal.DRAINING),
        )

    @property
    def in_progress(self) -> int:
        """Counts the calls that have not ended. To be read on any thread."""
        return self._in_progress

    @property
    def is_draining(self) -> bool:
        """Tells whether new calls are refused. To be read on any thread."""
        return self._is_draining

    def choose(self, details: grpc.HandlerCallDetails, handler: Any) -> Any:
        """Returns a handler that counts the call, or one that refuses it."""
        if self._is_draining:
            self._last_refused_s = time.monotonic()
            return self._shutting_down
        if self._in_progress >= self._most:
            return self._too_many
        if self._is_of_a_flood(details):
            return self._flood
        return super().choose(details, handler)

    async def drain(self, timeout_s: float) -> int:
        """Refuses new calls with UNAVAILABLE and waits for the end of the others. Returns how many have not ended."""
        self._is_draining = True
        if self._in_progress:
            self._none_left.clear()
            with suppress(asyncio.TimeoutError):  # the number says it
                await asyncio.wait_for(self._none_left.wait(), timeout_s)
        return self._in_progress

    async def wait_for_quiet(self) -> None:
        """Waits until nobody has called for a moment, though not for long. The server may be closed then.

        gRPC tells CANCELLED to calls that arrive just when a server closes, whose clients may take it for something
        other than a service that ends.
        """
        end_s = time.monotonic() + LONGEST_WAIT_S
        while (now_s := time.monotonic()) < end_s and now_s - self._last_refused_s < _QUIET_S:  # noqa: ASYNC110 - no event
            await asyncio.sleep(_QUIET_S / 4)

    def _is_of_a_flood(self, details: grpc.HandlerCallDetails) -> bool:
        return (
            details.method == _ONE_REQUEST
            and self._overload() is not None
            and all(key != _OF_A_GATEWAY for key, _ in details.invocation_metadata or ())
            and not self._detailed_refusals.take()
        )

    def wrap(self, method: str, handler: Any) -> Any:
        """Returns a handler that counts its calls."""

        async def counted(requests: AsyncIterator[Any], context: grpc.aio.ServicerContext) -> AsyncIterator[Any]:
            if self._is_draining:  # it has begun since this call was let in
                await self._shutting_down.stream_stream(requests, context)
            with self._one_more():
                async with aclosing(responses(handler, requests, context)) as answers:
                    async for response in answers:
                        yield response

        return as_stream(handler, counted)

    @contextmanager
    def _one_more(self) -> Iterator[None]:
        self._in_progress += 1
        try:
            yield
        finally:
            self._in_progress -= 1
            if not self._in_progress:
                self._none_left.set()
