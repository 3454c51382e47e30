"""Host names -> the addresses that may be connected to. Knows name resolution; the rules are those of `addresses`."""

import asyncio
import socket
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor

from aiohttp.abc import AbstractResolver, ResolveResult

from executor.pictures.addresses import AddressPolicy

Lookup = Callable[[str, int], Awaitable[list[str]]]
"""(host name, port) -> all addresses of the host; an OSError where it has none."""


class CheckedResolver(AbstractResolver):
    """Gives aiohttp exactly the addresses that were checked. One that is not allowed refuses the whole name."""

    def __init__(self, policy: AddressPolicy, lookup: Lookup) -> None:
        self._policy = policy
        self._lookup = lookup

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        results: list[ResolveResult] = []
        for address in await self._lookup(host, port):
            self._policy.check_address(host, port, address)
            results.append(
                ResolveResult(
                    hostname=host,
                    host=address,
                    port=port,
                    family=socket.AF_INET6 if ":" in address else socket.AF_INET,
                    proto=socket.IPPROTO_TCP,
                    flags=socket.AI_NUMERICHOST | socket.AI_NUMERICSERV,
                )
            )
        if not results:
            raise OSError("the name has no address")
        return results

    async def close(self) -> None:
        """Holds nothing."""


class SystemNames:
    """The system's name resolution in threads of its own: a slow name server keeps nobody else waiting."""

    def __init__(self, threads: int) -> None:
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="resolve")

    async def lookup(self, host: str, port: int) -> list[str]:
        return await asyncio.get_running_loop().run_in_executor(self._pool, _addresses, host, port)

    def close(self) -> None:
        self._pool.shutdown(wait=False)


def _addresses(host: str, port: int) -> list[str]:
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_ADDRCONFIG)
    return list(dict.fromkeys(str(address[0]) for *_, address in found))
