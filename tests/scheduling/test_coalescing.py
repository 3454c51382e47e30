"""Requests that go on in groups, on an event loop whose every step the test takes."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator

import pytest

from executor.scheduling.coalescing import grouped
from tests.scheduling.test_overlap import on_a_loop, settle


class Source:
    """A stream that sends what the test gives it; None is its end, an exception its failure."""

    def __init__(self, *requests: str | Exception) -> None:
        self.queue: asyncio.Queue[str | Exception | None] = asyncio.Queue()
        self.read = 0
        self.is_closed = False
        self.send(*requests)

    def send(self, *requests: str | Exception | None) -> None:
        for request in requests:
            self.queue.put_nowait(request)

    async def requests(self) -> AsyncIterator[str]:
        try:
            while (request := await self.queue.get()) is not None:
                if isinstance(request, Exception):
                    raise request
                self.read += 1
                yield request
        finally:
            self.is_closed = True

    def grouped(self, weight: float = 0.25) -> AsyncGenerator[list[str], None]:
        """Requests with the same first letter are alike."""
        return grouped(self.requests(), lambda _: weight, lambda one, other: one[0] == other[0])


@on_a_loop
async def test_a_lone_request_goes_on_at_once():
    source = Source("a1")
    groups = source.grouped()
    assert await anext(groups) == ["a1"]
    source.send("a2")
    assert await anext(groups) == ["a2"]


@on_a_loop
async def test_what_has_arrived_meanwhile_goes_on_together_in_its_order():
    source = Source("a1")
    groups = source.grouped()
    assert await anext(groups) == ["a1"]
    source.send("a2", "a3", "a4", None)
    await settle()
    assert [group async for group in groups] == [["a2", "a3", "a4"]]


@on_a_loop
async def test_a_group_holds_only_what_is_alike():
    source = Source("a1")
    groups = source.grouped()
    assert await anext(groups) == ["a1"]
    source.send("a2", "a3", "b1", "a4", None)
    await settle()
    assert [group async for group in groups] == [["a2", "a3"], ["b1"], ["a4"]]


@pytest.mark.parametrize(("weight", "sizes"), [(0.25, [1, 4, 4]), (0.4, [1, 2, 2, 2, 2]), (3.0, [1] * 9)])
def test_a_group_weighs_at_most_1_or_is_one_request_and_no_more_is_read_ahead(weight, sizes):
    @on_a_loop
    async def test() -> None:
        source = Source("a0")
        groups = source.grouped(weight)
        seen = [await anext(groups)]
        source.send(*(f"a{number}" for number in range(1, 9)), None)
        await settle()
        ahead = source.read - 1
        assert (ahead - 1) * weight < 1 <= ahead * weight
        async for group in groups:
            seen.append(group)
            await settle()
        assert [len(group) for group in seen] == sizes
        assert [request for group in seen for request in group] == [f"a{number}" for number in range(9)]

    test()


@on_a_loop
async def test_a_failure_of_reading_comes_after_what_was_read_before():
    source = Source("a1", ValueError("broken"))
    groups = source.grouped()
    assert await anext(groups) == ["a1"]
    with pytest.raises(ValueError, match="broken"):
        await anext(groups)


@on_a_loop
async def test_closing_ends_the_reading():
    source = Source("a1")
    groups = source.grouped()
    await anext(groups)
    await groups.aclose()
    assert source.is_closed
