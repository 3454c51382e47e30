"""How many fetches run at the same time, and who waits for whom.

Knows asyncio's semaphores, hosts and ports. It must not know HTTP, pictures, or what a fetch is for.
"""

import asyncio
import weakref
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from yarl import URL


class FetchSlots:
    """Limits how many fetches run at the same time: overall, and for each host and port.

    A fetch waits for its host first. So a busy host keeps only its own fetches waiting.

    Args:
        overall: most fetches at the same time, 1 or more.
        per_host: most of them to one host and port, 1 or more.
    """

    def __init__(self, overall: int, per_host: int) -> None:
        self._overall = asyncio.Semaphore(overall)
        self._per_host = per_host
        self._hosts: weakref.WeakValueDictionary[tuple[str, int], asyncio.Semaphore] = weakref.WeakValueDictionary()

    @asynccontextmanager
    async def hold(self, url: URL) -> AsyncIterator[None]:
        """Waits for a slot for a fetch from the host and port of `url`, and holds it within the context."""
        key = (url.raw_host or "", url.port or 0)
        host = self._hosts.get(key)
        if host is None:
            host = self._hosts[key] = asyncio.Semaphore(self._per_host)
        async with host, self._overall:
            yield


class Permit:
    """Holds a permit of a semaphore from `acquire` to `release`, and gives back only what it holds.

    Args:
        semaphore: whose permit it is.
    """

    def __init__(self, semaphore: asyncio.Semaphore) -> None:
        self._semaphore = semaphore
        self._held = False

    async def acquire(self) -> None:
        """Waits for the permit. It is called at most once."""
        await self._semaphore.acquire()
        self._held = True

    def release(self) -> None:
        """Gives the permit back where it is held. Does nothing where it is not."""
        if self._held:
            self._held = False
            self._semaphore.release()
