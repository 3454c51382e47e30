"""What a gateway does with the requests between clients and Executors."""

import asyncio
import sys
from collections.abc import AsyncGenerator, AsyncIterator, Generator, Iterator
from contextlib import aclosing
from typing import Any

import grpc

from executor.errors import StartupError
from executor.jina_adapter.merging import LEAST_PREFETCH, answered_together
from executor.scheduling.overlap import overlapped
from executor.schemas import ImagePrompt

_BETWEEN_TRIALS_S = 1.0
_END = "__end_gateway__"
"""The node of a gateway's graph that is the gateway itself."""
_BATCH = 16
"""A gateway does not know its Executor's `preferred_batch_size`: this is the usual one."""


def keep_order_behind_a_gateway() -> None:
    """Has a gateway answer in order, and cancel what nobody waits for.

    Jina's sends answers as they come; where `results_in_order=True` asks for order it may wait for ever. It does so
    when the client ends its stream after the last answer. And whatever the order, what a client that left had asked for
    is computed to the end. Gateways started by a process that has imported this package keep the order always, and
    cancel what nobody waits for. In front of this Executor alone they send on together what has arrived while its
    replicas are busy: Jina spends 2 ms of CPU on each request between gateway and Executor. (Jina forks a gateway, or
    spawns it with the classes that its parent has.)
    """
    from jina._docarray import DocumentArray
    from jina.serve.executors import __dry_run_endpoint__
    from jina.serve.runtimes.gateway import streamer
    from jina.serve.stream.helper import AsyncRequestsIterator

    class OrderedStreamer(streamer.RequestStreamer):
        _together: int | None = None
        """Documents of a stream in flight at the same time, where requests may be answered together."""

        async def _get_endpoints_input_output_models(
            self, topology_graph: Any, connection_pool: Any, is_cancel: Any
        ) -> Any:
            models = await super()._get_endpoints_input_output_models(topology_graph, connection_pool, is_cancel)
            nodes = [node for node in topology_graph.all_nodes if node.name != _END]
            inputs = {model["input"].__name__ for path, model in models.items() if path != __dry_run_endpoint__}
            if len(nodes) == 1 and inputs == {ImagePrompt.__name__}:
                replicas = connection_pool._connections.get_replicas(nodes[0].name, head=True)
                self._together = 4 * _BATCH * len(replicas.get_all_connections())
            return models

        async def _stream_requests(
            self,
            request_iterator: Iterator[Any] | AsyncIterator[Any],
            results_in_order: bool = False,
            prefetch: int | None = None,
            return_type: type[Any] = DocumentArray,
        ) -> AsyncGenerator[Any, None]:
            async def requests() -> AsyncIterator[Any]:
                async for request in AsyncRequestsIterator(
                    request_iterator, iterate_sync_in_thread=self._iterate_sync_in_thread
                ):
                    yield request
                if self._end_of_iter_handler is not None:
                    self._end_of_iter_handler()

            async def answer(request: Any) -> Any:
                response, floating = self._request_handler(request=request, return_type=return_type)
                if floating is not None:
                    self.total_num_floating_tasks_alive += 1
                    floating.add_done_callback(floating_is_done)
                return self._result_handler(await response)

            def floating_is_done(_: object) -> None:
                self.total_num_floating_tasks_alive -= 1

            capacity = prefetch or self._prefetch or sys.maxsize
            if self._together is not None and capacity >= LEAST_PREFETCH:
                answered = answered_together(requests(), answer, self._together, _BATCH)
            else:
                answered = overlapped(requests(), answer, lambda _: 1, capacity, capacity)
            async with aclosing(answered) as answers:
                async for response in answers:
                    yield response

    streamer.RequestStreamer = OrderedStreamer


def cancel_what_a_gateway_has_sent() -> None:
    """Has a gateway that stops waiting for an Executor cancel its call.

    Jina's does not, so the Executor computes to the end. It waits for the trailing metadata first, and only waiting for
    the response itself would cancel a call of gRPC.
    """
    from jina.proto.jina_pb2_grpc import JinaSingleDataRequestRPCStub
    from jina.serve.networking.connection_stub import _ConnectionStubs

    class Call:
        def __init__(self, call: Any) -> None:
            self._call = call

        async def trailing_metadata(self) -> Any:
            try:
                return await self._call.trailing_metadata()
            except asyncio.CancelledError:
                self._call.cancel()
                raise

        def __await__(self) -> Generator[Any, None, Any]:
            return self._call.__await__()  # type: ignore[no-any-return]

    class Stub:
        def __init__(self, channel: Any) -> None:
            self._stub = JinaSingleDataRequestRPCStub(channel)

        def process_single_data(self, *args: Any, **kwargs: Any) -> Call:
            return Call(self._stub.process_single_data(*args, **kwargs))

    _ConnectionStubs.STUB_MAPPING["jina.JinaSingleDataRequestRPC"] = Stub


def end_a_gateway_that_is_not_let_in() -> None:
    """Ends a gateway in front of an Executor with tokens, and says why.

    A gateway has no token for its Executors and passes on none of its clients', yet asks for ever to be let in. Now it
    does not start, and says why.
    """
    from jina.serve.runtimes.gateway.graph.topology_graph import TopologyGraph

    get_once = TopologyGraph._get_all_endpoints

    async def _get_all_endpoints(
        self: Any, connection_pool: Any, retry_forever: bool = False, is_cancel: Any = None
    ) -> Any:
        while is_cancel is None or not is_cancel.is_set():
            try:
                return await get_once(self, connection_pool, False, is_cancel)
            except Exception as error:
                if isinstance(error, grpc.aio.AioRpcError) and error.code() is grpc.StatusCode.UNAUTHENTICATED:
                    raise StartupError(
                        "an Executor has auth_tokens, and Jina's gateways send none; start it with "
                        "Deployment(include_gateway=False) or with `python -m executor`"
                    ) from None
                if not retry_forever:
                    raise
                self.logger.warning(f"getting endpoints failed, will try again: {error}")
                await asyncio.sleep(_BETWEEN_TRIALS_S)
        return self._all_endpoints

    TopologyGraph._get_all_endpoints = _get_all_endpoints


def tell_no_addresses_of_executors() -> None:
    """Keeps addresses of Executors, and how to configure a gateway, from what it tells clients when it fails."""
    from jina.excepts import InternalNetworkError

    told = {
        grpc.StatusCode.UNAVAILABLE: "the gateway reaches no replica of the service; try again.",
        grpc.StatusCode.DEADLINE_EXCEEDED: "the service has not answered the gateway in time.",
        grpc.StatusCode.NOT_FOUND: "the gateway does not find the service; tell its operator.",
    }
    everything = InternalNetworkError.details

    def details(self: Any) -> Any:
        return told.get(self.code()) or everything(self)

    InternalNetworkError.details = details
