"""How the gRPC port is served: who may call, how much at a time, and how it ends.

Knows the settings and gRPC; opens no port. `jina_adapter.worker.grpc_server` builds Jina's server from it.
"""

import logging
import multiprocessing
from collections.abc import Callable, Sequence
from typing import Any

import grpc

from executor.errors import StartupError
from executor.server.call_ids import NameCalls
from executor.server.calls import Calls
from executor.server.metrics_port import MetricsPort
from executor.server.tls import Certificates
from executor.server.tokens import RequireToken, Tokens
from executor.settings import Settings
from executor.telemetry.metrics import Metrics
from executor.telemetry.observer import SILENT, Observer

SHORTEST_PING_INTERVAL_MS = 5_000
"""Between two keepalive pings of a client. Jina's client sends one every 10 s; gRPC's own limit of 5 minutes would cut
it off, and no limit lets a client keep the service busy with pings."""


class ServerPolicy:
    """Holds what the settings say about the gRPC port.

    Args:
        log: told when tokens or certificates change.
        overload: returns what a document that comes now would be told; None where there is room for it.
        observer: told of calls, and of those that are refused.
        metrics: to be served; None where there are none.
        replicas: on this host, this one included; each takes the first port that is free from `metrics_port` on.

    Attributes:
        calls: those in progress.
        drain_timeout_s: the longest that a service which is to end waits for them.
        credentials: of TLS; None is plaintext.
        health_port: where health alone is served, in plaintext.
        metrics_port: where metrics are served, to be opened with the gRPC port; None where there are none.
        observer: as given.

    Raises:
        StartupError: tokens or certificates cannot be used, or not in a process that Jina started.
    """

    def __init__(
        self,
        settings: Settings,
        log: logging.Logger,
        overload: Callable[[], str | None] = lambda: None,
        observer: Observer = SILENT,
        metrics: Metrics | None = None,
        replicas: int = 1,
    ) -> None:
        self.observer = observer
        self.calls = Calls(settings.max_calls, overload, self.observer)
        self.drain_timeout_s = settings.drain_timeout_s
        self.health_port = settings.health_port
        self.metrics_port: MetricsPort | None = None
        if metrics is not None and settings.metrics_port is not None:
            ports = range(settings.metrics_port, min(settings.metrics_port + replicas, 2**16))
            self.metrics_port = MetricsPort(metrics.registry, ports, log)
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
        """Returns the server's interceptors, in the order in which a call meets them."""
        tokens = [RequireToken(self._tokens, self.observer)] if self._tokens else []
        return [NameCalls(self.observer), *tokens, self.calls]

    def options(self) -> dict[str, Any]:
        """Returns the options of gRPC's server."""
        return {
            "grpc.max_receive_message_length": self._max_message_bytes,
            "grpc.http2.min_recv_ping_interval_without_data_ms": SHORTEST_PING_INTERVAL_MS,
            "grpc.http2.max_ping_strikes": 2,
            # Two services on one port would each get some of the connections.
            "grpc.so_reuseport": 0,
        }
