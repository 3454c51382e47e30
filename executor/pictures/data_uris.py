"""`data:` URIs, base64 and percent-encoded (RFC 2397) -> bytes.

Knows the syntax. It must not know what the bytes are.
"""

import base64
import binascii
from collections.abc import Iterator
from urllib.parse import unquote_to_bytes

from executor.errors import DocumentError, ErrorCode

_STEP = 64 * 1024
_WHITE_SPACE = b" \t\n\f\r"


def decode(uri: str, max_bytes: int) -> bytes:
    """Decodes the bytes in a `data:` URI.

    The media type is not read: the bytes decide. White space and missing padding in base64 are forgiven.

    Args:
        uri: begins with `data:`, in any case of letters.
        max_bytes: most bytes that are of use; the reading ends soon after them.

    Returns:
        The bytes. More than `max_bytes` of them tell only that there are too many.

    Raises:
        DocumentError: `NOT_AN_IMAGE` where the URI is malformed.
    """
    header, comma, payload = uri.partition(",")
    if not comma:
        raise DocumentError(ErrorCode.NOT_AN_IMAGE, "the data: URI has no comma; write data:image/png;base64,...")
    is_base64 = header.replace(" ", "").lower().endswith(";base64")
    encoded = bytearray()
    for piece in _unquoted(payload):
        encoded += piece.translate(None, _WHITE_SPACE) if is_base64 else piece
        if len(encoded) > (max_bytes * 4 // 3 + 8 if is_base64 else max_bytes):
            return bytes(encoded[: max_bytes + 1])
    if not is_base64:
        return bytes(encoded)
    try:
        return base64.b64decode(encoded + b"=" * (-len(encoded) % 4), validate=True)
    except binascii.Error:
        raise DocumentError(ErrorCode.NOT_AN_IMAGE, "the data: URI is not valid base64.") from None


def _unquoted(text: str) -> Iterator[bytes]:
    """In pieces: `unquote_to_bytes` needs a hundred times the memory of what it is given."""
    start = 0
    while start < len(text):
        end = min(start + _STEP, len(text))
        if end < len(text):
            escape = text.find("%", end - 2, end)  # is not cut in two
            end = end if escape == -1 else escape
        yield unquote_to_bytes(text[start:end].encode("utf-8", "surrogatepass"))
        start = end
