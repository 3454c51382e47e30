"""To which of several replicas a gateway sends a request."""

import asyncio
import math
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

_DOUBT_S = 15.0
"""The longest that the watch on a replica's health takes to notice that its host is silent: Jina's channels send a
keepalive ping every 10 s and wait 5 s for its answer."""


class Balance:
    """Knows what each replica of a gateway has to do, by address, and chooses the next one.

    Args:
        clock: in seconds.

    Attributes:
        in_flight: requests that a replica has not answered.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._left_out_until: dict[str, float] = {}
        self._turn = 0
        self.in_flight: Counter[str] = Counter()

    def says(self, address: str, serves: bool) -> None:
        """Notes that a replica has said whether it serves, or cannot be asked."""
        if serves:
            self._left_out_until.pop(address, None)
        else:
            self._left_out_until[address] = math.inf

    def failed(self, address: str) -> None:
        """Notes that a request did not reach a replica, or that its answer did not come back."""
        until = self._clock() + _DOUBT_S
        self._left_out_until[address] = max(self._left_out_until.get(address, until), until)

    def choose(self, addresses: list[str], tries: Counter[str]) -> int:
        """Returns the index in `addresses` of the replica for the next try of a request.

        Of those that serve the one which was tried least for this request, of these the one with the fewest requests in
        flight, of these the next in turn. Where none serves, all are as good.

        Args:
            addresses: of the replicas, at least one.
            tries: of this request, by address.
        """
        now, self._turn = self._clock(), self._turn + 1

        def rank(index: int) -> tuple[bool, int, int, int]:
            address = addresses[index]
            left_out = self._left_out_until.get(address, now) > now
            return left_out, tries[address], self.in_flight[address], (index - self._turn) % len(addresses)

        return min(range(len(addresses)), key=rank)


def send_to_the_replica_with_the_least_to_do() -> None:
    """Has a gateway send each request to the replica with the fewest in flight, of those that serve.

    Jina's sends requests to its replicas in turn, to one that is slow or silent as to the others.
    A host that is cut off gets every second request until its connection fails, and again after that, since a new
    connection takes up to 20 s to fail. Which ones serve, the gateway's own watch on their health tells.
    """
    from grpc.aio import AioRpcError
    from jina.serve.networking import DEFAULT_MINIMUM_RETRIES, GrpcConnectionPool

    def _send_requests(
        self: Any,
        requests: list[Any],
        connections: Any,
        endpoint: str | None = None,
        metadata: dict[str, str] | None = None,
        timeout: float | None = None,
        retries: int | None = -1,
    ) -> "asyncio.Task[Any]":
        balance = balance_of(self)
        own_metadata = dict(metadata or {}) | ({"endpoint": endpoint} if endpoint else {})

        async def send() -> Any:
            replicas = connections.get_all_connections()
            default = max(DEFAULT_MINIMUM_RETRIES, len(replicas))
            most_tries = 1 + (default if retries is None or retries < 0 else retries)
            tries: Counter[str] = Counter()
            while True:
                replica = replicas[balance.choose([replica.address for replica in replicas], tries)]
                address = replica.address
                tries[address] += 1
                balance.in_flight[address] += 1
                try:
                    return await replica.send_requests(
                        requests=requests,
                        metadata=tuple(own_metadata.items()) or None,
                        compression=self.compression,
                        timeout=timeout,
                    )
                except AioRpcError as error:
                    balance.failed(address)
                    failure = await self._handle_aiorpcerror(
                        error=error,
                        retry_i=tries.total() - 1,
                        request_id=requests[0].request_id,
                        tried_addresses=set(tries),
                        total_num_tries=most_tries,
                        current_address=address,
                        current_deployment=replica.deployment_name,
                        connection_list=connections,
                        task_type="DataRequest",
                    )
                    if failure:
                        return failure
                except Exception as error:  # noqa: BLE001 - as Jina does: who waits for the task raises it
                    return error
                finally:
                    balance.in_flight[address] -= 1

        return asyncio.create_task(send())

    GrpcConnectionPool._send_requests = _send_requests


def balance_of(pool: Any) -> Balance:
    """Returns what is known of the replicas of a gateway's `GrpcConnectionPool`."""
    if not hasattr(pool, "blip2_balance"):
        pool.blip2_balance = Balance()
    return pool.blip2_balance  # type: ignore[no-any-return]
