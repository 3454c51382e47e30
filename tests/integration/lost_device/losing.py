"""The Executor on a device that fails for good when an answer of `FATAL_LENGTH` tokens is asked of it."""

from executor.errors import ErrorCode, RequestError
from executor.jina_adapter import executor
from executor.model.engine import Engine, PreparedBatch

FATAL_LENGTH = 13


class _LosingEngine(Engine):
    def run(self, batch: PreparedBatch) -> list[str]:
        if batch.options.max_new_tokens == FATAL_LENGTH:
            raise RequestError(ErrorCode.DEVICE_LOST, "as the test wants it")
        return super().run(batch)


class LosingExecutor(executor.Blip2Executor):
    """As the Executor otherwise."""


executor.Engine = _LosingEngine  # type: ignore[attr-defined]  # this module is only ever loaded by a service of its own
