"""Streams of requests to an Executor without a gateway."""

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from typing import Any

from executor.jina_adapter.contract import contract_of
from executor.jina_adapter.merging import LEAST_PREFETCH, answered_together, count_documents
from executor.scheduling.overlap import overlapped


def overlap_requests_of_a_stream() -> None:
    """Answers several requests of a stream at a time, in order.

    Without a gateway Jina answers them one after the other, and waits for each. A stock `client.post(inputs=documents,
    request_size=1)` sends one stream, so no two of its documents ever shared a batch. An Executor that keeps the
    contract gets the next requests while `stream_documents` documents are in flight; answers keep their order, and a
    client's `prefetch` is heeded, as a gateway does. What has arrived while that many are in flight goes on together.
    Its `request_of_stream` is around whatever goes on.
    """
    from jina.serve.runtimes.worker.request_handling import WorkerRequestHandler

    one_by_one = WorkerRequestHandler.stream

    async def stream(
        self: Any, request_iterator: AsyncIterator[Any], context: Any = None, *args: Any, **kwargs: Any
    ) -> AsyncGenerator[Any, None]:
        served = contract_of(self._executor)
        if served is None:
            answers = one_by_one(self, request_iterator, context, *args, **kwargs)
        else:

            async def answer(request: Any) -> Any:
                with served.request_of_stream():
                    return await self.process_data([request], context)

            prefetch, capacity = _prefetch(context), served.stream_documents
            if prefetch is None or prefetch >= LEAST_PREFETCH:
                answers = answered_together(request_iterator, answer, capacity, max(1, capacity // 4))
            else:
                answers = overlapped(request_iterator, answer, count_documents, capacity, prefetch)
        async with aclosing(answers):
            async for response in answers:
                yield response

    WorkerRequestHandler.stream = WorkerRequestHandler.Call = stream


def _prefetch(context: Any) -> int | None:
    """How many requests of its stream a client wants in flight at the same time, where it says so."""
    if context is not None:
        for key, value in context.invocation_metadata() or ():
            if key == "__prefetch__" and value.isdecimal() and int(value) > 0:
                return int(value)
    return None
