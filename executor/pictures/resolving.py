"""Host names -> the addresses that may be connected to.

Knows name resolution. It must not know which addresses are allowed, which `addresses` decides.
"""

import asyncio
import socket
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor

from aiohttp.abc import AbstractResolver, ResolveResult

from executor.pictures.addresses import AddressPolicy

Lookup = Callable[[str, int], Awaitable[list[str]]]
"""(host name, port) -> all addresses of the host; an OSError where it has none."""


class CheckedResolver(AbstractResolver):
    """Gives aiohttp exactly the addresses that were checked. One that is not allowed refuses the whole name.

    Args:
        policy: decides which addresses are allowed.
        lookup: finds the addresses of a name.
    """

    def __init__(self, policy: AddressPolicy, lookup: Lookup) -> None:
        self._policy = policy
        self._lookup = lookup

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        """Finds and checks the addresses of a host, as aiohttp asks for them.

        Args:
            host: a name.
            port: to be connected to.
            family: not looked at: addresses of both families are found.

        Raises:
            DocumentError: `ADDRESS_NOT_ALLOWED`, where any address is not allowed.
            OSError: the name has no address.
        """
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
        """Does nothing: it holds nothing that has to be freed."""


class SystemNames:
    """Resolves names as the system does, in threads of its own: a slow name server keeps nobody else waiting.

    Args:
        threads: most names that are resolved at the same time.
    """

    def __init__(self, threads: int) -> None:
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="resolve")

    async def lookup(self, host: str, port: int) -> list[str]:
        """Finds all addresses of a host, each once.

        Raises:
            OSError: it has none.
        """
        return await asyncio.get_running_loop().run_in_executor(self._pool, _addresses, host, port)

    def close(self) -> None:
        """Frees the threads without waiting for those that still look up a name."""
        self._pool.shutdown(wait=False)


def _addresses(host: str, port: int) -> list[str]:
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_ADDRCONFIG)
    return list(dict.fromkeys(str(address[0]) for *_, address in found))
