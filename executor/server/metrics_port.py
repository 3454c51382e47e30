"""The port that Prometheus scrapes: plain HTTP, open to whoever reaches it.

Knows prometheus_client's server; what the metrics are, `telemetry.metrics` knows.
"""

import logging
import threading
from contextlib import suppress
from typing import Any
from wsgiref.simple_server import WSGIServer

from prometheus_client import CollectorRegistry, start_http_server

from executor.errors import StartupError

_LONGEST_SILENCE_S = 10.0
"""For a client. Each has a thread, and one that is gone without a word would keep it for ever."""


class MetricsPort:
    """Serves a registry over HTTP, at every path.

    Args:
        registry: what is served.
        ports: tried one after the other; replicas on one host take the first that is free.
        log: told which one it is.
    """

    def __init__(self, registry: CollectorRegistry, ports: range, log: logging.Logger) -> None:
        self._registry = registry
        self._ports = ports
        self._log = log
        self._server: tuple[WSGIServer, threading.Thread] | None = None

    def open(self, host: str) -> None:
        """Serves until `close`, on a thread of its own.

        Args:
            host: the address of the gRPC port.

        Raises:
            StartupError: none of the ports can be listened on.
        """
        for port in self._ports:
            with suppress(OSError):
                server, thread = start_http_server(port, host, self._registry)
                server.RequestHandlerClass = _impatient(server.RequestHandlerClass)
                self._server = server, thread
                self._log.info(f"metrics on {host}:{port}")
                return
        tried = " to ".join(str(port) for port in sorted({self._ports[0], self._ports[-1]}))
        raise StartupError(f"metrics_port {tried} cannot be listened on: in use, or not for this user")

    def close(self) -> None:
        """Ends the server and its thread, where there are any; waits up to half a second for it."""
        if self._server is not None:
            server, thread = self._server
            self._server = None
            server.shutdown()
            server.server_close()
            thread.join()


def _impatient(handler: Any) -> Any:
    class Impatient(handler):
        timeout = _LONGEST_SILENCE_S

        def handle(self) -> None:
            with suppress(OSError):  # who leaves, or is silent for too long, gets no traceback
                super().handle()

    return Impatient
