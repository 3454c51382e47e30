"""Calls in progress, and how often is too often."""

import pytest

from executor.server.calls import Allowance


@pytest.fixture
def now(monkeypatch) -> list[float]:
    """The time, to be set."""
    now = [100.0]
    monkeypatch.setattr("executor.server.calls.time.monotonic", lambda: now[0])
    return now


def test_an_allowance_gives_so_many_a_second_and_at_once(now):
    allowance = Allowance(3)
    assert [allowance.take() for _ in range(4)] == [True, True, True, False]
    now[0] += 0.5
    assert [allowance.take() for _ in range(2)] == [True, False]
    now[0] += 0.25
    assert [allowance.take() for _ in range(2)] == [True, False]


def test_what_is_not_taken_does_not_grow_beyond_one_second(now):
    allowance = Allowance(2)
    now[0] += 1000
    assert [allowance.take() for _ in range(3)] == [True, True, False]
