"""The Executor on a device that sleeps as long as a GPU would compute: all the host's work, and nothing else, is real.

`SLEEP_BATCH_MS` and `SLEEP_DOCUMENT_MS` of the environment: what a batch takes, and each document of it. An answer is
the beginning of its picture's content key, so that who asked can tell that it is the right one.
"""

import os
import time

from executor.jina_adapter import executor
from executor.model.engine import Engine, PreparedBatch


class _SleepingEngine(Engine):
    def run(self, batch: PreparedBatch) -> list[str]:
        per_batch, per_document = (float(os.environ[f"SLEEP_{name}_MS"]) for name in ("BATCH", "DOCUMENT"))
        time.sleep((per_batch + per_document * len(batch.keys)) / 1000)
        return [key.hex()[:16] for key in batch.keys]


class SleepingExecutor(executor.Blip2Executor):
    """As the Executor otherwise."""


executor.Engine = _SleepingEngine  # type: ignore[attr-defined]  # this module is only ever loaded by a service of its own
