"""The service's Executor with a line in the batch log for each batch that its engine ran, and nothing else changed."""

from benchmarks.peers.batch_log import BatchLog
from executor import Blip2Executor
from executor.jina_adapter import executor
from executor.model.engine import Engine, PreparedBatch


class CountedEngine(Engine):
    """Notes the size of each batch, as the peers do."""

    _log = BatchLog()

    def run(self, batch: PreparedBatch) -> list[str]:
        answers = super().run(batch)
        self._log.write(len(answers))
        return answers


vars(executor)["Engine"] = CountedEngine


class CountedExecutor(Blip2Executor):
    """For Jina, which reads the name of the class from a config.yml."""
