"""What the parts of the service tell about their work.

Knows nothing of who listens (`metrics` does), so that the parts need not either. All that can be told is of a fixed set
or a number: never a client's text.
"""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from enum import Enum
from typing import TYPE_CHECKING

from executor.errors import ErrorCode

if TYPE_CHECKING:  # pictures are loaded without a model
    from executor.model.engine import BatchReport


class Refusal(str, Enum):
    """Why a call was refused before its documents were read."""

    UNAUTHENTICATED = "unauthenticated"
    OVERLOADED = "overloaded"
    DRAINING = "draining"
    UNREADABLE = "unreadable"


class Source(str, Enum):
    """Where a picture comes from."""

    URL = "url"
    DATA = "data"
    BYTES = "bytes"
    FILE = "file"


class Observer:
    """Does not listen. Whoever does overrides what it wants to hear, and neither raises nor blocks.

    Called in the event loop, on threads that decode and on the device's thread. What belongs to a call, a request or a
    document is told in its `contextvars` context, on threads that decode too, but not on the device's.
    """

    def call(
        self, method: str, metadata: Sequence[tuple[str, str | bytes]], call_id: str, status: Callable[[], int | None]
    ) -> AbstractContextManager[object]:
        """Around a gRPC call, in a task of its own.

        Args:
            method: one that exists.
            metadata: the client's, and not to be trusted.
            call_id: see `request_ids`.
            status: the number of gRPC's status, to be asked for at the end; None where none was set.
        """
        return _NOTHING

    def request(self, request_id: str) -> AbstractContextManager[object]:
        """Around one request of a call that brings several, in a task of its own."""
        return _NOTHING

    def document(self, number: int, documents: int) -> AbstractContextManager[object]:
        """Around a document of a request, the first of which is 0, of so many."""
        return _NOTHING

    def current_document(self) -> object:
        """What `batch` will be given for the document within which this is asked."""
        return None

    def document_ended(self, code: ErrorCode | None, seconds: float) -> None:
        """A document has its answer, or its error `code`, so many seconds after its request arrived."""

    def documents_refused(self, documents: int) -> None:
        """There was no room for the documents of a request: each is told `OVERLOADED`."""

    def request_failed(self, code: ErrorCode) -> None:
        """A request has failed as a whole."""

    def call_refused(self, reason: Refusal) -> None:
        """A call was refused with a gRPC status."""

    def picture_asked(self, source: Source) -> None:
        """A picture is about to be loaded."""

    def fetching(self) -> AbstractContextManager[object]:
        """Around a fetch, from its wait for a place to its last byte or its failure."""
        return _NOTHING

    def decoding(self) -> AbstractContextManager[object]:
        """Around the decoding and resizing of a picture."""
        return _NOTHING

    def batch(self, documents: Sequence[object], waits_s: Sequence[float]) -> AbstractContextManager[object]:
        """Around a batch on the device's thread, until it is answered, in parts where it fails as a whole.

        Args:
            documents: what `current_document` returned for each.
            waits_s: seconds that each has waited for the device.
        """
        return _NOTHING

    def batch_answered(self, report: "BatchReport") -> None:
        """A batch, or a part of one that had failed, has its answers."""

    def close(self) -> None:
        """Nothing will be told any more."""


class Several(Observer):
    """Tells everything to several listeners.

    Args:
        listeners: of which `current_document` is the first one's that has any.
    """

    def __init__(self, listeners: Sequence[Observer]) -> None:
        self._listeners = tuple(listeners)

    def call(
        self, method: str, metadata: Sequence[tuple[str, str | bytes]], call_id: str, status: Callable[[], int | None]
    ) -> AbstractContextManager[object]:
        return _within([listener.call(method, metadata, call_id, status) for listener in self._listeners])

    def request(self, request_id: str) -> AbstractContextManager[object]:
        return _within([listener.request(request_id) for listener in self._listeners])

    def document(self, number: int, documents: int) -> AbstractContextManager[object]:
        return _within([listener.document(number, documents) for listener in self._listeners])

    def current_document(self) -> object:
        return next((it for each in self._listeners if (it := each.current_document()) is not None), None)

    def document_ended(self, code: ErrorCode | None, seconds: float) -> None:
        for listener in self._listeners:
            listener.document_ended(code, seconds)

    def documents_refused(self, documents: int) -> None:
        for listener in self._listeners:
            listener.documents_refused(documents)

    def request_failed(self, code: ErrorCode) -> None:
        for listener in self._listeners:
            listener.request_failed(code)

    def call_refused(self, reason: Refusal) -> None:
        for listener in self._listeners:
            listener.call_refused(reason)

    def picture_asked(self, source: Source) -> None:
        for listener in self._listeners:
            listener.picture_asked(source)

    def fetching(self) -> AbstractContextManager[object]:
        return _within([listener.fetching() for listener in self._listeners])

    def decoding(self) -> AbstractContextManager[object]:
        return _within([listener.decoding() for listener in self._listeners])

    def batch(self, documents: Sequence[object], waits_s: Sequence[float]) -> AbstractContextManager[object]:
        return _within([listener.batch(documents, waits_s) for listener in self._listeners])

    def batch_answered(self, report: "BatchReport") -> None:
        for listener in self._listeners:
            listener.batch_answered(report)

    def close(self) -> None:
        for listener in self._listeners:
            listener.close()


def _within(contexts: Sequence[AbstractContextManager[object]]) -> AbstractContextManager[object]:
    real = [context for context in contexts if context is not _NOTHING]
    if len(real) <= 1:
        return real[0] if real else _NOTHING
    stack = ExitStack()
    for context in real:
        stack.enter_context(context)
    return stack


_NOTHING: AbstractContextManager[object] = nullcontext()

SILENT = Observer()
"""For whom nobody listens to."""
