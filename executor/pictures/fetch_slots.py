"""Places for work at the same time: how many there are, and who waits for whom."""

import asyncio
import weakref
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from yarl import URL


class Places:
    """Bounds the fetches at the same time, overall and per host and port. A busy host keeps only its own waiting."""

    def __init__(self, overall: int, per_host: int) -> None:
        self._overall = asyncio.Semaphore(overall)
        self._per_host = per_host
        self._hosts: weakref.WeakValueDictionary[tuple[str, int], asyncio.Semaphore] = weakref.WeakValueDictionary()

    @asynccontextmanager
    async def at(self, url: URL) -> AsyncIterator[None]:
        key = (url.raw_host or "", url.port or 0)
        host = self._hosts.get(key)
        if host is None:
            host = self._hosts[key] = asyncio.Semaphore(self._per_host)
        async with host, self._overall:
            yield


class Slot:
    """A place in a semaphore that is taken at most once and can always be given back."""

    def __init__(self, semaphore: asyncio.Semaphore) -> None:
        self._semaphore = semaphore
        self._held = False

    async def acquire(self) -> None:
        await self._semaphore.acquire()
        self._held = True

    def release(self) -> None:
        if self._held:
            self._held = False
            self._semaphore.release()
