"""A gateway's gRPC server: how it ends, and what it says about its health."""

import asyncio
import json
import sys
from collections.abc import Iterator
from typing import Any

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from executor.jina_adapter.draining import drain
from executor.jina_adapter.orchestration.balancing import balance_of
from executor.jina_adapter.orchestration.keeper import drain_timeout_s
from executor.server.calls import Calls
from executor.server.policy import SHORTEST_PING_INTERVAL_MS

_RETRY_S = 1.0
_PINGS = {"grpc.http2.min_recv_ping_interval_without_data_ms": SHORTEST_PING_INTERVAL_MS}
_NOT_SHARED = {"grpc.use_local_subchannel_pool": 1}


def drain_gateways() -> None:
    """Has a gateway that ends finish what is in progress.

    Jina's closes its connections to Executors first, and cuts what is in progress. Now it says NOT_SERVING, refuses
    what is new, finishes what is in progress, and then ends.
    """
    from jina.serve.runtimes.gateway.request_handling import GatewayRequestHandler
    from jina.serve.runtimes.servers.grpc import GRPCServer

    set_up, shut_down = GRPCServer.setup_server, GRPCServer.shutdown

    async def setup_server(self: Any) -> None:
        if isinstance(self._request_handler, GatewayRequestHandler):
            self.calls_in_progress = Calls(sys.maxsize)
            self.grpc_tracing_server_interceptors = [
                self.calls_in_progress,
                *(self.grpc_tracing_server_interceptors or ()),
            ]
        await set_up(self)

    async def shutdown(self: Any) -> None:
        if isinstance(self._request_handler, GatewayRequestHandler) and self.server is not None:
            await drain(self, self.calls_in_progress, drain_timeout_s())
        await shut_down(self)

    GRPCServer.setup_server = setup_server
    GRPCServer.shutdown = shutdown


def bear_keepalive_pings() -> None:
    """Lets clients send a gateway the keepalive pings that they do send.

    Jina's clients send one every 10 s. A gateway takes that for abuse and cuts idle connections. The next request of
    the client then fails with "Too many pings".
    """
    from jina.serve.runtimes.gateway.request_handling import GatewayRequestHandler
    from jina.serve.runtimes.servers.grpc import GRPCServer

    set_up = GRPCServer.setup_server

    async def setup_server(self: Any) -> None:
        if isinstance(self._request_handler, GatewayRequestHandler):
            self.grpc_server_options = _PINGS | dict(self.grpc_server_options or {})
        await set_up(self)

    GRPCServer.setup_server = setup_server


def say_whether_executors_can_be_reached() -> None:
    """Has a gateway's health tell whether its Executors can be reached.

    Jina's says SERVING whatever has become of them. Now it says NOT_SERVING while none of the replicas of one of them
    says SERVING. It holds a health watch on each, which ends at once when a process dies, and which no load can delay.
    """
    from jina.serve.runtimes.gateway.request_handling import GatewayRequestHandler
    from jina.serve.runtimes.servers.grpc import GRPCServer

    set_up, shut_down = GRPCServer.setup_server, GRPCServer.shutdown

    async def setup_server(self: Any) -> None:
        await set_up(self)
        if isinstance(self._request_handler, GatewayRequestHandler):
            self.health_watch = asyncio.create_task(_Replicas(self).watch())

    async def shutdown(self: Any) -> None:
        await shut_down(self)
        watch = getattr(self, "health_watch", None)
        if watch is not None:
            watch.cancel()
            await asyncio.wait([watch])

    GRPCServer.setup_server = setup_server
    GRPCServer.shutdown = shutdown


def connect_anew_after_a_failure() -> None:
    """Gives a gateway a new connection after one that failed.

    Jina's replaces it too, so that the next try need not wait; but gRPC shares connections. The new one is the old one,
    which waits longer after each refusal, and requests fail long after an Executor is back.
    """
    from jina.serve.networking import connection_stub

    connect = connection_stub.get_grpc_channel

    def get_grpc_channel(address: str, *args: Any, options: Any = None, **kwargs: Any) -> Any:
        return connect(address, *args, options=dict(options or {}) | _NOT_SHARED, **kwargs)

    connection_stub.get_grpc_channel = get_grpc_channel


class _Replicas:
    """What the replicas of a gateway's Executors say about themselves, and the gateway's health after that."""

    def __init__(self, server: Any) -> None:
        self._server = server
        self._balance = balance_of(server._request_handler.streamer._connection_pool)
        # The gateway has asked each for its endpoints before it opened its port.
        self._serves = {deployment: dict.fromkeys(urls, True) for deployment, urls in _urls(server)}
        self._serving_before = True
        self._lock = asyncio.Lock()

    async def watch(self) -> None:
        await asyncio.gather(
            *(self._watch(deployment, url) for deployment, urls in self._serves.items() for url in urls)
        )

    async def _watch(self, deployment: str, url: str) -> None:
        while True:
            try:
                async with _channel(url) as channel:
                    async for reply in health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest()):
                        await self._note(deployment, url, reply.status == health_pb2.HealthCheckResponse.SERVING)
            except grpc.aio.AioRpcError as error:
                if error.code() is grpc.StatusCode.UNIMPLEMENTED:  # an Executor of another kind: nothing to learn
                    await self._note(deployment, url, True)
                    return
            await self._note(deployment, url, False)
            await asyncio.sleep(_RETRY_S)

    async def _note(self, deployment: str, url: str, serves: bool) -> None:
        self._balance.says(_address(url), serves)
        async with self._lock:
            self._serves[deployment][url] = serves
            serving = all(any(replicas.values()) for replicas in self._serves.values())
            if serving == self._serving_before:
                return
            self._serving_before = serving
            if serving:
                self._server.logger.info("every Executor can be reached again")
            else:
                self._server.logger.error(
                    f"no replica of {deployment} can be reached: {', '.join(self._serves[deployment])}"
                )
            status = health_pb2.HealthCheckResponse.SERVING if serving else health_pb2.HealthCheckResponse.NOT_SERVING
            health = self._server.health_servicer
            for service in tuple(health._server_status):
                await health.set(service, status)


def _urls(server: Any) -> Iterator[tuple[str, list[str]]]:
    for deployment, addresses in json.loads(server.runtime_args.deployments_addresses).items():
        urls = addresses.get("GRPC", []) if isinstance(addresses, dict) else addresses
        if urls:
            yield deployment, urls


def _address(url: str) -> str:
    return url.rpartition("://")[2]


def _channel(url: str) -> grpc.aio.Channel:
    from jina.serve.networking.utils import TLS_PROTOCOL_SCHEMES, get_grpc_channel

    scheme = url.rpartition("://")[0]
    return get_grpc_channel(_address(url), asyncio=True, tls=scheme in TLS_PROTOCOL_SCHEMES, options=_NOT_SHARED)
