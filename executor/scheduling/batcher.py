"""The queue in front of the device: work-conserving and cancellable. How much may wait, `admission` bounds.

One thread owns the device. Whenever it is free, it takes the oldest waiting item and what waits with the same key, at
most `max_batch`; only an idle device waits for company, only for company that was announced, and at most `max_wait_s`.
Knows nothing of torch, pictures or whoever asks.

Who travels together is decided as late as it can be: when the device is free. The one exception costs nobody a place:
while the device is busy and the oldest key's items fill a whole batch, that batch is collated on a second thread, so
that host work overlaps the device's. No later item could have been in it. A smaller batch is collated when the device
takes it, because while it waits it may still grow.
"""

import itertools
import math
import threading
import time
from collections.abc import Callable, Hashable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from executor.errors import DocumentError, ErrorCode, shutting_down

Item = TypeVar("Item")
Collated = TypeVar("Collated")
Result = TypeVar("Result")


def _unobserved(items: Sequence[object], waits_s: Sequence[float]) -> AbstractContextManager[object]:
    return nullcontext()


@dataclass(eq=False)
class _Waiting(Generic[Item, Result]):
    item: Item
    key: Hashable
    number: int
    since: float
    has_place: bool = True
    future: "Future[Result]" = field(default_factory=Future)


class Batcher(Generic[Item, Collated, Result]):
    """Runs items in batches on one thread.

    A batch that fails is run again in halves until the guilty item stands alone: its future gets the exception. An
    exception with the code `DEVICE_LOST` is final: everything in flight and waiting gets that code, and so does
    everything submitted from then on.

    Args:
        collate: the host's part: takes items with equal keys. Runs on two threads, one call at a time on each.
        run: the device's part: takes what `collate` returned, returns one result for each item, in order.
        max_batch: most items in one call.
        max_wait_s: the longest, in seconds, that an item waits for announced company while the device is idle.
        recover: called with the error of a batch that has failed, on the thread of `run`, before anything else is done.
        on_device_lost: called once, on the batcher's thread, with the reason, after all futures have been told.
        on_batch: told, on the batcher's thread, of the items of a batch that begins, and how long in seconds each has
            waited. What it returns is around the batch until all its futures are told. Neither may raise.
    """

    def __init__(
        self,
        collate: Callable[[Sequence[Item]], Collated],
        run: Callable[[Collated], Sequence[Result]],
        max_batch: int,
        max_wait_s: float,
        recover: Callable[[Exception], None] = lambda _: None,
        on_device_lost: Callable[[BaseException], None] = lambda _: None,
        on_batch: Callable[[Sequence[Item], Sequence[float]], AbstractContextManager[object]] = _unobserved,
    ) -> None:
        self._collate = collate
        self._run = run
        self._max_batch = max_batch
        self._max_wait_s = max_wait_s
        self._recover = recover
        self._on_device_lost = on_device_lost
        self._on_batch = on_batch
        # All below is guarded by `_changed`. Groups and their members are in order of arrival.
        self._changed = threading.Condition()
        self._groups: dict[Hashable, dict[int, _Waiting[Item, Result]]] = {}
        self._waiting = 0
        self._announced = 0
        self._numbers = itertools.count()
        self._busy = False
        self._ahead: tuple[list[_Waiting[Item, Result]], Future[Collated]] | None = None
        self._ended: Callable[[], DocumentError] | None = None
        self._host = ThreadPoolExecutor(1, thread_name_prefix="collate")
        self._thread = threading.Thread(target=self._loop, name="batcher", daemon=True)
        self._thread.start()

    @property
    def waiting(self) -> int:
        """Counts the items in the queue. To be read on any thread."""
        return self._waiting

    @contextmanager
    def announced(self) -> Iterator[None]:
        """Announces an item that is on its way: others may wait for it. Nobody waits where none is."""
        with self._changed:
            self._announced += 1
        try:
            yield
        finally:
            with self._changed:
                self._announced -= 1
                self._changed.notify()

    def submit(self, item: Item, key: Hashable = None) -> "Future[Result]":
        """Puts an item into the queue. A future that is cancelled before its batch starts leaves at once, never run.

        Raises:
            DocumentError: `OVERLOADED` where the queue is closed, `DEVICE_LOST` where the device is.
        """
        with self._changed:
            if self._ended is not None:
                raise self._ended()
            waiting: _Waiting[Item, Result] = _Waiting(item, key, next(self._numbers), time.monotonic())
            self._groups.setdefault(key, {})[waiting.number] = waiting
            self._waiting += 1
            self._collate_ahead()
            self._changed.notify()
        waiting.future.add_done_callback(lambda _: self._leave(waiting))
        return waiting.future

    def close(self) -> None:
        """Finishes the batch that runs and refuses what waits. Blocks until the threads have ended."""
        with self._changed:
            if self._ended is None:
                self._ended = shutting_down
            self._changed.notify()
        self._thread.join()
        self._host.shutdown()

    def _loop(self) -> None:
        batch: list[_Waiting[Item, Result]] = []
        lost: BaseException | None = None
        try:
            while True:
                batch, collated = self._next_batch()
                if not batch:
                    break
                now = time.monotonic()
                items, waits_s = zip(*((waiting.item, now - waiting.since) for waiting in batch), strict=True)
                with self._on_batch(items, waits_s):
                    self._compute(batch, collated)
        except BaseException as error:  # noqa: BLE001 - the device, or this thread: either way nobody may wait for ever
            lost = error
        with self._changed:
            if lost is not None:
                self._ended = _device_lost
            assert self._ended is not None
            ahead = self._ahead[0] if self._ahead is not None else []
            waiting = [waiting for group in self._groups.values() for waiting in group.values()]
        for left in (*batch, *ahead, *waiting):
            if left.future.running() or (not left.future.done() and left.future.set_running_or_notify_cancel()):
                left.future.set_exception(self._ended())
        if lost is not None:
            self._on_device_lost(lost)

    def _next_batch(self) -> "tuple[list[_Waiting[Item, Result]], Future[Collated] | None]":
        """Blocks until there is a batch, and starts it; an empty one means that the batcher is closed."""
        with self._changed:
            self._busy = False
            batch: list[_Waiting[Item, Result]] = []
            while not batch:
                self._wait_for_work()
                if self._ended is not None:
                    return [], None
                chosen, collated = self._ahead or ([], None)
                self._ahead = None
                batch = [waiting for waiting in chosen if waiting.future.set_running_or_notify_cancel()]
                if not chosen or len(batch) < len(chosen):
                    collated = None  # whoever left must not be computed, and others may have the place
                    group = self._groups.get(chosen[0].key, {}) if chosen else self._oldest_group()
                    for waiting in list(group.values()):
                        if len(batch) == self._max_batch:
                            break
                        self._give_up_place(waiting)
                        if waiting.future.set_running_or_notify_cancel():
                            batch.append(waiting)
                for waiting in chosen:
                    self._give_up_place(waiting)
            self._busy = True
            self._collate_ahead()
            return batch, collated

    def _wait_for_work(self) -> None:
        while self._ended is None and self._ahead is None and self._waiting < self._max_batch:
            remaining = math.inf
            if self._groups:
                oldest = next(iter(self._oldest_group().values()))
                remaining = oldest.since + self._max_wait_s - time.monotonic()
            if remaining <= 0 or (self._groups and not self._announced):
                return
            self._changed.wait(None if remaining == math.inf else remaining)

    def _oldest_group(self) -> dict[int, _Waiting[Item, Result]]:
        return min(self._groups.values(), key=lambda group: next(iter(group)))

    def _collate_ahead(self) -> None:
        if not self._busy or self._ahead is not None or self._ended is not None or self._waiting < self._max_batch:
            return
        group = self._oldest_group()
        if len(group) >= self._max_batch:
            batch = list(itertools.islice(group.values(), self._max_batch))
            for waiting in batch:
                self._leave_group(waiting)
            self._ahead = (batch, self._host.submit(self._collate, [waiting.item for waiting in batch]))

    def _leave(self, waiting: _Waiting[Item, Result]) -> None:
        """What is done waits no longer: matters for those that were cancelled."""
        with self._changed:
            self._give_up_place(waiting)

    def _give_up_place(self, waiting: _Waiting[Item, Result]) -> None:
        if waiting.has_place:
            waiting.has_place = False
            self._waiting -= 1
            self._leave_group(waiting)

    def _leave_group(self, waiting: _Waiting[Item, Result]) -> None:
        group = self._groups.get(waiting.key, {})
        if group.pop(waiting.number, None) is not None and not group:
            del self._groups[waiting.key]

    def _compute(self, batch: list[_Waiting[Item, Result]], collated: "Future[Collated] | None" = None) -> None:
        error = self._attempt(batch, collated)
        if error is None:
            return
        if isinstance(error, DocumentError) and error.code is ErrorCode.DEVICE_LOST:
            raise error
        self._recover(error)
        if len(batch) == 1:
            batch[0].future.set_exception(error)
            return
        del error, collated  # their frames hold what the failed attempt had on the device
        middle = len(batch) // 2
        self._compute(batch[:middle])
        self._compute(batch[middle:])

    def _attempt(
        self, batch: list[_Waiting[Item, Result]], collated: "Future[Collated] | None" = None
    ) -> Exception | None:
        try:
            ready = collated.result() if collated is not None else self._collate([waiting.item for waiting in batch])
            done = list(zip(batch, self._run(ready), strict=True))
        except Exception as error:  # noqa: BLE001 - whatever it is, it is the result of one of these items
            return error
        for waiting, result in done:
            waiting.future.set_result(result)
        return None


def _device_lost() -> DocumentError:
    return DocumentError(ErrorCode.DEVICE_LOST, "the device failed and the service ends; try again elsewhere.")
