"""Jina's gRPC server in a worker, built from `server.policy`: what it lets in, and how it ends."""

import asyncio
from typing import Any

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from executor.errors import StartupError
from executor.jina_adapter.contract import executor_of
from executor.jina_adapter.draining import drain
from executor.jina_adapter.worker.unreadable import RefuseUnreadable
from executor.server.authority import authority_of
from executor.server.policy import ServerPolicy

_SERVED = (
    "JinaRPC",
    "JinaSingleDataRequestRPC",
    "JinaDataRequestRPC",
    "JinaDiscoverEndpointsRPC",
)


def serve_as_the_executor_says() -> None:
    """Serves an Executor that keeps the contract as its `server_policy` says, and drains it before it ends.

    Jina's server has no limits, no tokens and no working TLS, and cancels what is in progress when it ends. Only the
    services that are needed are served: no snapshots, which write files where a client says, and no streaming of one
    document.
    """
    from jina.serve.runtimes.servers import BaseServer
    from jina.serve.runtimes.servers.grpc import GRPCServer

    set_up_by_jina, shut_down_by_jina = GRPCServer.setup_server, GRPCServer.shutdown

    async def setup_server(self: Any) -> None:
        executor = executor_of(self)
        if executor is None:
            await set_up_by_jina(self)
            return
        policy = executor.server_policy
        self.server = _build(self, policy)
        _bind(self.server, self.host, self.port, policy.credentials)
        self.health_server = _build_health(self, policy)
        if policy.metrics_port is not None:
            policy.metrics_port.open(self.host)
        await self.server.start()
        await self.health_server.start()
        for service in ("", *_full_names()):
            await self.health_servicer.set(service, health_pb2.HealthCheckResponse.SERVING)
        self.logger.info(f"serving on {self.host}:{self.port}{', TLS' if policy.credentials is not None else ''}")

    async def shutdown(self: Any) -> None:
        executor = executor_of(self)
        if executor is None:
            await shut_down_by_jina(self)
            return
        policy = executor.server_policy
        await drain(self, policy.calls, policy.drain_timeout_s)
        await self.health_server.stop(grace=None)
        if policy.metrics_port is not None:  # the last: until here one can see how it ends
            await asyncio.to_thread(policy.metrics_port.close)
        await BaseServer.shutdown(self)
        await self._request_handler.close()

    GRPCServer.setup_server = setup_server
    GRPCServer.shutdown = shutdown


def _build(jina_server: Any, policy: ServerPolicy) -> grpc.aio.Server:
    from jina.proto import jina_pb2_grpc
    from jina.serve.helper import get_server_side_grpc_options

    options = policy.options() | dict(jina_server.grpc_server_options or {})
    server = grpc.aio.server(
        options=get_server_side_grpc_options(options),
        interceptors=[
            *policy.interceptors(),
            RefuseUnreadable(policy.observer),
            *(jina_server.grpc_tracing_server_interceptors or ()),
        ],
    )
    for name in _SERVED:
        getattr(jina_pb2_grpc, f"add_{name}Servicer_to_server")(jina_server._request_handler, server)
    health_pb2_grpc.add_HealthServicer_to_server(jina_server.health_servicer, server)
    reflection.enable_server_reflection((*_full_names(), reflection.SERVICE_NAME), server)
    return server


def _build_health(jina_server: Any, policy: ServerPolicy) -> grpc.aio.Server:
    """Without a `health_port` it listens nowhere."""
    server = grpc.aio.server(options=list(policy.options().items()))
    health_pb2_grpc.add_HealthServicer_to_server(jina_server.health_servicer, server)
    if policy.health_port is not None:
        _bind(server, jina_server.host, policy.health_port, what="health_port ")
    return server


def _bind(
    server: grpc.aio.Server, host: str, port: int, credentials: grpc.ServerCredentials | None = None, what: str = ""
) -> None:
    address = authority_of(host, port)
    try:
        if credentials is not None:
            server.add_secure_port(address, credentials)
        else:
            server.add_insecure_port(address)
    except RuntimeError:
        raise StartupError(f"{what}{address} cannot be listened on: in use, or not for this user") from None


def _full_names() -> tuple[str, ...]:
    from jina.proto import jina_pb2

    return tuple(jina_pb2.DESCRIPTOR.services_by_name[name].full_name for name in _SERVED)
