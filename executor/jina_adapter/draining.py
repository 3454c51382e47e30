"""The end of a server of Jina, a worker's or a gateway's, that loses nothing.

Knows Jina's server and its health; whose calls are waited for, the caller knows.
"""

from typing import Any

from executor.server.calls import Calls

_LAST_BYTES_S = 3.0
"""For answers that are on their way out when the last call has ended, and for calls that are being refused."""


async def drain(jina_server: Any, calls: Calls, timeout_s: float) -> None:
    """Says NOT_SERVING, refuses what is new, finishes what is in progress, closes the port.

    Args:
        calls: those of this server.
        timeout_s: the longest wait for their end.
    """
    await jina_server.health_servicer.enter_graceful_shutdown()
    left = await calls.drain(timeout_s)
    if left:
        jina_server.logger.warning(f"{left} calls have no answer after {timeout_s:g} s and are cut")
    await calls.wait_for_quiet()
    await jina_server.server.stop(grace=_LAST_BYTES_S)
