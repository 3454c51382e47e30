"""Who may call: bearer tokens, from settings and from a file that is read again when it changes.

Knows gRPC's interceptors; knows neither Jina nor what is called.
"""

import hashlib
import hmac
import logging
import re
from collections.abc import Awaitable, Callable, Iterable
from pathlib import Path
from typing import Any

import grpc

from executor.errors import StartupError
from executor.server.file_stamps import Stamps, stamps_of
from executor.server.handlers import aborting, is_health_check
from executor.telemetry.observer import SILENT, Observer, Refusal

_SHORTEST = 16
"""Characters of a token. 16 random characters of base64 are 96 bits."""
_LONGEST = 4096
"""Characters of a token. gRPC takes 8 KiB for all metadata of a call."""
_TOKEN = re.compile(r"[A-Za-z0-9._~+/-]+=*")
"""RFC 6750, section 2.1."""
_LARGEST_FILE = 2**20


class Tokens:
    """Knows the tokens that are valid now. Holds their hashes alone, so nothing can print one.

    Args:
        tokens: always valid.
        file: one token on each line; empty lines and lines that begin with `#` do not count. It is read again when it
            changes. Where it cannot be used then, the tokens that it had stay valid and the log says so: a file that is
            only half there, or gone for a moment, must shut nobody out.
        log: told of changes.

    Raises:
        StartupError: the file cannot be read, there is no token at all, or one is malformed.
    """

    def __init__(self, tokens: Iterable[str], file: Path | None, log: logging.Logger) -> None:
        self._configured = _hashes(tokens, "auth_tokens")
        self._file = file
        self._log = log
        self._in_file: list[bytes] = []
        self._used: Stamps = ()
        self._unusable: Stamps = ()
        if file is not None:
            self._used = stamps_of([file])
            self._in_file = self._read(file)

    def accept(self, token: str) -> bool:
        """Tells whether a token is valid. Takes as long for a right one as for a wrong one."""
        self._refresh()
        offered = _hash(token)
        valid = False
        for known in (*self._configured, *self._in_file):
            valid |= hmac.compare_digest(offered, known)
        return valid

    def _refresh(self) -> None:
        if self._file is None:
            return
        found = stamps_of([self._file])
        if found == self._used:
            return
        try:
            self._in_file = self._read(self._file)
        except StartupError as error:
            if found != self._unusable:  # once, and not with every call
                self._log.error(f"{error}; the former tokens stay valid until it can be used")
            self._unusable = found
        else:
            self._log.info(f"auth_tokens_file has changed, it has {len(self._in_file)} tokens")
            self._used, self._unusable = found, ()

    def _read(self, file: Path) -> list[bytes]:
        try:
            if file.exists() and not file.is_file():
                raise StartupError(f"auth_tokens_file {file} is not a regular file")
            with file.open("rb") as opened:
                content = opened.read(_LARGEST_FILE + 1)
            lines = [line.strip() for line in content.decode("utf-8-sig").splitlines()]
        except OSError as error:
            raise StartupError(f"auth_tokens_file {file} cannot be read: {error.strerror}") from None
        except UnicodeDecodeError:
            raise StartupError(f"auth_tokens_file {file} is not text") from None
        if len(content) > _LARGEST_FILE:
            raise StartupError(f"auth_tokens_file {file} is larger than {_LARGEST_FILE} bytes")
        hashes = _hashes((line for line in lines if line and not line.startswith("#")), f"auth_tokens_file {file}")
        if not hashes:
            raise StartupError(f"auth_tokens_file {file} has no token")
        return hashes


class RequireToken(grpc.aio.ServerInterceptor):
    """Refuses every call but health checks that has no valid token, with UNAUTHENTICATED.

    Of a call nothing is read but its metadata before it is let in.

    Args:
        tokens: valid ones.
        observer: told of refusals.
    """

    def __init__(self, tokens: Tokens, observer: Observer = SILENT) -> None:
        self._tokens = tokens
        self._abort = aborting(
            grpc.StatusCode.UNAUTHENTICATED,
            "there is no valid token; send it as metadata 'authorization: Bearer ...'.",
            lambda: observer.call_refused(Refusal.UNAUTHENTICATED),
        )

    async def intercept_service(
        self, continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Any]], details: grpc.HandlerCallDetails
    ) -> Any:
        if is_health_check(details.method):
            return await continuation(details)
        token = _offered(details)
        if token is None or not self._tokens.accept(token):
            return self._abort
        return await continuation(details)


def _offered(details: grpc.HandlerCallDetails) -> str | None:
    for key, value in details.invocation_metadata or ():
        if key == "authorization":
            scheme, _, token = value.partition(" ")
            return token.strip() if scheme.lower() == "bearer" else None
    return None


def _hashes(tokens: Iterable[str], source: str) -> list[bytes]:
    return [_hash(_checked(token, source)) for token in tokens]


def _checked(token: str, source: str) -> str:
    """Never puts a token into its message, not even a malformed one: it may be a good one with a comma too many."""
    if not _SHORTEST <= len(token) <= _LONGEST:
        raise StartupError(f"a token of {source} has not {_SHORTEST} to {_LONGEST} characters")
    if not _TOKEN.fullmatch(token):
        raise StartupError(
            f"a token of {source} has characters other than letters, digits and -._~+/ (and = at its end)"
        )
    return token


def _hash(token: str) -> bytes:
    return hashlib.sha256(token.encode(errors="replace")).digest()
