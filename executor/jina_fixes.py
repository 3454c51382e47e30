"""Mends of Jina: what the release that this service is tested with does wrong or not well enough for it.

Each mend is a function that says what is wrong and replaces as little of Jina as it can. They change classes of Jina
for the whole process, and leave every other Executor in it as it was. `apply` is called when the package is imported,
which on every way to start the service is before its server is built.
"""

from collections.abc import AsyncGenerator, AsyncIterator, Callable
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


MENDS: tuple[Callable[[], None], ...] = (overlap_requests_of_a_stream,)
