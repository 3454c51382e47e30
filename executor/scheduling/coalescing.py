"""Requests of one stream that have arrived by the same time, as one: what a request costs is then paid once.

Knows asyncio alone: which requests go together, and how, is the caller's.
"""

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterable, Callable
from typing import TypeVar

Request = TypeVar("Request")


async def grouped(
    requests: AsyncIterable[Request],
    weigh: Callable[[Request], float],
    are_alike: Callable[[Request, Request], bool],
) -> AsyncGenerator[list[Request], None]:
    """Yields all of `requests` in their order, in lists of those that have arrived when the next list is asked for.

    Nobody waits for company. Closing this iterator stops the reading and returns when that has ended.

    Args:
        weigh: how much of a list a request takes. A list of several weighs at most 1, and no more than that is read
            ahead.
        are_alike: whether two requests may be in the same list.
    """
    waiting: deque[tuple[Request, float]] = deque()
    waiting_weight = 0.0
    arrived, room = asyncio.Event(), asyncio.Event()

    async def read() -> None:
        nonlocal waiting_weight
        async for request in requests:
            weight = weigh(request)
            waiting.append((request, weight))
            waiting_weight += weight
            arrived.set()
            if waiting_weight >= 1:
                room.clear()
                await room.wait()

    reading = asyncio.create_task(read())
    reading.add_done_callback(lambda _: arrived.set())
    try:
        while True:
            while not waiting and not reading.done():
                arrived.clear()
                await arrived.wait()
            if not waiting:
                break
            first, weight = waiting.popleft()
            group = [first]
            while waiting and weight + waiting[0][1] <= 1 and are_alike(first, waiting[0][0]):
                request, more = waiting.popleft()
                weight += more
                group.append(request)
            waiting_weight = sum(left for _, left in waiting)
            room.set()
            yield group
        await reading  # raises what reading raised, after what was read before
    finally:
        reading.cancel()
        await asyncio.gather(reading, return_exceptions=True)
