"""Where Jina's loggers write."""

from typing import Any

from executor.telemetry import logs


def log_as_the_process_does() -> None:
    """Has Jina's loggers write as the process does.

    Jina gives each of them handlers of its own, with its formats, and makes new loggers at any time. In a process that
    logs JSON they write through the handler of all others.
    """
    from jina.logging.logger import JinaLogger

    add_handlers = JinaLogger.add_handlers

    def add_handlers_of_the_process(self: Any, *args: Any, **kwargs: Any) -> None:
        add_handlers(self, *args, **kwargs)
        if logs.is_json():
            logs.give_to_root(self.logger)

    JinaLogger.add_handlers = add_handlers_of_the_process
