"""The process that starts a serving process, again when it dies, until it is told to end.

It stands between the program that opens a Deployment and each process that serves. The program itself could not do
this: it may hold locks of gRPC and a CUDA context, and what is forked from it then hangs. The keeper is forked where
Jina forks, when the Deployment opens, and does nothing else.

Knows Jina's `run`, and neither Executors nor gateways.
"""

import faulthandler
import multiprocessing
import os
import signal
import threading
import time
from multiprocessing import connection
from multiprocessing.process import BaseProcess
from typing import Any

from executor.server import signals
from executor.settings import ENV_PREFIX, Settings

CLOSING_S = 15.0
"""To close after the drain: the batch that runs, threads, connections."""
_SHORTEST_PAUSE_S = 0.5
_LONGEST_PAUSE_S = 30.0
_LIVED_WELL_S = 60.0
"""A process that served as long is started again at once: its death is not that of the one before."""
_POLL_S = 1.0
_WATCH_NAME = "end-with-parent"


def drain_timeout_s(args: Any = None) -> float:
    """Returns the setting `drain_timeout_s`, as far as a process without an Executor can know it.

    Args:
        args: of a Pod, for its own environment and its `uses_with`.
    """
    variable = f"{ENV_PREFIX}DRAIN_TIMEOUT_S"
    value = (getattr(args, "env", None) or {}).get(variable) or os.environ.get(variable)
    if not value:
        value = (getattr(args, "uses_with", None) or {}).get("drain_timeout_s")
    try:
        return float(Settings.model_fields["drain_timeout_s"].default if value is None else value)
    except ValueError:  # the Executor, which needs it, refuses to start
        return float(Settings.model_fields["drain_timeout_s"].default)


def longest_end_s(args: Any) -> float:
    """Returns the seconds after which a process that was told to end is killed."""
    return max(float(args.timeout_ctrl), drain_timeout_s(args) + CLOSING_S)


def end_with_parent(patience_s: float, end_s: float) -> None:
    """Ends this process, as SIGTERM does, when its parent has ended. Watches on a thread of its own.

    Args:
        patience_s: how long the processes that the parent started after this one may take to end first: they hold the
            other end of the pipe that tells of the parent's end, so that a gateway is gone before its Executors go.
        end_s: after so long without an end the process is ended by force.
    """
    parent, pid = multiprocessing.parent_process(), os.getppid()
    if parent is None or any(thread.name == _WATCH_NAME for thread in threading.enumerate()):
        return

    def watch() -> None:
        while not connection.wait([parent.sentinel], _POLL_S):
            if os.getppid() != pid:
                connection.wait([parent.sentinel], patience_s)
                break
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(end_s)
        os._exit(1)

    threading.Thread(target=watch, name=_WATCH_NAME, daemon=True).start()


def keep(**pod: Any) -> None:
    """Runs what a Pod's process would, and keeps it running: `jina.serve.executors.run.run`, with its arguments."""
    from jina.serve.executors.run import run

    if pod["args"].stateful:  # it has a companion, which knows this process alone
        run(**pod)
    else:
        _Keeper(pod).run()


class _Keeper:
    """Starts a serving process, again when it dies, until it is told to end."""

    def __init__(self, pod: dict[str, Any]) -> None:
        from jina.logging.logger import JinaLogger

        self._pod = pod
        self._end_s = longest_end_s(pod["args"])
        self._logger = JinaLogger(pod["name"], **vars(pod["args"]))
        self._context = multiprocessing.get_context("fork")

    def run(self) -> None:
        """Returns when the serving process has ended for good: as told, or because its first start failed."""
        self._told_to_end = signals.wake_on_sigterm()
        self._pod["is_signal_handlers_installed"].set()
        end_with_parent(drain_timeout_s(self._pod["args"]) + CLOSING_S, self._end_s + CLOSING_S)
        pause_s = _SHORTEST_PAUSE_S
        pod = self._pod
        try:
            while True:
                started = time.monotonic()
                process = self._start(pod)
                if self._ends_as_told(process):
                    break
                if not self._pod["is_ready"].is_set():
                    self._logger.error(f"{_obituary(process)} before it was ready")
                    break
                if time.monotonic() - started >= _LIVED_WELL_S:
                    pause_s = _SHORTEST_PAUSE_S
                self._logger.error(f"{_obituary(process)}; starting it again in {pause_s:g} s")
                if connection.wait([self._told_to_end], pause_s):
                    break
                pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)
                # Who opened the Deployment has seen the first start, and a process may have died with an event's lock.
                pod = self._pod | {name: self._context.Event() for name in ("is_started", "is_ready")}
        finally:
            self._pod["is_shutdown"].set()

    def _start(self, pod: dict[str, Any]) -> BaseProcess:
        own = pod | {
            "is_shutdown": self._context.Event(),
            "is_signal_handlers_installed": self._context.Event(),
        }
        process = self._context.Process(target=_serve, args=(own,), name=pod["name"])
        # Between its start and its first line the new process would take SIGTERM for the keeper's.
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        try:
            process.start()
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
        return process

    def _ends_as_told(self, process: BaseProcess) -> bool:
        """Waits for the end of a process. Returns whether this keeper was told to end it."""
        told = self._told_to_end in connection.wait([process.sentinel, self._told_to_end])
        if told:
            process.terminate()
            if not connection.wait([process.sentinel], self._end_s):
                self._logger.error(f"process {process.pid} has not ended in {self._end_s:g} s and is killed")
                process.kill()
        process.join()
        return told


def _serve(pod: dict[str, Any]) -> None:
    from jina.serve.executors.run import run

    signals.forget_wake_on_sigterm()
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
    faulthandler.enable()  # a segfault says where
    end_with_parent(0, longest_end_s(pod["args"]))
    run(**pod)


def _obituary(process: BaseProcess) -> str:
    status = process.exitcode or 0
    how = f"with status {status}" if status >= 0 else f"by {signal.Signals(-status).name}"
    return f"process {process.pid} has ended {how}"
