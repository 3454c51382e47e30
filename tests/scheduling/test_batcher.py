"""The batcher with a device of the test's own. Order is forced by events, never by waiting."""

import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import CancelledError, Future
from contextlib import contextmanager
from typing import Any

import pytest

from executor.errors import DocumentError, ErrorCode
from executor.scheduling.batcher import Batcher

TIMEOUT_S = 30
LOSES_DEVICE = -1000
NOT_COLLATABLE = 1000


class Device:
    """Doubles numbers, one batch at a time, and only when the test lets it."""

    def __init__(self) -> None:
        self.collated: list[list[int]] = []
        self.batches: list[list[int]] = []
        self.collating = threading.Semaphore(0)
        self.entered = threading.Semaphore(0)
        self.proceed = threading.Semaphore(0)

    def collate(self, items: Sequence[int]) -> list[int]:
        self.collated.append(list(items))
        self.collating.release()
        if NOT_COLLATABLE in items:
            raise ValueError("cannot collate")
        return list(items)

    def run(self, items: list[int]) -> list[int]:
        self.batches.append(items)
        self.entered.release()
        assert self.proceed.acquire(timeout=TIMEOUT_S)
        if LOSES_DEVICE in items:
            raise DocumentError(ErrorCode.DEVICE_LOST, "gone")
        if any(item < 0 for item in items):
            raise ValueError("negative")
        return [2 * item for item in items]

    def let(self, batches: int) -> None:
        self.proceed.release(batches)


def new_batcher(device: Device, **options: Any) -> Batcher[int, list[int], int]:
    options = {"max_batch": 4, "max_wait_s": 0} | options
    return Batcher(device.collate, device.run, **options)


@pytest.fixture
def device() -> Device:
    return Device()


@pytest.fixture
def batcher(device: Device) -> Iterator[Batcher[int, list[int], int]]:
    batcher = new_batcher(device)
    yield batcher
    device.let(100)
    batcher.close()


def occupy(device: Device, batcher: Batcher[int, list[int], int]) -> None:
    """Returns while the device is busy with item 0."""
    batcher.submit(0)
    assert device.entered.acquire(timeout=TIMEOUT_S)


def is_closing(batcher: Batcher[int, list[int], int]) -> bool:
    try:
        batcher.submit(3).cancel()
    except DocumentError as error:
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


def test_a_cancelled_item_waits_no_longer(device, batcher):
    occupy(device, batcher)
    futures = [batcher.submit(item) for item in range(1, 9)]
    assert device.collating.acquire(timeout=TIMEOUT_S)  # item 0
    assert device.collating.acquire(timeout=TIMEOUT_S)  # items 1 to 4, ahead of time
    assert batcher.waiting == 8
    for left, collated_or_not in enumerate((futures[0], futures[7]), 1):
        collated_or_not.cancel()
        assert batcher.waiting == 8 - left


def test_who_leaves_a_collated_batch_is_not_computed_and_another_takes_the_place(device, batcher):
    occupy(device, batcher)
    futures = [batcher.submit(item) for item in range(1, 7)]
    for _ in range(2):
        assert device.collating.acquire(timeout=TIMEOUT_S)
    assert futures[1].cancel()
    device.let(3)
    assert [future.result(TIMEOUT_S) for future in futures if not future.cancelled()] == [2, 6, 8, 10, 12]
    assert device.batches == [[0], [1, 3, 4, 5], [6]]


def test_when_everybody_left_nothing_is_computed(device, batcher):
    occupy(device, batcher)
    for future in [batcher.submit(item) for item in range(1, 7)]:
        assert future.cancel()
    device.let(2)
    assert batcher.submit(7).result(TIMEOUT_S) == 14
    assert device.batches == [[0], [7]]


def test_a_full_batch_is_collated_while_the_device_is_busy(device, batcher):
    occupy(device, batcher)
    assert device.collating.acquire(timeout=TIMEOUT_S)
    futures = [batcher.submit(item) for item in range(1, 5)]
    assert device.collating.acquire(timeout=TIMEOUT_S)
    assert device.batches == [[0]]
    assert device.collated == [[0], [1, 2, 3, 4]]
    device.let(2)
    assert [future.result(TIMEOUT_S) for future in futures] == [2, 4, 6, 8]


def test_a_batch_that_can_still_grow_is_not_collated_ahead(device, batcher):
    occupy(device, batcher)
    for item in (1, 2, 3):
        batcher.submit(item)
    for item in (10, 20, 30, 40):
        last = batcher.submit(item, key="younger")
    grown = batcher.submit(4)
    device.let(3)
    assert (grown.result(TIMEOUT_S), last.result(TIMEOUT_S)) == (8, 80)
    assert device.collated == device.batches == [[0], [1, 2, 3, 4], [10, 20, 30, 40]]


def test_no_key_starves_under_constant_load_of_another(device):
    batcher = new_batcher(device)
    occupy(device, batcher)
    for item in range(1, 5):
        batcher.submit(item, key="many")
    rare = batcher.submit(100, key="rare")
    for round_of_many in range(1, 4):
        for item in range(4):
            batcher.submit(10 * round_of_many + item, key="many")
        device.let(1)
        assert device.entered.acquire(timeout=TIMEOUT_S)
    device.let(1)
    assert rare.result(TIMEOUT_S) == 200
    assert device.batches[:4] == [[0], [1, 2, 3, 4], [100], [10, 11, 12, 13]]
    device.let(100)
    batcher.close()


def test_an_item_that_cannot_be_collated_leaves_its_batch_unharmed(device, batcher):
    occupy(device, batcher)
    futures = [batcher.submit(item) for item in (1, NOT_COLLATABLE, 3, 4)]
    device.let(100)
    with pytest.raises(ValueError, match="cannot collate"):
        futures[1].result(TIMEOUT_S)
    assert [futures[place].result(TIMEOUT_S) for place in (0, 2, 3)] == [2, 6, 8]


def test_a_failure_is_recovered_from_on_the_devices_thread_before_its_halves_are_tried(device):
    recovered: list[tuple[str, int]] = []

    def recover(error: Exception) -> None:
        recovered.append((threading.current_thread().name, len(device.batches)))

    batcher = new_batcher(device, recover=recover)
    occupy(device, batcher)
    futures = [batcher.submit(item) for item in (1, -2, 3, 4)]
    device.let(100)
    with pytest.raises(ValueError, match="negative"):
        futures[1].result(TIMEOUT_S)
    batcher.close()
    # After the whole batch, after its first half, and after the guilty item alone.
    assert [name for name, _ in recovered] == ["batcher"] * 3
    assert [tried for _, tried in recovered] == [2, 3, 5]


def test_too_few_results_are_an_error_and_not_a_dead_thread():
    batcher: Batcher[int, list[int], int] = Batcher(list, lambda items: items[1:], 4, 0)
    for _ in range(2):
        with pytest.raises(ValueError, match="shorter"):
            batcher.submit(1).result(TIMEOUT_S)
    batcher.close()


@pytest.mark.parametrize("fatal", [DocumentError(ErrorCode.DEVICE_LOST, "gone"), SystemExit("a defect")])
def test_a_lost_device_fails_what_runs_what_is_collated_and_what_waits(device, fatal):
    def run(items: list[int]) -> list[int]:
        device.run(items)
        raise fatal

    told: list[tuple[BaseException, bool]] = []
    futures: list[Future[int]] = []
    ended = threading.Event()

    def on_device_lost(reason: BaseException) -> None:
        told.append((reason, all(future.done() for future in futures)))
        ended.set()

    batcher: Batcher[int, list[int], int] = Batcher(device.collate, run, 4, 0, on_device_lost=on_device_lost)
    futures.append(batcher.submit(0))
    assert device.entered.acquire(timeout=TIMEOUT_S)
    futures += [batcher.submit(item) for item in range(1, 7)]
    device.let(1)
    assert ended.wait(TIMEOUT_S)
    assert told == [(fatal, True)]
    for future in futures:
        with pytest.raises(DocumentError, match="DEVICE_LOST"):
            future.result(TIMEOUT_S)
    with pytest.raises(DocumentError, match="DEVICE_LOST"):
        batcher.submit(7)
    assert device.batches == [[0]]
    batcher.close()
    assert len(told) == 1


def test_a_device_lost_while_halves_are_tried_fails_the_other_half_too(device, batcher):
    occupy(device, batcher)
    futures = [batcher.submit(item) for item in (1, 2, LOSES_DEVICE, 4)]
    device.let(100)
    for future in futures:
        with pytest.raises(DocumentError, match="DEVICE_LOST"):
            future.result(TIMEOUT_S)
    assert device.batches == [[0], [1, 2, LOSES_DEVICE, 4]]


def test_one_failing_item_leaves_its_batch_unharmed(device, batcher):
    occupy(device, batcher)
    futures = [batcher.submit(item) for item in (1, -2, 3, 4)]
    device.let(100)
    with pytest.raises(ValueError, match="negative"):
        futures[1].result(TIMEOUT_S)
    assert [futures[place].result(TIMEOUT_S) for place in (0, 2, 3)] == [2, 6, 8]


def test_an_idle_device_waits_for_company_until_the_batch_is_full(device):
    batcher = new_batcher(device, max_batch=3, max_wait_s=3600)
    with batcher.announced():
        futures = [batcher.submit(item) for item in (1, 2, 3)]
        device.let(1)
        assert [future.result(TIMEOUT_S) for future in futures] == [2, 4, 6]
    assert device.batches == [[1, 2, 3]]
    batcher.close()


def test_an_item_waits_for_company_only_while_some_is_on_its_way(device):
    batcher = new_batcher(device, max_batch=3, max_wait_s=3600)
    device.let(2)
    assert batcher.submit(1).result(TIMEOUT_S) == 2
    with batcher.announced():
        waiting = batcher.submit(2)
    assert waiting.result(TIMEOUT_S) == 4  # what was on its way came to nothing
    assert device.batches == [[1], [2]]
    batcher.close()


def test_closing_finishes_what_runs_and_refuses_what_waits(device):
    batcher = new_batcher(device, max_batch=1)
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
    with pytest.raises(DocumentError, match="OVERLOADED"):
        waiting.result(TIMEOUT_S)
    with pytest.raises(DocumentError, match="OVERLOADED"):
        batcher.submit(3)
    assert device.batches == [[1]]


def test_each_batch_is_told_of_with_how_long_its_items_waited_and_once_although_it_is_halved(device):
    told: list[tuple[Sequence[int], Sequence[float]]] = []
    events: list[str] = []

    @contextmanager
    def on_batch(items: Sequence[int], waits_s: Sequence[float]) -> Iterator[None]:
        told.append((items, waits_s))
        yield
        events.append("ended")

    batcher = new_batcher(device, on_batch=on_batch)
    occupy(device, batcher)
    futures = [batcher.submit(item) for item in (1, -2, 3)]
    futures[2].add_done_callback(lambda _: events.append("answered"))
    assert batcher.waiting == 3
    device.let(100)
    assert [future.exception(TIMEOUT_S) is None for future in futures] == [True, False, True]
    batcher.close()
    assert [list(items) for items, _ in told] == [[0], [1, -2, 3]]
    waits_s = told[1][1]
    assert all(wait_s >= 0 for wait_s in waits_s)
    assert sorted(waits_s, reverse=True) == list(waits_s)  # who came first has waited longest
    assert events == ["ended", "answered", "ended"]
    assert batcher.waiting == 0
