"""Several requests of a stream at a time, on an event loop whose every step the test takes."""

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any

import pytest

from executor.scheduling.overlap import overlapped


class Work:
    """Requests are their own weights; each is answered when the test says so."""

    def __init__(self, *requests: int, fails_after: BaseException | None = None) -> None:
        self._requests = requests
        self._fails_after = fails_after
        self.read: list[int] = []
        self.answers: dict[int, asyncio.Future[str]] = {}

    async def requests(self) -> AsyncIterator[int]:
        for request in self._requests:
            self.read.append(request)
            yield request
        if self._fails_after:
            raise self._fails_after

    def answer(self, request: int) -> asyncio.Future[str]:
        return self.answers.setdefault(request, asyncio.get_running_loop().create_future())

    def overlapped(self, capacity: int, most: int | None = None) -> Any:
        return overlapped(self.requests(), self.answer, lambda request: request, capacity, most)


async def settle() -> None:
    """Runs the loop until nothing is left to do: everything here needs but a few steps."""
    for _ in range(20):
        await asyncio.sleep(0)


def on_a_loop(test: Callable[[], Coroutine[Any, Any, None]]) -> Callable[[], None]:
    def run() -> None:
        asyncio.run(test())

    run.__name__ = test.__name__
    return run


@pytest.mark.parametrize(
    ("requests", "capacity", "most", "read"),
    [
        ((1, 1, 1, 1, 1), 3, None, 3),
        ((2, 2, 2, 2), 3, None, 2),
        ((50, 60, 70), 3, None, 2),
        ((1, 0, 1, 1, 1), 3, None, 4),
        ((1, 1, 1), 100, 2, 2),
        ((1, 1, 1), 100, 1, 1),
    ],
)
def test_requests_are_read_while_their_weight_allows_and_two_of_any_weight(requests, capacity, most, read):
    async def check() -> None:
        requests_with_names = [request + number / 1000 for number, request in enumerate(requests)]
        work = Work(*requests_with_names)
        stream = overlapped(work.requests(), work.answer, int, capacity, most)
        first = asyncio.ensure_future(anext(stream))
        await settle()
        assert len(work.read) == read
        work.answers[requests_with_names[0]].set_result("first")
        assert await first == "first"
        await settle()
        assert len(work.read) == read  # its answer is not on its way until the next one is asked for
        second = asyncio.ensure_future(anext(stream))
        await settle()
        assert len(work.read) > read
        second.cancel()
        await asyncio.gather(second, return_exceptions=True)

    asyncio.run(check())


@on_a_loop
async def test_answers_keep_the_order_of_requests():
    work = Work(1, 2, 3)
    stream = work.overlapped(100)
    first = asyncio.ensure_future(anext(stream))
    await settle()
    for request in (3, 2):
        work.answers[request].set_result(str(request))
    await settle()
    assert not first.done()
    work.answers[1].set_result("1")
    assert [await first, *[answer async for answer in stream]] == ["1", "2", "3"]


@on_a_loop
async def test_an_error_is_raised_in_its_place_and_ends_the_rest():
    work = Work(1, 2, 3)
    stream = work.overlapped(100)
    first = asyncio.ensure_future(anext(stream))
    await settle()
    work.answers[2].set_exception(ValueError("two"))
    work.answers[1].set_result("1")
    assert await first == "1"
    with pytest.raises(ValueError, match="two"):
        await anext(stream)
    assert work.answers[3].cancelled()


@on_a_loop
async def test_an_error_of_reading_is_raised_after_the_answers_to_what_was_read():
    work = Work(1, 2, fails_after=ConnectionError("gone"))
    stream = work.overlapped(100)
    first = asyncio.ensure_future(anext(stream))
    await settle()
    for request in (1, 2):
        work.answers[request].set_result(str(request))
    assert [await first, await anext(stream)] == ["1", "2"]
    with pytest.raises(ConnectionError, match="gone"):
        await anext(stream)


@on_a_loop
async def test_cancelling_who_waits_cancels_all_that_is_in_flight():
    work = Work(1, 2, 3)
    waiting = asyncio.ensure_future(anext(work.overlapped(100)))
    await settle()
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert all(answer.cancelled() for answer in work.answers.values())
    assert asyncio.all_tasks() == {asyncio.current_task()}


@on_a_loop
async def test_closing_cancels_all_that_is_in_flight_and_reads_no_more():
    work = Work(1, 2, 3, 4)
    stream = work.overlapped(2)
    first = asyncio.ensure_future(anext(stream))
    await settle()
    work.answers[1].set_result("1")
    await first
    await stream.aclose()
    assert work.answers[2].cancelled()
    assert work.read == [1, 2]
    assert asyncio.all_tasks() == {asyncio.current_task()}
