"""What the parts of the service tell about their work.

Knows nothing of who listens (`metrics` and `tracing` do), so that the parts need not either. All that can be told is of
a fixed set or a number: never a client's text. A new event is one method of `Observer`.
"""

import functools
import inspect
import logging
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from enum import Enum
from types import TracebackType
from typing import Any, NamedTuple

from executor.errors import ErrorCode

_log = logging.getLogger(__name__)


class Refusal(str, Enum):
    """Says why a call was refused before its documents were read."""

    UNAUTHENTICATED = "unauthenticated"
    OVERLOADED = "overloaded"
    DRAINING = "draining"
    UNREADABLE = "unreadable"


class Source(str, Enum):
    """Says where a picture comes from."""

    URL = "url"
    DATA = "data"
    BYTES = "bytes"
    FILE = "file"


class StageTimes(NamedTuple):
    """Holds how long the stages of one batch took on the device.

    Attributes:
        encode_s: seconds of encoding pictures; 0 where all of them came from the cache.
        prefill_s: seconds of encoding prompts.
        decode_s: seconds of all steps of the answers.
        steps: of the answers, one token each.
        tokens: of all answers together, their ends among them, without padding.
    """

    encode_s: float
    prefill_s: float
    decode_s: float
    steps: int
    tokens: int


@dataclass(frozen=True)
class BatchReport:
    """Says what a batch was and how long it took.

    Attributes:
        documents: answered.
        encoded: pictures that were in no cache.
        times: of its stages on the device.
    """

    documents: int
    encoded: int
    times: StageTimes


class Observer:
    """Does not listen. Whoever does overrides what it wants to hear, and does not block.

    Called in the event loop, on threads that decode and on the device's thread. What belongs to a call, a request or a
    document is told in its `contextvars` context, on threads that decode too, but not on the device's.
    """

    def call(
        self, method: str, metadata: Sequence[tuple[str, str | bytes]], call_id: str, status: Callable[[], int | None]
    ) -> AbstractContextManager[object]:
        """Surrounds a gRPC call, in a task of its own.

        Args:
            method: one that exists.
            metadata: the client's, and not to be trusted.
            call_id: see `request_ids`.
            status: the number of gRPC's status, to be asked for at the end; None where none was set.
        """
        return _NOTHING

    def request(self, request_id: str) -> AbstractContextManager[object]:
        """Surrounds one request of a call that brings several, in a task of its own."""
        return _NOTHING

    def document(self, number: int, documents: int) -> AbstractContextManager[object]:
        """Surrounds a document of a request, the first of which is 0, of so many."""
        return _NOTHING

    def current_document(self) -> object:
        """Returns what `batch` will be given for the document within which this is asked."""
        return None

    def document_ended(self, code: ErrorCode | None, seconds: float) -> None:
        """Says that a document has its answer, or its error `code`, so many seconds after its request arrived."""

    def documents_refused(self, documents: int) -> None:
        """Says that there was no room for the documents of a request: each is told `OVERLOADED`."""

    def request_failed(self, code: ErrorCode) -> None:
        """Says that a request has failed as a whole."""

    def call_refused(self, reason: Refusal) -> None:
        """Says that a call was refused with a gRPC status."""

    def picture_asked(self, source: Source) -> None:
        """Says that a picture is about to be loaded."""

    def fetching(self) -> AbstractContextManager[object]:
        """Surrounds a fetch, from its wait for a slot to its last byte or its failure."""
        return _NOTHING

    def decoding(self) -> AbstractContextManager[object]:
        """Surrounds the decoding and resizing of a picture."""
        return _NOTHING

    def batch(self, documents: Sequence[object], waits_s: Sequence[float]) -> AbstractContextManager[object]:
        """Surrounds a batch on the device's thread, until it is answered, in parts where it fails as a whole.

        Args:
            documents: what `current_document` returned for each.
            waits_s: seconds that each has waited for the device.
        """
        return _NOTHING

    def batch_answered(self, report: BatchReport) -> None:
        """Says that a batch, or a part of one that had failed, has its answers."""

    def close(self) -> None:
        """Says that nothing will be told any more."""


class Observers(Observer):
    """Tells everything to several listeners, none of which can harm the work that it is told of.

    What a listener raises is logged, once for each listener, and goes no further: this is the one guard between the
    service and whoever listens to it.

    Args:
        listeners: `current_document` is the first one's that has any.
    """

    def __init__(self, listeners: Sequence[Observer]) -> None:
        self._listeners = tuple(_Guarded(listener) for listener in listeners)

    def current_document(self) -> object:
        """Returns the first listener's that has any."""
        answers = (listener.tell("current_document") for listener in self._listeners)
        return next((answer for answer in answers if answer is not None), None)


class _Guarded:
    """A listener that cannot raise."""

    def __init__(self, listener: Observer) -> None:
        self._listener = listener
        self._has_failed = False

    def tell(self, event: str, *args: Any, **kwargs: Any) -> Any:
        return self.try_to(getattr(self._listener, event), *args, **kwargs)

    def try_to(self, do: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """What `do` returns; None where it raises."""
        try:
            return do(*args, **kwargs)
        except Exception:  # noqa: BLE001 - a document is worth more than its being counted
            if not self._has_failed:
                _log.exception(f"{type(self._listener).__name__} failed; further failures of it are not logged")
            self._has_failed = True
            return None


class _All:
    """The contexts of all listeners, entered in their order and left in the opposite one."""

    __slots__ = ("_around", "_entered")

    def __init__(self, around: Sequence[tuple[_Guarded, AbstractContextManager[object]]]) -> None:
        self._around = around

    def __enter__(self) -> None:
        self._entered = [(listener, context) for listener, context in self._around if listener.try_to(_enter, context)]

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for listener, context in reversed(self._entered):
            listener.try_to(context.__exit__, kind, error, traceback)


def _enter(context: AbstractContextManager[object]) -> bool:
    context.__enter__()
    return True


def _told_to_all(event: str) -> Callable[..., Any]:
    @functools.wraps(getattr(Observer, event))
    def tell(self: Observers, *args: Any, **kwargs: Any) -> AbstractContextManager[object] | None:
        answers = [(listener, listener.tell(event, *args, **kwargs)) for listener in self._listeners]
        around = [(listener, answer) for listener, answer in answers if answer is not None and answer is not _NOTHING]
        return _All(around) if around else _NOTHING

    return tell


for _event, _ in inspect.getmembers(Observer, inspect.isfunction):
    if not _event.startswith("_") and _event not in vars(Observers):
        setattr(Observers, _event, _told_to_all(_event))

_NOTHING: AbstractContextManager[object] = nullcontext()

SILENT = Observer()
"""For whom nobody listens to."""
