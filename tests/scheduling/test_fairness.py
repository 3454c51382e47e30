"""Whose document goes to the queue next."""

import asyncio
import contextlib

import pytest

from executor.scheduling.fairness import FairShare, RequestShare


class Holder:
    """A document that asks for its place, and keeps it until the test ends it."""

    def __init__(self, share: RequestShare) -> None:
        self.has_place = asyncio.Event()
        self._end = asyncio.Event()
        self._task = asyncio.create_task(self._hold(share))

    async def _hold(self, share: RequestShare) -> None:
        async with share.place():
            self.has_place.set()
            await self._end.wait()

    async def end(self) -> None:
        self._end.set()
        await self._task
        await asyncio.sleep(0)

    async def cancel(self) -> None:
        self._task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._task
        await asyncio.sleep(0)


async def ask(*shares: RequestShare) -> list[Holder]:
    holders = [Holder(share) for share in shares]
    await asyncio.sleep(0)
    return holders


def state(*holders: Holder) -> list[bool]:
    return [holder.has_place.is_set() for holder in holders]


async def end_all(*holders: Holder) -> None:
    for holder in holders:
        await holder.end()


def test_every_request_has_a_place_of_its_own_beside_the_shared_ones():
    async def check() -> None:
        everyone = FairShare(2)
        long, other, late = (everyone.for_request() for _ in range(3))
        holders = await ask(*[long] * 4, other, other, late)
        assert state(*holders) == [True, True, True, False, True, False, True]
        await end_all(*holders)

    asyncio.run(check())


def test_a_shared_place_goes_to_who_asked_first_and_an_own_one_stays_with_its_request():
    async def check() -> None:
        everyone = FairShare(1)
        one, other = everyone.for_request(), everyone.for_request()
        own, shared, first_waiting, second_waiting, others_own, others_waiting = await ask(
            one, one, one, one, other, other
        )
        waiting = [first_waiting, second_waiting, others_waiting]
        assert state(*waiting) == [False, False, False]
        await others_own.end()
        assert state(*waiting) == [False, False, True]
        await shared.end()
        assert state(*waiting) == [True, False, True]
        await end_all(own, *waiting)

    asyncio.run(check())


@pytest.mark.parametrize("shared", [0, 1, 3])
def test_all_documents_get_their_place_and_all_places_come_back(shared):
    async def check() -> None:
        everyone = FairShare(shared)
        requests = [everyone.for_request() for _ in range(3)]
        holders = await ask(*requests * 5)
        while holders:
            ready = [holder for holder in holders if holder.has_place.is_set()]
            assert len(ready) <= len(requests) + shared
            await ready[-1].end()
            holders.remove(ready[-1])
        after = await ask(*[requests[0]] * (shared + 2))
        assert state(*after) == [True] * (shared + 1) + [False]
        await end_all(*after)

    asyncio.run(check())


def test_who_is_cancelled_leaves_the_place_to_others_even_in_the_moment_of_getting_it():
    async def check() -> None:
        everyone = FairShare(0)
        request = everyone.for_request()
        async with request.place():
            leaving, lucky, staying = await ask(*[request] * 3)
            await leaving.cancel()
        # Now `lucky` has been given the place and has not run yet.
        await lucky.cancel()
        assert state(leaving, lucky, staying) == [False, False, True]
        await staying.end()
        (again,) = await ask(request)
        assert state(again) == [True]
        await again.end()

    asyncio.run(check())
