"""HTTP for pictures: a URL -> the bytes of its body, within limits.

Knows aiohttp, redirects, deadlines and sizes. It must not know which addresses are allowed, which `addresses` decides,
nor what the bytes are, which `decoding` finds out. Nothing from the environment is used (no proxies, no .netrc), no
cookie is kept, no credential is sent.
"""

import asyncio
import re
import socket
import weakref
import zlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
from yarl import URL

from executor.errors import DocumentError, ErrorCode, shutting_down
from executor.pictures.addresses import AddressPolicy
from executor.pictures.fetch_slots import FetchSlots, Permit
from executor.pictures.inflating import Inflater
from executor.pictures.limits import ImageLimits
from executor.pictures.resolving import CheckedResolver, Lookup, SystemNames
from executor.telemetry.observer import SILENT, Observer

_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_TEMPORARY = frozenset({408, 425, 429})
_URL_CHARACTERS = r"[A-Za-z0-9._~:/@!$&'()*+,;=%-]*"
_QUERY_CHARACTERS = r"[A-Za-z0-9._~:/@!$&'()*+,;=%?-]*"
_AFTER_THE_HOST = re.compile(rf"[a-zA-Z]+://[^/?#]*({_URL_CHARACTERS})(?:\?({_QUERY_CHARACTERS}))?(?:#.*)?")
"""A URL whose path and query have only characters that RFC 3986 allows there."""
_MALFORMED = (ValueError, IndexError)
"""What yarl raises; the second one for `http://[::1]@`."""
_BUFFER_BYTES = 64 * 1024
_IDLE_CONNECTION_S = 10.0


class Fetcher:
    """Fetches pictures over HTTP and HTTPS, as one client that uses its connections again.

    Args:
        policy: decides what may be connected to.
        limits: of a picture's bytes, of redirects, of fetches at the same time and of their seconds.
        lookup: replaces the system's name resolution.
        observer: told of each fetch.
    """

    def __init__(
        self,
        policy: AddressPolicy,
        limits: ImageLimits,
        lookup: Lookup | None = None,
        observer: Observer = SILENT,
    ) -> None:
        self._observer = observer
        self._policy = policy
        self._limits = limits
        self._names = SystemNames(limits.max_fetches)
        self._lookup = lookup or self._names.lookup
        self._bodies = asyncio.Semaphore(limits.max_fetches)
        self._sockets: weakref.WeakSet[socket.socket] = weakref.WeakSet()
        self._slots = FetchSlots(limits.max_fetches, limits.max_fetches_per_host)
        self._sessions: tuple[aiohttp.ClientSession, aiohttp.ClientSession] | None = None
        self._end = asyncio.Event()

    @asynccontextmanager
    async def fetched(self, reference: str) -> AsyncIterator[bytes]:
        """Fetches the body behind a URL, and holds it within the context.

        At most `max_fetches` bodies exist at a time. So whoever is done with one leaves the context.

        Args:
            reference: the URL as the client wrote it.

        Raises:
            DocumentError: `INVALID_URL`, `UNSUPPORTED_SCHEME`, `ADDRESS_NOT_ALLOWED`, `TOO_MANY_REDIRECTS`,
                `IMAGE_NOT_FOUND`, `IMAGE_TOO_LARGE`, `FETCH_TIMED_OUT`, `FETCH_FAILED` or `FETCH_REFUSED`; `OVERLOADED`
                once it is closed. At the latest after `fetch_timeout_s`.
        """
        body = Permit(self._bodies)
        try:
            with self._observer.fetching():
                data = await self._fetch(reference, body)
            yield data
        finally:
            body.release()

    def close(self) -> None:
        """Ends all fetches and connections, and refuses the fetches that come later.

        The connections end while the event loop goes on, or when it ends.
        """
        self._names.close()
        self._end.set()

    async def _fetch(self, reference: str, body: Permit) -> bytes:
        try:
            return await asyncio.wait_for(self._follow(_parse(reference), body), self._limits.fetch_timeout_s)
        except asyncio.TimeoutError:
            raise DocumentError(
                ErrorCode.FETCH_TIMED_OUT,
                f"the picture was not there within {self._limits.fetch_timeout_s:g} s (fetch_timeout_s); "
                "try again later.",
            ) from None
        except aiohttp.InvalidURL:
            raise DocumentError(ErrorCode.INVALID_URL, "the image URL is not valid; correct it.") from None
        except (aiohttp.ClientError, OSError):
            raise DocumentError(
                ErrorCode.FETCH_FAILED, "the server of the image URL cannot be reached or breaks off; try again later."
            ) from None
        except zlib.error:
            raise DocumentError(
                ErrorCode.FETCH_FAILED, "the server of the image URL sends damaged compression; try again later."
            ) from None

    async def _follow(self, url: URL, body: Permit) -> bytes:
        for _ in range(self._limits.max_redirects + 1):
            self._policy.check_url(url)
            async with self._slots.hold(url), self._client().get(url, allow_redirects=False) as reply:
                if reply.status not in _REDIRECTS:
                    return await self._read(reply, body)
                url = _redirected(url, reply.headers.get("Location"))
        raise DocumentError(
            ErrorCode.TOO_MANY_REDIRECTS,
            f"the image URL redirects more than {self._limits.max_redirects} times (max_redirects); "
            "send the address at the end.",
        )

    async def _read(self, reply: aiohttp.ClientResponse, body: Permit) -> bytes:
        _check_status(reply.status)
        if (reply.content_length or 0) > self._limits.max_image_bytes:
            raise self._limits.too_many_bytes()
        content = Inflater(reply.headers.get("Content-Encoding", "identity"))
        await body.acquire()
        received, data = 0, bytearray()
        async for chunk in reply.content.iter_any():
            received += len(chunk)
            for piece in content.pieces(chunk):
                data += piece
                if max(received, len(data)) > self._limits.max_image_bytes:
                    raise self._limits.too_many_bytes()
                await asyncio.sleep(0)
        content.check_complete()
        return bytes(data)

    def _client(self) -> aiohttp.ClientSession:
        """One of two sessions, so that idle connections are bounded: the second closes each connection after its use.

        aiohttp bounds how long a connection is idle, and not how many are. A session either keeps all or none.

        Raises:
            DocumentError: after `close`.
        """
        if self._end.is_set():
            raise shutting_down()
        if self._sessions is None:
            self._sessions = self._new_session(keep=True), self._new_session(keep=False)
            self._keeper = asyncio.create_task(_keep_open(*self._sessions, self._end))
        keeping, closing = self._sessions
        return keeping if len(self._sockets) < 2 * self._limits.max_fetches else closing

    def _new_session(self, keep: bool) -> aiohttp.ClientSession:
        connector = aiohttp.TCPConnector(
            limit=0,
            resolver=CheckedResolver(self._policy, self._lookup),
            use_dns_cache=False,
            keepalive_timeout=_IDLE_CONNECTION_S if keep else None,
            force_close=not keep,
            socket_factory=self._socket,
        )
        return aiohttp.ClientSession(
            connector=connector,
            cookie_jar=aiohttp.DummyCookieJar(),
            trust_env=False,
            auto_decompress=False,
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=None),
            read_bufsize=_BUFFER_BYTES,
            headers={
                "User-Agent": self._limits.user_agent,
                "Accept": "image/*,*/*;q=0.1",
                "Accept-Encoding": "identity",
            },
        )

    def _socket(self, address: tuple[Any, ...]) -> socket.socket:
        family, kind, protocol, _, _ = address
        opened = socket.socket(family, kind, protocol)
        self._sockets.add(opened)
        return opened


async def _keep_open(first: aiohttp.ClientSession, second: aiohttp.ClientSession, end: asyncio.Event) -> None:
    """Closes the sessions after `end`, or when the event loop ends and cancels its tasks."""
    async with first, second:
        await end.wait()


def _parse(reference: str) -> URL:
    try:
        url = URL(reference)
        parts = _AFTER_THE_HOST.fullmatch(reference)
        if parts is None or not url.raw_host:
            return url
        # Left as it is: a URL with a signature is void when it is quoted anew. The host stays as yarl reads it.
        path, query = parts.groups()
        rebuilt = URL.build(
            scheme=url.scheme, authority=url.raw_authority, path=path or "/", query_string=query or "", encoded=True
        )
        # yarl reads these only now, and an odd address in brackets differently or not at all.
        if (rebuilt.raw_user, rebuilt.raw_host, rebuilt.port) != (url.raw_user, url.raw_host, url.port):
            raise ValueError("ambiguous")
        return rebuilt
    except _MALFORMED:
        raise DocumentError(ErrorCode.INVALID_URL, "the image URL is not valid; correct it.") from None


def _redirected(url: URL, location: str | None) -> URL:
    try:
        if not location:
            raise ValueError("there is none")
        return _parse(str(url.join(URL(location, encoded=True))))
    except _MALFORMED:
        raise DocumentError(
            ErrorCode.FETCH_REFUSED, "the image URL redirects to nowhere; send another address."
        ) from None


def _check_status(status: int) -> None:
    if status == 200:
        return
    if status in (404, 410):
        raise DocumentError(ErrorCode.IMAGE_NOT_FOUND, f"the image URL answers {status}; check it.")
    if status >= 500 or status in _TEMPORARY:
        raise DocumentError(ErrorCode.FETCH_FAILED, f"the image URL answers {status}; try again later.")
    raise DocumentError(ErrorCode.FETCH_REFUSED, f"the image URL answers {status} and no picture; check it.")
