"""How long the stages of a batch take on the device, measured without making it wait.

Knows clocks and CUDA's events. It must not know what a stage does, nor who is told of it.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from executor.telemetry.observer import StageTimes


class Stopwatch:
    """Measures the stages of one batch.

    Args:
        device: on which they run; on CUDA events are recorded between the kernels.

    Attributes:
        steps: of the answers, set by who generates them.
        tokens: of the answers, set by who generates them.
    """

    def __init__(self, device: torch.device) -> None:
        self._is_cuda = device.type == "cuda"
        self._seconds: dict[str, float] = {}
        self._events: dict[str, tuple[torch.cuda.Event, torch.cuda.Event]] = {}
        self.steps = 0
        self.tokens = 0

    @contextmanager
    def measure(self, stage: str) -> Iterator[None]:
        """Measures what is given to the device within the context.

        Args:
            stage: `encode`, `prefill` or `decode`.
        """
        if self._is_cuda:
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            start.record()
            yield
            end.record()
            self._events[stage] = (start, end)
        else:
            started = time.perf_counter()
            yield
            self._seconds[stage] = time.perf_counter() - started

    def read(self) -> StageTimes:
        """Gives the times, once the device has finished the batch. A stage that was not measured took 0 seconds."""
        seconds = self._seconds | {
            stage: start.elapsed_time(end) / 1000 for stage, (start, end) in self._events.items()
        }
        encode_s, prefill_s, decode_s = (seconds.get(stage, 0.0) for stage in ("encode", "prefill", "decode"))
        return StageTimes(encode_s, prefill_s, decode_s, self.steps, self.tokens)
