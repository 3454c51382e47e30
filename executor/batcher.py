"""The queue in front of the device: work-conserving, bounded, cancellable.

One thread owns the device. Whenever it is free, it takes the oldest waiting item and what waits with the same key, at
most `max_batch`; only an idle device waits for company, and at most `max_wait_s`. Knows nothing of Jina, torch or
pictures.
"""

import threading
import time
from collections import deque
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from .errors import ErrorCode, RequestError

Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass
class _Waiting(Generic[Item, Result]):
    item: Item
    key: Hashable
    since: float
    future: "Future[Result]" = field(default_factory=Future)


class Batcher(Generic[Item, Result]):
    """Runs items in batches on one thread.

    Args:
        run: takes items with equal keys, returns one result for each, in order.
        max_batch: most items in one call of `run`.
        max_wait_s: the longest, in seconds, that an item waits for company while the device is idle.
        max_queue: most items that wait.
    """

    def __init__(
        self, run: Callable[[Sequence[Item]], Sequence[Result]], max_batch: int, max_wait_s: float, max_queue: int
    ) -> None:
        self._run = run
        self._max_batch = max_batch
        self._max_wait_s = max_wait_s
        self._max_queue = max_queue
        self._queue: deque[_Waiting[Item, Result]] = deque()
        self._changed = threading.Condition()
        self._closed = False
        self._thread = threading.Thread(target=self._loop, name="batcher", daemon=True)
        self._thread.start()

    def submit(self, item: Item, key: Hashable = None) -> "Future[Result]":
        """Puts an item into the queue. A future that is cancelled before its batch starts is never run.

        Raises:
            RequestError: `OVERLOADED` where the queue is full or closed.
        """
        waiting: _Waiting[Item, Result] = _Waiting(item, key, time.monotonic())
        with self._changed:
            if self._closed:
                raise RequestError(ErrorCode.OVERLOADED, "the service is shutting down; try again elsewhere.")
            if len(self._queue) >= self._max_queue:
                raise RequestError(
                    ErrorCode.OVERLOADED,
                    f"{self._max_queue} documents wait already (max_queue); try later.",
                )
            self._queue.append(waiting)
            self._changed.notify()
        return waiting.future

    def close(self) -> None:
        """Finishes the batch that runs and refuses what waits. Blocks until the thread has ended."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join()

    def _loop(self) -> None:
        while batch := self._next_batch():
            running = [waiting for waiting in batch if waiting.future.set_running_or_notify_cancel()]
            if running:
                self._compute(running)
        for waiting in self._queue:
            if waiting.future.set_running_or_notify_cancel():
                waiting.future.set_exception(
                    RequestError(ErrorCode.OVERLOADED, "the service is shutting down; try again elsewhere.")
                )

    def _next_batch(self) -> list[_Waiting[Item, Result]]:
        """Blocks until there is a batch; an empty one means that the batcher is closed."""
        with self._changed:
            self._changed.wait_for(lambda: self._queue or self._closed)
            if not self._closed:
                self._wait_for_company()
            if self._closed:
                return []
            key = self._queue[0].key
            batch: list[_Waiting[Item, Result]] = []
            others: deque[_Waiting[Item, Result]] = deque()
            for waiting in self._queue:
                taken = batch if waiting.key == key and len(batch) < self._max_batch else others
                taken.append(waiting)
            self._queue = others
            return batch

    def _wait_for_company(self) -> None:
        oldest = self._queue[0]
        remaining = oldest.since + self._max_wait_s - time.monotonic()
        if remaining > 0:
            self._changed.wait_for(lambda: self._closed or len(self._queue) >= self._max_batch, timeout=remaining)

    def _compute(self, batch: list[_Waiting[Item, Result]]) -> None:
        """Runs a batch; one that fails is run again in halves, until the guilty item stands alone."""
        try:
            results = self._run([waiting.item for waiting in batch])
        except Exception as error:  # noqa: BLE001 - whatever it is, it is this item's result
            if len(batch) == 1:
                batch[0].future.set_exception(error)
                return
            middle = len(batch) // 2
            self._compute(batch[:middle])
            self._compute(batch[middle:])
            return
        for waiting, result in zip(batch, results, strict=True):
            waiting.future.set_result(result)
