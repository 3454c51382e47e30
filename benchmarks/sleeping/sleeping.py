"""The Executor on a device that sleeps as long as a GPU would compute: all the host's work, and nothing else, is real.

`SLEEP_BATCH_MS` and `SLEEP_DOCUMENT_MS` of the environment: what a batch takes, and each document of it. An answer is
the beginning of its picture's content key, so that who asked can tell that it is the right one.
"""

import os
import time
from typing import Any

from executor import Blip2Executor
from executor.model.engine import CollatedBatch
from executor.service import AnswerEngine


class _SleepingEngine:
    def __init__(self, engine: AnswerEngine) -> None:
        self._engine = engine

    def __getattr__(self, name: str) -> Any:
        return getattr(self._engine, name)

    def run(self, batch: CollatedBatch) -> list[str]:
        per_batch, per_document = (float(os.environ[f"SLEEP_{name}_MS"]) for name in ("BATCH", "DOCUMENT"))
        time.sleep((per_batch + per_document * len(batch.keys)) / 1000)
        return [key.hex()[:16] for key in batch.keys]


class SleepingExecutor(Blip2Executor):
    """As the Executor otherwise."""

    def new_engine(self, *parts: Any) -> Any:
        return _SleepingEngine(super().new_engine(*parts))
