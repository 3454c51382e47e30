"""Every error that a client can see, and the one that an operator sees at start.

Inside the service a fault of one document is a `DocumentError`, raised once, where the cause is known. At the edge it
becomes the text of `Response.error`: `CODE: what is wrong and what to do`. Nothing else about the server reaches a
client: no path, no traceback, no exception class.
"""

from enum import Enum


class ErrorCode(str, Enum):
    """Names every error that a client can see. Stable: clients may compare them; docs/errors.md says what to do."""

    # The picture
    NO_IMAGE = "NO_IMAGE"
    UNSUPPORTED_SCHEME = "UNSUPPORTED_SCHEME"
    INVALID_URL = "INVALID_URL"
    ADDRESS_NOT_ALLOWED = "ADDRESS_NOT_ALLOWED"
    FILE_NOT_ALLOWED = "FILE_NOT_ALLOWED"
    IMAGE_NOT_FOUND = "IMAGE_NOT_FOUND"
    FETCH_REFUSED = "FETCH_REFUSED"
    FETCH_FAILED = "FETCH_FAILED"
    FETCH_TIMED_OUT = "FETCH_TIMED_OUT"
    TOO_MANY_REDIRECTS = "TOO_MANY_REDIRECTS"
    IMAGE_TOO_LARGE = "IMAGE_TOO_LARGE"
    TOO_MANY_PIXELS = "TOO_MANY_PIXELS"
    NOT_AN_IMAGE = "NOT_AN_IMAGE"
    CORRUPT_IMAGE = "CORRUPT_IMAGE"
    # The question
    EMPTY_PROMPT = "EMPTY_PROMPT"
    PROMPT_TOO_LONG = "PROMPT_TOO_LONG"
    INVALID_OPTIONS = "INVALID_OPTIONS"
    INVALID_DOCUMENT = "INVALID_DOCUMENT"
    # The service
    OVERLOADED = "OVERLOADED"
    OUT_OF_MEMORY = "OUT_OF_MEMORY"
    DEVICE_LOST = "DEVICE_LOST"
    MODEL_FAILED = "MODEL_FAILED"
    INTERNAL = "INTERNAL"


class DocumentError(Exception):
    """Says what is wrong with one document. `str()` of it is what the client reads.

    Args:
        code: the cause.
        message: one sentence for the client: what is wrong and what to do.
    """

    def __init__(self, code: ErrorCode, message: str) -> None:
        super().__init__(f"{code.value}: {message}")
        self.code = code


class StartupError(Exception):
    """Says why the service cannot start as configured. The message names the setting and what to do."""


def shutting_down() -> DocumentError:
    """Returns what a document is told that comes while the service ends."""
    return DocumentError(ErrorCode.OVERLOADED, "the service is shutting down; try again elsewhere.")
