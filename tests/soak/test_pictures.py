"""The short form of the soak: hundreds of failures of all kinds leave nothing behind."""

import asyncio

from tests.soak.pictures import Left, growth, soak


def test_failures_of_all_kinds_leave_nothing_behind():
    seen: list[Left] = []
    ends = asyncio.run(soak(600, lambda done, left: seen.append(left), 200))
    assert growth(seen) == [], seen
    assert len(ends) >= 13, f"too few kinds of failures: {ends}"
