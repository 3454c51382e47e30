"""Who may call: bearer tokens, from settings and from a file that is read again when it changes.

Knows gRPC's interceptors, and neither Jina nor what is called.
"""

import hashlib
import hmac
import logging
import os
from collections.abc import Awaitable, Callable, Iterable
from pathlib import Path
from typing import Any

import grpc

from .calls import is_health_check, refusal
from .errors import StartupError

_log = logging.getLogger(__name__)
_SHORTEST = 16
"""Characters of a token. 16 random characters of base64 are 96 bits."""


class Tokens:
    """The tokens that are valid now. Holds their hashes alone, so nothing can print one.

    Args:
        tokens: always valid.
        file: one token on each line, empty lines and `#` lines left out. Read again when it changes; where it cannot be
            read then, the tokens that it had stay valid and the log says so.

    Raises:
        StartupError: the file cannot be read, there is no token at all, or one is too short.
    """

    def __init__(self, tokens: Iterable[str] = (), file: Path | None = None) -> None:
        self._configured = _hashes(tokens, "auth_tokens")
        self._file = file
        self._in_file: list[bytes] = []
        self._version: tuple[int, ...] | None = None
        if file is not None:
            try:
                self._version = _version(file)
                self._in_file = self._read(file)
            except (OSError, UnicodeDecodeError) as error:
                raise StartupError(f"auth_tokens_file {file} cannot be read ({type(error).__name__})") from None
        if not self._configured and not self._in_file:
            raise StartupError("there is no token in auth_tokens_file; nobody could call the service")

    def accept(self, token: str) -> bool:
        """Whether a token is valid. Takes as long for a right one as for a wrong one."""
        self._refresh()
        offered = _hash(token)
        valid = False
        for known in (*self._configured, *self._in_file):
            valid |= hmac.compare_digest(offered, known)
        return valid

    def _refresh(self) -> None:
        if self._file is None:
            return
        try:
            version = _version(self._file)
            if version == self._version:
                return
            self._version = version
            self._in_file = self._read(self._file)
        except (OSError, UnicodeDecodeError, StartupError) as error:
            if self._version is not None:
                _log.error("auth_tokens_file has changed and cannot be used (%s); the former tokens stay valid", error)
            self._version = None
        else:
            _log.info("auth_tokens_file has changed: %d tokens", len(self._in_file))

    @staticmethod
    def _read(file: Path) -> list[bytes]:
        lines = (line.strip() for line in file.read_text().splitlines())
        return _hashes((line for line in lines if line and not line.startswith("#")), "auth_tokens_file")


class RequireToken(grpc.aio.ServerInterceptor):
    """Refuses every call but health checks that has no valid token, with UNAUTHENTICATED."""

    def __init__(self, tokens: Tokens) -> None:
        self._tokens = tokens
        self._refused = refusal(
            grpc.StatusCode.UNAUTHENTICATED,
            "there is no valid token; send it as metadata 'authorization: Bearer ...'.",
        )

    async def intercept_service(
        self, continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Any]], details: grpc.HandlerCallDetails
    ) -> Any:
        if is_health_check(details.method) or any(self._tokens.accept(token) for token in _offered(details)):
            return await continuation(details)
        return self._refused


def _offered(details: grpc.HandlerCallDetails) -> list[str]:
    tokens = []
    for key, value in details.invocation_metadata or ():
        if key == "authorization" and isinstance(value, str):
            scheme, _, token = value.partition(" ")
            if scheme.lower() == "bearer":
                tokens.append(token.strip())
    return tokens[:1]


def _hashes(tokens: Iterable[str], source: str) -> list[bytes]:
    hashes = []
    for token in tokens:
        if len(token) < _SHORTEST:
            raise StartupError(f"a token of {source} has fewer than {_SHORTEST} characters; make a longer one")
        hashes.append(_hash(token))
    return hashes


def _hash(token: str) -> bytes:
    return hashlib.sha256(token.encode(errors="replace")).digest()


def _version(file: Path) -> tuple[int, ...]:
    found = os.stat(file)
    return found.st_mtime_ns, found.st_size, found.st_ino, found.st_dev
