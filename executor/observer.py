"""What the parts of the service tell about their work.

Knows nothing of who listens (`metrics` does), so that the parts need not either. All that can be told is of a fixed set
or a number: never a client's text.
"""

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from enum import Enum
from typing import TYPE_CHECKING

from .errors import ErrorCode

if TYPE_CHECKING:  # pictures are loaded without a model
    from .engine import BatchReport


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

    Called in the event loop, on threads that decode and on the device's thread.
    """

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

    def batch_started(self, waits_s: Sequence[float]) -> None:
        """A batch is taken to the device, whose documents have waited so many seconds each."""

    def batch_answered(self, report: "BatchReport") -> None:
        """A batch has its answers."""


_NOTHING: AbstractContextManager[object] = nullcontext()

SILENT = Observer()
"""For whom nobody listens to."""
