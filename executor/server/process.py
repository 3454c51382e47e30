"""The one process of `python -m executor`: its port from the first second, and its end.

While the model is loaded the port answers health checks with NOT_SERVING. What signals do is in `signals`. Knows Jina's
runtime and gRPC; of the Executor it knows what it sets, `on_device_lost`.
"""

import argparse
import asyncio
import faulthandler
import logging
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1.health import HealthServicer
from jina.serve.runtimes import asyncio as runtimes
from jina.serve.runtimes.asyncio import AsyncNewLoopRuntime
from jina.serve.runtimes.worker.request_handling import WorkerRequestHandler

from executor.server import signals
from executor.server.authority import authority_of

_LAST_ANSWERS_S = 1.0
"""Between a lost device and the end: what was in flight gets its error, and health checks see NOT_SERVING."""


class _NotYet(grpc.GenericRpcHandler):
    """Ends every call with UNAVAILABLE. gRPC itself would say UNIMPLEMENTED, after which no client tries again."""

    def service(self, details: grpc.HandlerCallDetails) -> Any:
        return grpc.stream_stream_rpc_method_handler(self._refuse)

    @staticmethod
    def _refuse(_: object, context: grpc.ServicerContext) -> Iterator[Any]:
        context.abort(grpc.StatusCode.UNAVAILABLE, "the service is starting; try again in some seconds.")
        yield


class LoadingPort:
    """Holds the port while the model is loaded: health checks see NOT_SERVING, other calls UNAVAILABLE.

    Raises:
        OSError: the port cannot be bound.
    """

    def __init__(self, host: str, port: int) -> None:
        with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((host, port))
        health = HealthServicer()
        health.set("", health_pb2.HealthCheckResponse.NOT_SERVING)
        self._server = grpc.server(
            ThreadPoolExecutor(1, thread_name_prefix="loading"), options=(("grpc.so_reuseport", 0),)
        )
        health_pb2_grpc.add_HealthServicer_to_server(health, self._server)
        self._server.add_generic_rpc_handlers((_NotYet(),))
        self._server.add_insecure_port(authority_of(host, port))
        self._server.start()

    def release(self) -> None:
        """Lets go of the port."""
        self._server.stop(None).wait()


class _RequestHandler(WorkerRequestHandler):
    """Jina's, less its log of an Executor that cannot be loaded: `__main__` says it in one line, with the reason."""

    def _load_executor(self, *arguments: Any, **named: Any) -> None:
        self.logger.logger.addFilter(_is_no_error)
        try:
            super()._load_executor(*arguments, **named)
        finally:
            self.logger.logger.removeFilter(_is_no_error)


def _is_no_error(record: logging.LogRecord) -> bool:
    return record.levelno < logging.ERROR


class Runtime(AsyncNewLoopRuntime):
    """Runs Jina's server in this process, with an end that loses nothing.

    Args:
        args: of Jina's pod.
        port: held until the model is there.
    """

    def __init__(self, args: argparse.Namespace, port: LoadingPort) -> None:
        self._port = port
        self._device_is_lost = False
        # Jina's own handlers would do nothing while the model is loaded, and the one of SIGSEGV returns to the
        # instruction that failed, again and again.
        runtimes.HANDLED_SIGNALS = ()
        faulthandler.enable()  # a segfault says where
        super().__init__(args, req_handler_cls=_RequestHandler)

    @property
    def exit_status(self) -> int:
        """Tells how the process ends: 1 where the device was lost, so that whoever watches it starts it again."""
        return 1 if self._device_is_lost else 0

    async def async_setup(self) -> None:
        """Loads the model and opens the port."""
        self.server = self._get_server()
        self.server._request_handler._executor.on_device_lost = self._lose_device
        # Jina waits for `is_cancel`, and then has the server shut down, which drains: see `jina_adapter.draining`.
        signals.drain_on_signals(self._loop, self.is_cancel.set)
        self._port.release()
        await self.server.setup_server()

    def _lose_device(self) -> None:
        self._device_is_lost = True
        asyncio.run_coroutine_threadsafe(self._end_after_device_loss(), self._loop)

    async def _end_after_device_loss(self) -> None:
        await self.server.health_servicer.enter_graceful_shutdown()
        await asyncio.sleep(_LAST_ANSWERS_S)
        self.is_cancel.set()
