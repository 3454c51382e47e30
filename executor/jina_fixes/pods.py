"""The processes that Jina starts for an Executor or a gateway, a Pod each: how they end, and how they come back.

Between the program that opens a Deployment and each process that serves stands a keeper: a process that does nothing
but start the serving one, again when it dies. The program itself could not: it may hold locks of gRPC and a CUDA
context, and what is forked from it then hangs. The keeper is forked where Jina forks, when the Deployment opens.
"""

import argparse
import asyncio
import faulthandler
import multiprocessing
import os
import signal
import threading
import time
from multiprocessing import connection
from multiprocessing.process import BaseProcess
from types import FrameType
from typing import Any

from ..settings import ENV_PREFIX, Settings

_SHORTEST_PAUSE_S = 0.5
_LONGEST_PAUSE_S = 30.0
_LIVED_WELL_S = 60.0
"""A process that served as long is started again at once: its death is not that of the one before."""
_CLOSING_S = 15.0
"""To close after the drain: the batch that runs, threads, connections."""
_POLL_S = 1.0
_WATCH_NAME = "end-with-parent"


def drain_timeout_s(args: Any = None) -> float:
    """The setting of that name, as far as a process without an Executor can know it.

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


def let_a_segfault_end_a_process() -> None:
    """Jina handles SIGSEGV as if it asked to end; the handler returns to the instruction that failed, for ever."""
    from jina.serve.runtimes import asyncio as runtimes

    runtimes.HANDLED_SIGNALS = tuple(number for number in runtimes.HANDLED_SIGNALS if number != signal.SIGSEGV)


def end_pods_at_once_while_they_load() -> None:
    """A Pod told to end while its model loads loads it to the end first; Ctrl-C ends all Pods of a program at once.

    That is not the order in which they can finish their work. The program gets the same Ctrl-C, and closes its Pods.
    """
    from jina.serve.runtimes.asyncio import AsyncNewLoopRuntime

    get_server = AsyncNewLoopRuntime._get_server

    def _get_server(self: Any) -> Any:
        if multiprocessing.parent_process() is None:
            return get_server(self)
        for number in (signal.SIGTERM, signal.SIGINT):
            self._loop.remove_signal_handler(number)
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        server = get_server(self)
        self._loop.add_signal_handler(signal.SIGTERM, self.is_cancel.set)
        return server

    AsyncNewLoopRuntime._get_server = _get_server


def keep_pods_serving() -> None:
    """A Pod whose process dies stays away while its program goes on, and outlives its program when that dies.

    And what closes a Pod stops waiting after `timeout_ctrl`, even if its drain takes longer.
    """
    from jina.orchestrate import pods

    initialise = pods.Pod.__init__

    def __init__(self: Any, args: argparse.Namespace) -> None:
        initialise(self, args)
        self._timeout_ctrl = _longest_end_s(args) + _CLOSING_S

    pods.Pod.__init__ = __init__
    pods.run = keep


def end_a_worker_with_its_parent_and_its_device() -> None:
    """A worker whose parent never imported this package has no keeper, and no worker knows of a lost device."""
    from jina.serve.runtimes.servers.grpc import GRPCServer

    set_up = GRPCServer.setup_server

    async def setup_server(self: Any) -> None:
        executor: Any = getattr(self._request_handler, "_executor", None)
        policy = getattr(executor, "server_policy", None)
        if policy is not None:
            loop = asyncio.get_running_loop()
            loop.remove_signal_handler(signal.SIGSEGV)
            if multiprocessing.parent_process() is not None:
                end_with_parent(policy.drain_timeout_s, policy.drain_timeout_s + _CLOSING_S)
            if executor.on_device_lost is None:
                executor.on_device_lost = lambda: asyncio.run_coroutine_threadsafe(_end_without_device(self), loop)
        await set_up(self)

    GRPCServer.setup_server = setup_server


async def _end_without_device(server: Any) -> None:
    policy = server._request_handler._executor.server_policy
    await server.health_servicer.enter_graceful_shutdown()
    await policy.calls.drain(policy.drain_timeout_s)
    await server.server.stop(1)
    os._exit(1)


def look_up_no_public_address() -> None:
    """Jina asks three hosts on the internet for the machine's address, to print it."""
    from jina.orchestrate import orchestrator

    orchestrator.get_public_ip = lambda: None


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
    """What a Pod's process runs in place of `jina.serve.executors.run.run`, with the same arguments."""
    from jina.serve.executors.run import run

    if pod["args"].stateful:  # it has a companion, which knows this process alone
        run(**pod)
    else:
        _Keeper(pod).run()


def _longest_end_s(args: Any) -> float:
    return max(float(args.timeout_ctrl), drain_timeout_s(args) + _CLOSING_S)


class _Keeper:
    """Starts a serving process, again when it dies, until it is told to end."""

    def __init__(self, pod: dict[str, Any]) -> None:
        from jina.logging.logger import JinaLogger

        self._pod = pod
        self._end_s = _longest_end_s(pod["args"])
        self._logger = JinaLogger(pod["name"], **vars(pod["args"]))
        self._context = multiprocessing.get_context("fork")
        self._told_to_end, self._tell_to_end = os.pipe()

    def run(self) -> None:
        """Returns when the serving process has ended for good: as told, or because its first start failed."""
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, self._end)
        self._pod["is_signal_handlers_installed"].set()
        end_with_parent(drain_timeout_s(self._pod["args"]) + _CLOSING_S, self._end_s + _CLOSING_S)
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

    def _end(self, number: int, frame: FrameType | None) -> None:
        os.write(self._tell_to_end, b".")

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

    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
    faulthandler.enable()  # a segfault says where
    end_with_parent(0, _longest_end_s(pod["args"]))
    run(**pod)


def _obituary(process: BaseProcess) -> str:
    status = process.exitcode or 0
    how = f"with status {status}" if status >= 0 else f"by {signal.Signals(-status).name}"
    return f"process {process.pid} has ended {how}"
