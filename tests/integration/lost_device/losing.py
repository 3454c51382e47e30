"""The Executor on a device that fails for good when an answer of `FATAL_LENGTH` tokens is asked of it."""

from typing import Any

from executor import Blip2Executor
from executor.errors import DocumentError, ErrorCode
from executor.model.engine import CollatedBatch
from executor.service import AnswerEngine

FATAL_LENGTH = 13


class _LosingEngine:
    def __init__(self, engine: AnswerEngine) -> None:
        self._engine = engine

    def __getattr__(self, name: str) -> Any:
        return getattr(self._engine, name)

    def run(self, batch: CollatedBatch) -> Any:
        if batch.options.max_new_tokens == FATAL_LENGTH:
            raise DocumentError(ErrorCode.DEVICE_LOST, "as the test wants it")
        return self._engine.run(batch)


class LosingExecutor(Blip2Executor):
    """As the Executor otherwise."""

    def new_engine(self, *parts: Any) -> Any:
        return _LosingEngine(super().new_engine(*parts))
