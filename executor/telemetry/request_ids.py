"""One id for all that a call leaves behind: in the log, in spans, and in the reply.

A client names its call; where it does not, or not well, the service does. Of a stream each request has the id of the
call, a `/` and a number that grows; those that travel together share one. Knows contexts alone: neither gRPC nor HTTP.
"""

import itertools
import re
import secrets
from collections.abc import Iterable, Iterator
from contextvars import ContextVar

KEY = "x-request-id"
"""The name of the metadata, or of the header, that carries an id."""
_WELL_FORMED = re.compile(r"[A-Za-z0-9._:=@+-]{1,64}")
"""What others make: UUIDs, ULIDs, trace ids. Without `/`, which is for streams, and what a log could be forged with."""

_call: ContextVar[tuple[str, Iterator[int]] | None] = ContextVar("call", default=None)
_request: ContextVar[str | None] = ContextVar("request", default=None)


def current() -> str | None:
    """Returns the id of the request, or the call, within which this is asked; None outside of any."""
    return _request.get()


def begin_call(call_id: str) -> None:
    """Makes an id `current` in the task of a call. The task ends with the call, so it need not be set back."""
    _call.set((call_id, itertools.count(1)))
    _request.set(call_id)


def next_of_stream() -> str:
    """Makes and returns the id of the next request of the current call, which is `current` in this task from now on."""
    call = _call.get()
    request_id = f"{call[0]}/{next(call[1])}" if call is not None else _new()
    _request.set(request_id)
    return request_id


def chosen(metadata: Iterable[tuple[str, str | bytes]]) -> str:
    """Returns the client's id where it is well-formed, else a new one."""
    for key, value in metadata:
        if key == KEY:
            return value if isinstance(value, str) and _WELL_FORMED.fullmatch(value) else _new()
    return _new()


def _new() -> str:
    return secrets.token_hex(8)
