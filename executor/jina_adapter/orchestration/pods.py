"""The processes that Jina starts for an Executor or a gateway, a Pod each: how they end, and how they come back."""

import argparse
import asyncio
import multiprocessing
import os
import signal
import threading
import weakref
from collections.abc import Callable
from multiprocessing import util
from multiprocessing.process import BaseProcess
from typing import Any

from executor.jina_adapter.contract import executor_of
from executor.jina_adapter.orchestration.keeper import CLOSING_S, end_with_parent, keep, longest_end_s
from executor.server import signals
from executor.server.calls import Calls


def let_a_segfault_end_a_process() -> None:
    """Lets a segfault end a process. Jina's handler of it returns to the instruction that failed, for ever."""
    from jina.serve.runtimes import asyncio as runtimes

    runtimes.HANDLED_SIGNALS = tuple(number for number in runtimes.HANDLED_SIGNALS if number != signal.SIGSEGV)


def end_pods_at_once_while_they_load() -> None:
    """Ends a Pod at once that is told to end while its model loads, and leaves Ctrl-C to the program.

    Jina's loads the model to the end first, and Ctrl-C ends all Pods of a program at once. That is not the order in
    which they can finish their work. The program gets the same Ctrl-C, and closes its Pods.
    """
    from jina.serve.runtimes.asyncio import AsyncNewLoopRuntime

    get_server = AsyncNewLoopRuntime._get_server

    def _get_server(self: Any) -> Any:
        if multiprocessing.parent_process() is None:
            return get_server(self)
        signals.end_while_loading(self._loop)
        server = get_server(self)
        signals.drain_on_sigterm(self._loop, self.is_cancel.set)
        return server

    AsyncNewLoopRuntime._get_server = _get_server


def keep_pods_serving() -> None:
    """Starts a Pod again when its process dies, and ends it when its program does.

    Jina's stays away while its program goes on, and outlives its program when that dies. What closes a Pod stops
    waiting after `timeout_ctrl`, even if its drain takes longer. A program that ends without closing its Pods waits for
    them for ever. Now a keeper stands between the program and each process that serves.
    """
    from jina.orchestrate import pods

    initialise = pods.Pod.__init__

    def __init__(self: Any, args: argparse.Namespace) -> None:
        initialise(self, args)
        self._timeout_ctrl = longest_end_s(args) + CLOSING_S
        util.Finalize(None, _end_if_running, args=(weakref.ref(self.worker),), exitpriority=1)

    pods.Pod.__init__ = __init__
    pods.run = keep


def end_a_worker_with_its_parent_and_its_device() -> None:
    """Ends a worker whose parent has ended, or whose device is lost.

    One whose parent did not take its Deployment from this package has no keeper, and no worker of Jina knows of
    devices.
    """
    from jina.serve.runtimes.servers.grpc import GRPCServer

    set_up = GRPCServer.setup_server

    async def setup_server(self: Any) -> None:
        executor = executor_of(self)
        if executor is not None:
            drain_timeout_s = executor.server_policy.drain_timeout_s
            loop = asyncio.get_running_loop()
            if threading.current_thread() is threading.main_thread():
                loop.remove_signal_handler(signal.SIGSEGV)
            if multiprocessing.parent_process() is not None:
                end_with_parent(drain_timeout_s, drain_timeout_s + CLOSING_S)
            if executor.on_device_lost is None:
                calls = executor.server_policy.calls

                def end() -> None:
                    asyncio.run_coroutine_threadsafe(_end_after_device_loss(self, calls, drain_timeout_s), loop)

                executor.on_device_lost = end
        await set_up(self)

    GRPCServer.setup_server = setup_server


async def _end_after_device_loss(server: Any, calls: Calls, drain_timeout_s: float) -> None:
    try:
        await server.health_servicer.enter_graceful_shutdown()
        await calls.drain(drain_timeout_s)
        await server.server.stop(1)
    finally:
        os._exit(1)


def look_up_no_public_address() -> None:
    """Keeps Jina from asking three hosts on the internet for the machine's address, to print it."""
    from jina.orchestrate import orchestrator

    orchestrator.get_public_ip = lambda: None


def _end_if_running(process: Callable[[], BaseProcess | None]) -> None:
    running = process()
    if running is not None and running.is_alive():
        running.terminate()
