"""How the gRPC port is served: who may call, how much at a time, under which name, and how it ends.

Knows the settings and gRPC. `executor/jina_fixes/server.py` builds Jina's server from it.
"""

import logging
import multiprocessing
from collections.abc import Callable, Sequence
from typing import Any

import grpc

from executor.errors import StartupError
from executor.server.calls import Calls
from executor.server.tls import Certificates
from executor.server.tokens import RequireToken, Tokens
from executor.settings import Settings
from executor.telemetry.metrics import Metrics
from executor.telemetry.observer import SILENT, Observer
from executor.telemetry.request_ids import NameCalls

SHORTEST_PING_INTERVAL_MS = 5_000
"""Between two keepalive pings of a client. Jina's client sends one every 10 s; gRPC's own limit of 5 minutes would cut
it off, and no limit lets a client keep the service busy with pings."""


class ServerPolicy:
    """What the settings say about the gRPC port.

    Args:
        log: told when tokens or certificates change.
        full: what a document that comes now would be told; None where there is room for it.
        observer: told of calls, and of those that are refused.
        metrics: served on `metrics_port`; None where there is none.
        replicas: on this host, this one included; each takes the first port that is free from `metrics_port` on.

    Attributes:
        calls: those in progress.
        drain_timeout_s: the longest that a service which is to end waits for them.
        credentials: of TLS; None is plaintext.
        health_port: where health alone is served, in plaintext.
        observer: as given.

    Raises:
        StartupError: tokens or certificates cannot be used, or not in a process that Jina started.
    """

    def __init__(
        self,
        settings: Settings,
        log: logging.Logger,
        full: Callable[[], str | None] = lambda: None,
        observer: Observer = SILENT,
        metrics: Metrics | None = None,
        replicas: int = 1,
    ) -> None:
        self._metrics = metrics
        first = settings.metrics_port
        self._metrics_ports = range(first, min(first + replicas, 2**16)) if first is not None else range(0)
        self._log = log
        self.observer = observer
        self.calls = Calls(settings.max_calls, full, self.observer)
        self.drain_timeout_s = settings.drain_timeout_s
        self.health_port = settings.health_port
        self._max_message_bytes = settings.max_message_mb * 2**20
        self._tokens: Tokens | None = None
        if settings.auth_tokens or settings.auth_tokens_file:
            tokens = [token.get_secret_value() for token in settings.auth_tokens]
            self._tokens = Tokens(tokens, settings.auth_tokens_file, log)
        self.credentials: grpc.ServerCredentials | None = None
        if settings.tls_cert and settings.tls_key:
            if multiprocessing.parent_process() is not None:
                raise StartupError(
                    "tls_cert is for `python -m executor`; a Deployment or Flow of Jina asks its Executors in "
                    "plaintext whether they are ready, and would never be"
                )
            certificates = Certificates(settings.tls_cert, settings.tls_key, settings.tls_client_ca, log)
            self.credentials = certificates.credentials()

    def interceptors(self) -> Sequence[grpc.aio.ServerInterceptor]:
        """In the order in which a call meets them."""
        tokens = [RequireToken(self._tokens, self.observer)] if self._tokens else []
        return [NameCalls(self.observer), *tokens, self.calls]

    def options(self) -> dict[str, Any]:
        """Of gRPC's server."""
        return {
            "grpc.max_receive_message_length": self._max_message_bytes,
            "grpc.http2.min_recv_ping_interval_without_data_ms": SHORTEST_PING_INTERVAL_MS,
            "grpc.http2.max_ping_strikes": 2,
            # Two services on one port would each get some of the connections.
            "grpc.so_reuseport": 0,
        }

    def serve_metrics(self, host: str) -> None:
        """Serves the metrics, where there are any.

        Args:
            host: the address of the gRPC port.

        Raises:
            StartupError: `metrics_port` cannot be listened on.
        """
        if self._metrics is None:
            return
        for port in self._metrics_ports:
            try:
                self._metrics.serve(host, port)
            except OSError:
                continue
            self._log.info(f"metrics on {host}:{port}")
            return
        tried = " to ".join(str(port) for port in sorted({self._metrics_ports[0], self._metrics_ports[-1]}))
        raise StartupError(f"metrics_port {tried} cannot be listened on: in use, or not for this user")

    def close_metrics(self) -> None:
        """Ends what `serve_metrics` began; waits up to half a second for it."""
        if self._metrics is not None:
            self._metrics.close()
