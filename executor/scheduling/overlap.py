"""Several requests of one stream at a time, answered in order.

Knows asyncio alone: what a request is, what it weighs and how it is answered is the caller's.
"""

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterable, Awaitable, Callable
from typing import TypeVar

Request = TypeVar("Request")
Answer = TypeVar("Answer")


async def overlapped(
    requests: AsyncIterable[Request],
    answer: Callable[[Request], Awaitable[Answer]],
    weigh: Callable[[Request], int],
    capacity: int,
    most: int | None = None,
) -> AsyncGenerator[Answer, None]:
    """Yields the answers to `requests` in the order of `requests`, which are worked on at the same time.

    The next request is read only while those that are read and not yet yielded weigh less than `capacity`, or there is
    but one of them, so that large requests too follow each other without a gap. Closing this iterator, or cancelling
    the task that waits for it, cancels everything in flight and returns when that has ended.

    Args:
        answer: called for each request, in order, in a task of its own. What it raises is raised in its place.
        weigh: what a request adds to what is in flight.
        capacity: above 0.
        most: most requests in flight, where there is a limit beside their weight.
    """
    in_flight: deque[tuple[asyncio.Task[Answer], int]] = deque()
    weight_in_flight = 0
    started: asyncio.Queue[asyncio.Task[Answer] | None] = asyncio.Queue()
    room = asyncio.Event()

    def update_room() -> None:
        fits = len(in_flight) < 2 or weight_in_flight < capacity
        if fits and (most is None or len(in_flight) < most):
            room.set()
        else:
            room.clear()

    async def work(request: Request) -> Answer:
        return await answer(request)

    async def start_all() -> None:
        nonlocal weight_in_flight
        async for request in requests:
            weight = weigh(request)
            task = asyncio.create_task(work(request))
            in_flight.append((task, weight))
            weight_in_flight += weight
            started.put_nowait(task)
            update_room()
            await room.wait()

    update_room()
    starting = asyncio.create_task(start_all())
    starting.add_done_callback(lambda _: started.put_nowait(None))
    try:
        while (task := await started.get()) is not None:
            yield await task
            weight_in_flight -= in_flight.popleft()[1]
            update_room()
        await starting  # raises what reading raised, after the answers to what was read before
    finally:
        unfinished = [starting, *(task for task, _ in in_flight)]
        for left in unfinished:
            left.cancel()
        await asyncio.gather(*unfinished, return_exceptions=True)
