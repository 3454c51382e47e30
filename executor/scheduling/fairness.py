"""Whose document goes to the queue next, where many long requests are answered at the same time.

Knows asyncio alone. It must not know Jina, documents, or the queue itself.
"""

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class FairShare:
    """Keeps long requests from filling the queue, so that a request with nothing in it finds a place.

    Every request has one place of its own. All requests together share some more. Belongs to one event loop.

    Args:
        shared: number of the shared places, 0 or more.
    """

    def __init__(self, shared: int) -> None:
        self._free = shared
        self._waiting: deque[asyncio.Future[bool]] = deque()

    def for_request(self) -> "RequestShare":
        """Makes the share of one request: a place of its own, and access to the shared ones."""
        return RequestShare(self)


class RequestShare:
    """Gives the documents of one request their places in the queue.

    A document takes the request's own place whenever that is free. Otherwise it takes a shared one. Those who wait for
    a shared place get it in the order in which they asked.

    Args:
        everyone: the share of all requests, which made this one.
    """

    def __init__(self, everyone: FairShare) -> None:
        self._everyone = everyone
        self._own_is_free = True
        self._waiting: deque[asyncio.Future[bool]] = deque()

    @asynccontextmanager
    async def place(self) -> AsyncIterator[None]:
        """Waits for a place and holds it within the context."""
        is_own = await self._take()
        try:
            yield
        finally:
            self._give_back(is_own)

    async def _take(self) -> bool:
        if self._own_is_free:
            self._own_is_free = False
            return True
        if self._everyone._free > 0:
            self._everyone._free -= 1
            return False
        place: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._waiting.append(place)
        self._everyone._waiting.append(place)
        try:
            return await place
        except asyncio.CancelledError:
            if place.done() and not place.cancelled():
                self._give_back(place.result())
            raise

    def _give_back(self, is_own: bool) -> None:
        waiting = self._waiting if is_own else self._everyone._waiting
        while waiting:
            place = waiting.popleft()
            if not place.done():
                place.set_result(is_own)
                return
        if is_own:
            self._own_is_free = True
        else:
            self._everyone._free += 1
