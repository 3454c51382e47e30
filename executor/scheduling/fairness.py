"""Whose document goes to the queue next, where many long requests are answered at the same time.

Knows asyncio alone: neither Jina, nor documents, nor the queue itself.
"""

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class Turns:
    """Keeps long requests from filling the queue, so that one that has nothing in it finds a place.

    Args:
        shared: places for all requests together, beside the one that each request has of its own.
    """

    def __init__(self, shared: int) -> None:
        self._free = shared
        self._waiting: deque[asyncio.Future[bool]] = deque()

    def of_a_request(self) -> "RequestTurns":
        return RequestTurns(self)


class RequestTurns:
    """The turns of one request: its own place at once whenever it is free, else a shared one in order of asking."""

    def __init__(self, turns: Turns) -> None:
        self._turns = turns
        self._own_is_free = True
        self._waiting: deque[asyncio.Future[bool]] = deque()

    @asynccontextmanager
    async def turn(self) -> AsyncIterator[None]:
        """Waits for a place and holds it."""
        is_own = await self._take()
        try:
            yield
        finally:
            self._give_back(is_own)

    async def _take(self) -> bool:
        if self._own_is_free:
            self._own_is_free = False
            return True
        if self._turns._free > 0:
            self._turns._free -= 1
            return False
        place: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._waiting.append(place)
        self._turns._waiting.append(place)
        try:
            return await place
        except asyncio.CancelledError:
            if place.done() and not place.cancelled():
                self._give_back(place.result())
            raise

    def _give_back(self, is_own: bool) -> None:
        waiting = self._waiting if is_own else self._turns._waiting
        while waiting:
            place = waiting.popleft()
            if not place.done():
                place.set_result(is_own)
                return
        if is_own:
            self._own_is_free = True
        else:
            self._turns._free += 1
