"""The service's Executor with a line in the batch log for each batch that its engine ran, and nothing else changed."""

from typing import Any

from benchmarks.peers.batch_log import BatchLog
from executor import Blip2Executor
from executor.model.engine import CollatedBatch
from executor.service import AnswerEngine


class _CountedEngine:
    """Notes the size of each batch, as the peers do."""

    def __init__(self, engine: AnswerEngine) -> None:
        self._engine = engine
        self._log = BatchLog()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._engine, name)

    def run(self, batch: CollatedBatch) -> Any:
        answers = self._engine.run(batch)
        self._log.write(len(answers))
        return answers


class CountedExecutor(Blip2Executor):
    """For Jina, which reads the name of the class from a config.yml."""

    def new_engine(self, *parts: Any) -> Any:
        return _CountedEngine(super().new_engine(*parts))
