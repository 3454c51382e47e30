"""The body of a reply as it was before its server compressed it.

Knows zlib and the names of Content-Encoding. It must not know HTTP clients, limits, or what the bytes are.
"""

import zlib
from collections.abc import Iterator
from typing import Any

from executor.errors import DocumentError, ErrorCode

_PIECE_BYTES = 256 * 1024
"""Inflated at a time: about a millisecond of the event loop."""


class Inflater:
    """Inflates a body in pieces of bounded size.

    The service asks for no compression. Some servers compress all the same.

    Args:
        encoding: the reply's Content-Encoding; `identity` or an empty one where it has none.

    Raises:
        DocumentError: `FETCH_REFUSED`, where it is neither gzip nor deflate.
    """

    def __init__(self, encoding: str) -> None:
        encoding = encoding.strip().lower()
        if encoding not in ("", "identity", "gzip", "x-gzip", "deflate"):
            raise DocumentError(
                ErrorCode.FETCH_REFUSED, "the server of the image URL sends a Content-Encoding that was not asked for."
            )
        self._compressed = encoding not in ("", "identity")
        self._stream = _new_stream()
        self._empty = True

    def pieces(self, chunk: bytes) -> Iterator[bytes]:
        """Yields what the next chunk of the body inflates to; a chunk that is not compressed as it is.

        Raises:
            zlib.error: the compressed data is damaged.
        """
        if not self._compressed:
            yield chunk
            return
        while chunk:
            if self._stream.eof:  # gzip may have several members
                self._stream = _new_stream()
            self._empty = False
            yield self._stream.decompress(chunk, _PIECE_BYTES)
            chunk = self._stream.unused_data if self._stream.eof else self._stream.unconsumed_tail

    def check_complete(self) -> None:
        """Checks, after the last chunk, that the compressed data has its end.

        Raises:
            zlib.error: it breaks off.
        """
        if self._compressed and not self._empty and not self._stream.eof:
            raise zlib.error("the stream breaks off")


def _new_stream() -> Any:
    return zlib.decompressobj(wbits=zlib.MAX_WBITS | 32)  # gzip and zlib, whichever it is
