"""Mends of Jina: what the release that this service is tested with does wrong or not well enough for it.

Each mend is a function that says what is wrong and replaces as little of Jina as it can. They change classes of Jina
for the whole process, and leave every other Executor in it as it was. `apply` is called when the package is imported,
which on every way to start the service is before its server is built.
"""

import asyncio
import sys
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Generator, Iterator
from contextlib import aclosing
from typing import Any

import jina

from .errors import StartupError
from .overlap import overlapped

TESTED = "3.34.0"
_APPLIED = "_blip2_fixes_applied"


def apply() -> None:
    """Mends Jina, once in a process: the package may be loaded twice, since Jina loads it under a name of its own.

    A Jina of another release is left as it is, so that clients can import the package for its documents.
    """
    if jina.__version__ != TESTED or hasattr(jina, _APPLIED):
        return
    for mend in MENDS:
        mend()
    setattr(jina, _APPLIED, True)


def require() -> None:
    """For who serves.

    Raises:
        StartupError: the mends do not fit the installed Jina.
    """
    if jina.__version__ != TESTED:
        raise StartupError(
            f"this service mends Jina {TESTED} and was not tested with the installed {jina.__version__}; "
            f"install jina=={TESTED} (requirements.txt has it)."
        )


def overlap_requests_of_a_stream() -> None:
    """Without a gateway Jina answers the requests of one stream one after the other, and waits for each.

    A stock `client.post(inputs=documents, request_size=1)` sends one stream, so no two of its documents ever shared a
    batch. An Executor with an attribute `stream_documents` gets the next requests while that many documents are in
    flight; answers keep their order, and a client's `prefetch` is heeded, as a gateway does.
    """
    from jina.serve.runtimes.worker.request_handling import WorkerRequestHandler

    one_by_one = WorkerRequestHandler.stream

    async def stream(
        self: Any, request_iterator: AsyncIterator[Any], context: Any = None, *args: Any, **kwargs: Any
    ) -> AsyncGenerator[Any, None]:
        capacity = getattr(self._executor, "stream_documents", None)
        if capacity is None:
            answers = one_by_one(self, request_iterator, context, *args, **kwargs)
        else:

            async def answer(request: Any) -> Any:
                return await self.process_data([request], context)

            answers = overlapped(request_iterator, answer, _count_documents, capacity, _prefetch(context))
        async with aclosing(answers):
            async for response in answers:
                yield response

    WorkerRequestHandler.stream = WorkerRequestHandler.Call = stream


def _count_documents(request: Any) -> int:
    return len(request.proto_with_data.data.docs.docs)


def _prefetch(context: Any) -> int | None:
    """How many requests of its stream a client wants in flight at the same time, where it says so."""
    if context is not None:
        for key, value in context.invocation_metadata() or ():
            if key == "__prefetch__" and value.isdecimal() and int(value) > 0:
                return int(value)
    return None


def keep_order_behind_a_gateway() -> None:
    """A gateway sends answers as they come; where `results_in_order=True` asks for order it may wait for ever.

    It does so when the client ends its stream after the last answer. And whatever the order, what a client that left
    had asked for is computed to the end. Gateways started by a process that has imported this package keep the order
    always, with as many requests in flight as before, and cancel what nobody waits for. (Jina forks a gateway, or
    spawns it with the classes that its parent has.)
    """
    from jina._docarray import DocumentArray
    from jina.serve.runtimes.gateway import streamer
    from jina.serve.stream.helper import AsyncRequestsIterator

    class OrderedStreamer(streamer.RequestStreamer):
        async def _stream_requests(
            self,
            request_iterator: Iterator[Any] | AsyncIterator[Any],
            results_in_order: bool = False,
            prefetch: int | None = None,
            return_type: type[Any] = DocumentArray,
        ) -> AsyncGenerator[Any, None]:
            async def requests() -> AsyncIterator[Any]:
                async for request in AsyncRequestsIterator(
                    request_iterator, iterate_sync_in_thread=self._iterate_sync_in_thread
                ):
                    yield request
                if self._end_of_iter_handler is not None:
                    self._end_of_iter_handler()

            async def answer(request: Any) -> Any:
                response, floating = self._request_handler(request=request, return_type=return_type)
                if floating is not None:
                    self.total_num_floating_tasks_alive += 1
                    floating.add_done_callback(floating_is_done)
                return self._result_handler(await response)

            def floating_is_done(_: object) -> None:
                self.total_num_floating_tasks_alive -= 1

            capacity = prefetch or self._prefetch or sys.maxsize
            async with aclosing(overlapped(requests(), answer, lambda _: 1, capacity, capacity)) as answers:
                async for response in answers:
                    yield response

    streamer.RequestStreamer = OrderedStreamer


def cancel_what_a_gateway_has_sent() -> None:
    """A gateway that stops waiting for an Executor does not cancel its call, so the Executor computes to the end.

    It waits for the trailing metadata first, and only waiting for the response itself would cancel a call of gRPC.
    """
    from jina.proto.jina_pb2_grpc import JinaSingleDataRequestRPCStub
    from jina.serve.networking.connection_stub import _ConnectionStubs

    class Call:
        def __init__(self, call: Any) -> None:
            self._call = call

        async def trailing_metadata(self) -> Any:
            try:
                return await self._call.trailing_metadata()
            except asyncio.CancelledError:
                self._call.cancel()
                raise

        def __await__(self) -> Generator[Any, None, Any]:
            return self._call.__await__()  # type: ignore[no-any-return]

    class Stub:
        def __init__(self, channel: Any) -> None:
            self._stub = JinaSingleDataRequestRPCStub(channel)

        def process_single_data(self, *args: Any, **kwargs: Any) -> Call:
            return Call(self._stub.process_single_data(*args, **kwargs))

    _ConnectionStubs.STUB_MAPPING["jina.JinaSingleDataRequestRPC"] = Stub


MENDS: tuple[Callable[[], None], ...] = (
    overlap_requests_of_a_stream,
    keep_order_behind_a_gateway,
    cancel_what_a_gateway_has_sent,
)
