"""The batcher with a device of the test's own. Order is forced by events, never by waiting."""

import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import CancelledError

import pytest

from executor.batcher import Batcher
from executor.errors import ErrorCode, RequestError

TIMEOUT_S = 30


class Device:
    """Doubles numbers, one batch at a time, and only when the test lets it."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.entered = threading.Semaphore(0)
        self.proceed = threading.Semaphore(0)

    def __call__(self, items: Sequence[int]) -> list[int]:
        self.batches.append(list(items))
        self.entered.release()
        assert self.proceed.acquire(timeout=TIMEOUT_S)
        if any(item < 0 for item in items):
            raise ValueError("negative")
        return [2 * item for item in items]

    def let(self, batches: int) -> None:
        self.proceed.release(batches)


@pytest.fixture
def device() -> Device:
    return Device()


@pytest.fixture
def batcher(device: Device) -> Iterator[Batcher[int, int]]:
    batcher: Batcher[int, int] = Batcher(device, max_batch=4, max_wait_s=0, max_queue=8)
    yield batcher
    device.let(100)
    batcher.close()


def occupy(device: Device, batcher: Batcher[int, int]) -> None:
    """Returns while the device is busy with item 0."""
    batcher.submit(0)
    assert device.entered.acquire(timeout=TIMEOUT_S)


def is_closing(batcher: Batcher[int, int]) -> bool:
    try:
        batcher.submit(3).cancel()
    except RequestError as error:
        return "shutting down" in str(error)
    return False


def test_what_waits_while_the_device_is_busy_travels_together(device, batcher):
    occupy(device, batcher)
    futures = [batcher.submit(item) for item in range(1, 7)]
    device.let(3)
    assert [future.result(TIMEOUT_S) for future in futures] == [2, 4, 6, 8, 10, 12]
    assert device.batches == [[0], [1, 2, 3, 4], [5, 6]]


def test_only_equal_keys_travel_together_and_the_oldest_goes_first(device, batcher):
    occupy(device, batcher)
    futures = [batcher.submit(item, key=item % 2) for item in range(1, 6)]
    device.let(3)
    for future in futures:
        future.result(TIMEOUT_S)
    assert device.batches == [[0], [1, 3, 5], [2, 4]]


def test_a_cancelled_item_is_never_computed(device, batcher):
    occupy(device, batcher)
    left, stays = batcher.submit(1), batcher.submit(2)
    assert left.cancel()
    device.let(2)
    assert stays.result(TIMEOUT_S) == 4
    assert device.batches == [[0], [2]]
    with pytest.raises(CancelledError):
        left.result()


def test_one_failing_item_leaves_its_batch_unharmed(device, batcher):
    occupy(device, batcher)
    futures = [batcher.submit(item) for item in (1, -2, 3, 4)]
    device.let(100)
    with pytest.raises(ValueError, match="negative"):
        futures[1].result(TIMEOUT_S)
    assert [futures[place].result(TIMEOUT_S) for place in (0, 2, 3)] == [2, 6, 8]


def test_a_full_queue_refuses_at_once_and_recovers(device, batcher):
    occupy(device, batcher)
    futures = [batcher.submit(item) for item in range(8)]
    with pytest.raises(RequestError) as refused:
        batcher.submit(9)
    assert refused.value.code is ErrorCode.OVERLOADED
    device.let(100)
    assert [future.result(TIMEOUT_S) for future in futures] == [2 * item for item in range(8)]
    assert batcher.submit(9).result(TIMEOUT_S) == 18


def test_an_idle_device_waits_for_company_until_the_batch_is_full(device):
    batcher: Batcher[int, int] = Batcher(device, max_batch=3, max_wait_s=3600, max_queue=8)
    futures = [batcher.submit(item) for item in (1, 2, 3)]
    device.let(1)
    assert [future.result(TIMEOUT_S) for future in futures] == [2, 4, 6]
    assert device.batches == [[1, 2, 3]]
    batcher.close()


def test_closing_finishes_what_runs_and_refuses_what_waits(device):
    batcher: Batcher[int, int] = Batcher(device, max_batch=1, max_wait_s=0, max_queue=8)
    running = batcher.submit(1)
    assert device.entered.acquire(timeout=TIMEOUT_S)
    waiting = batcher.submit(2)
    closing = threading.Thread(target=batcher.close)
    closing.start()
    while not is_closing(batcher):
        pass
    device.let(1)
    closing.join(TIMEOUT_S)
    assert running.result(TIMEOUT_S) == 2
    with pytest.raises(RequestError, match="OVERLOADED"):
        waiting.result(TIMEOUT_S)
    with pytest.raises(RequestError, match="OVERLOADED"):
        batcher.submit(3)
    assert device.batches == [[1]]
