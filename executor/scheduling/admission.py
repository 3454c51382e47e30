"""How much may be inside the service at a time. What comes beyond is told so at once, before it costs anything.

Knows neither pictures nor the model.
"""

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager

from executor.errors import DocumentError, ErrorCode

_LONGEST_HINT_S = 60
_WEIGHT = 0.1
"""Of the newest document in the moving average of how long documents stay."""


class Admission:
    """Counts documents, from the loading of their pictures to their answers, and the bytes of their requests.

    For one event loop.

    Args:
        max_documents: most documents at a time.
        max_bytes: most bytes of requests at a time. A request that comes alone is let in whatever its size.
    """

    def __init__(self, max_documents: int, max_bytes: int) -> None:
        self._max_documents = max_documents
        self._max_bytes = max_bytes
        self._documents = 0
        self._bytes = 0
        self._stay_s = 0.0

    @property
    def documents(self) -> int:
        """Counts the documents in the service."""
        return self._documents

    @property
    def bytes(self) -> int:
        """Sums the bytes of the requests in the service."""
        return self._bytes

    def overload(self) -> DocumentError | None:
        """Returns what a document that comes now would be told, `OVERLOADED`; None where there is room for it."""
        if self._documents < self._max_documents:
            return None
        return self._overloaded(f"{self._max_documents} documents are in the service (max_queue)")

    @contextmanager
    def request(self, size: int) -> Iterator[None]:
        """Holds the memory of a request.

        Args:
            size: in bytes.

        Raises:
            DocumentError: `OVERLOADED`.
        """
        if self._bytes and self._bytes + size > self._max_bytes:
            raise self._overloaded(f"{self._max_bytes // 1_000_000} MB of requests are in the service (max_queue_mb)")
        self._bytes += size
        try:
            yield
        finally:
            self._bytes -= size

    @contextmanager
    def document(self) -> Iterator[None]:
        """Holds the place of a document.

        Raises:
            DocumentError: `OVERLOADED`.
        """
        if (overload := self.overload()) is not None:
            raise overload
        self._documents += 1
        since = time.monotonic()
        try:
            yield
        finally:
            self._documents -= 1
            self._stay_s += _WEIGHT * (time.monotonic() - since - self._stay_s)

    def _overloaded(self, what: str) -> DocumentError:
        # Whoever comes back after as long as a document stays finds a queue that has moved on by all that is in it.
        wait_s = min(max(1, math.ceil(self._stay_s)), _LONGEST_HINT_S)
        return DocumentError(ErrorCode.OVERLOADED, f"{what}; try again in {wait_s} s.")
