"""The log of the process: text as Jina writes it, or a JSON object on each line; with the request's id in both.

Knows Python's logging, and what writes past it: warnings, uncaught exceptions, progress bars.
"""

import json
import logging
import sys
import threading
from datetime import datetime, timezone
from types import TracebackType
from typing import Any, Literal

from opentelemetry import trace

from executor.telemetry import request_ids

LogFormat = Literal["text", "json"]

_log = logging.getLogger("blip2")


def set_up(format: LogFormat) -> None:
    """Has this process log in `format` from now on. May be called again.

    Args:
        format: `text` leaves handlers as they are, appends the request's id to what is said within a request, and has
            what no handler is there for begin with the time.
    """
    if format == "json":
        logging.setLogRecordFactory(logging.LogRecord)
        _use_json()
    else:
        logging.setLogRecordFactory(_record_with_id)
        if logging.lastResort is not None:  # of loggers that have no handler
            logging.lastResort.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))


def is_json() -> bool:
    """Tells whether this process logs JSON."""
    return any(getattr(handler, "writes_json", False) for handler in logging.getLogger().handlers)


def give_to_root(logger: logging.Logger) -> None:
    """Takes a logger's own handlers from it: what it is told is written once, as JSON."""
    logger.handlers = []
    logger.propagate = True


class JsonLines(logging.Formatter):
    """Formats a record as a JSON object, in one line of ASCII.

    `time` (RFC 3339, UTC), `level`, `message` and `logger`; `request_id` and `trace_id` within a request, the latter
    where there are traces; `exception`, with its traceback, where there is one.
    """

    def format(self, record: logging.LogRecord) -> str:
        time = datetime.fromtimestamp(record.created, timezone.utc)
        entry: dict[str, Any] = {
            "time": time.isoformat(timespec="microseconds").replace("+00:00", "Z"),
            "level": record.levelname,
            "message": record.getMessage(),
            "logger": record.name,
        }
        if (request_id := request_ids.current()) is not None:
            entry["request_id"] = request_id
        if (span := trace.get_current_span().get_span_context()).is_valid:
            entry["trace_id"] = trace.format_trace_id(span.trace_id)
        if record.exc_info and record.exc_info[0] is not None:
            entry["exception"] = self.formatException(record.exc_info)
        if record.stack_info:
            entry["stack"] = record.stack_info
        return json.dumps(entry)


def _record_with_id(*args: Any, **kwargs: Any) -> logging.LogRecord:
    record = logging.LogRecord(*args, **kwargs)
    if (request_id := request_ids.current()) is not None:
        record.msg = f"{record.msg} [request {request_id}]"
    return record


def _use_json() -> None:
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(JsonLines())
    handler.writes_json = True  # type: ignore[attr-defined]
    logging.getLogger().handlers = [handler]
    for logger in logging.Logger.manager.loggerDict.values():
        if isinstance(logger, logging.Logger) and logger.handlers:
            give_to_root(logger)
    logging.captureWarnings(True)
    sys.excepthook = _say_uncaught
    threading.excepthook = lambda told: _say_uncaught(told.exc_type, told.exc_value, told.exc_traceback)
    _hide_progress()


def _say_uncaught(kind: type[BaseException], error: BaseException | None, traceback: TracebackType | None) -> None:
    _log.critical("uncaught exception", exc_info=(kind, error or kind(), traceback))


def _hide_progress() -> None:
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()  # of huggingface_hub too
