"""The service from start to end, again and again: what it holds, how it ends. Knows nothing of what it is asked."""

import asyncio
import math
import os
import signal
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

from demo.service import Service

_LONGEST_END_S = 60
_OLD_CONNECTIONS_S = 10
_FEWEST_SAMPLES = 6
MOST_GROWTH = {"megabytes": 30.0, "descriptors": 32.0, "threads": 4.0}
"""From the second third of a life to the last one, in medians. Megabytes: what the allocator keeps for later, and pages
of weights and libraries that are touched for the first time. Descriptors: connections of clients and idle connections
to picture servers come and go. Threads: those of gRPC do."""


@dataclass(frozen=True)
class Sample:
    """What the process holds."""

    megabytes: float
    descriptors: int
    threads: int

    @classmethod
    def of(cls, pid: int) -> "Sample":
        process = Path(f"/proc/{pid}")
        pages = int((process / "statm").read_text().split()[1])
        return cls(
            pages * os.sysconf("SC_PAGE_SIZE") / 2**20,
            len(os.listdir(process / "fd")),
            len(os.listdir(process / "task")),
        )


@dataclass
class Life:
    """One process of the service.

    Attributes:
        seconds: that it serves before it is told to end.
        end: the signal.
        ended_by_itself: before it was told to.
        status: its exit status, when it has ended.
    """

    seconds: float
    end: signal.Signals
    samples: list[Sample] = field(default_factory=list)
    ended_by_itself: bool = False
    status: int | None = None

    def growth(self) -> dict[str, float]:
        """From the second third of the samples to the last third, the first being warm-up; empty for few samples."""
        third = len(self.samples) // 3
        if len(self.samples) < _FEWEST_SAMPLES:
            return {}
        early, late = self.samples[third : 2 * third], self.samples[2 * third :]
        return {
            name: median(getattr(sample, name) for sample in late) - median(getattr(sample, name) for sample in early)
            for name in MOST_GROWTH
        }

    def faults(self) -> list[str]:
        """What is not as it must be."""
        grown = [
            f"{name} grew by {growth:.0f} in a life of {self.seconds:.0f} s (at most {MOST_GROWTH[name]:.0f})"
            for name, growth in self.growth().items()
            if growth > MOST_GROWTH[name]
        ]
        expected = 0 if self.end is signal.SIGTERM else -self.end
        wrong_end = self.ended_by_itself or self.status != expected
        who = "by itself" if self.ended_by_itself else self.end.name
        return grown + ([f"ended ({who}) with exit status {self.status}"] if wrong_end else [])


def plan(seconds: float, typical_s: float = 150) -> list[Life]:
    """Lives for a soak of so many seconds: one takes half of it, so that slow leaks show; kill -9 ends every third."""
    count = max(2, round(seconds / 2 / typical_s))
    ends = [signal.SIGKILL if number % 3 == 0 else signal.SIGTERM for number in range(count - 1)]
    return [
        Life(seconds / 2, signal.SIGTERM),
        *(Life(seconds / 2 / count, end) for end in [*ends, signal.SIGTERM]),
    ]


class Lives:
    """Starts the service on its port, lets it live, ends it under load, and so on.

    Args:
        lives: in order.
        start: makes a service that is not started yet.
        sample_s: seconds between two looks at the process.
    """

    def __init__(self, lives: Sequence[Life], start: Callable[[], Service], sample_s: float) -> None:
        self.lives = lives
        self.current = 0
        self.was_killed = False
        """From a kill -9 until the next life serves: calls may break off."""
        self._is_closing = False
        self._serves_since_s = -math.inf
        self.is_over = asyncio.Event()
        """The last life is about to end."""
        self.is_serving = asyncio.Event()
        """Once the first life serves."""
        self._start = start
        self._sample_s = sample_s

    @property
    def is_closing(self) -> bool:
        """From a SIGTERM until a while after the next life serves: calls may meet a server that is just closing, or be
        sent on a connection that was to the one before."""
        return self._is_closing or time.monotonic() - self._serves_since_s < _OLD_CONNECTIONS_S

    async def run(self) -> None:
        """All lives but the end of the last one, which `end` brings."""
        for number, life in enumerate(self.lives):
            self.current = number
            self._service = self._start()
            await asyncio.to_thread(self._service.__enter__)
            self.was_killed = self._is_closing = False
            if number:
                self._serves_since_s = time.monotonic()
            self.is_serving.set()
            await self._live(life)
            if number < len(self.lives) - 1:
                await self._end(life)
        self.is_over.set()

    async def end(self) -> None:
        """Ends the service, whatever it does."""
        await self._end(self.lives[self.current])

    async def _live(self, life: Life) -> None:
        process = self._service.process
        for _ in range(max(1, round(life.seconds / self._sample_s))):
            await asyncio.sleep(self._sample_s)
            if process.poll() is not None:
                life.ended_by_itself = True
                return
            life.samples.append(Sample.of(process.pid))

    async def _end(self, life: Life) -> None:
        if life.status is not None:
            return
        if life.end is signal.SIGKILL:
            self.was_killed = True
            self._service.process.kill()
        self._is_closing = True
        life.status = await asyncio.to_thread(self._service.stop, _LONGEST_END_S)
