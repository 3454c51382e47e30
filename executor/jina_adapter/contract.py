"""What the mends of Jina ask of an Executor. They leave every Executor that does not keep this contract as it was.

Knows the service's own words, and where a server of Jina has its Executor; knows nothing of what answers.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, Literal, Protocol, runtime_checkable

from executor.server.policy import ServerPolicy


@runtime_checkable
class ServedExecutor(Protocol):
    """Describes an Executor that is served as it says.

    Attributes:
        keeps_contract: by which it is known.
        server_policy: how its gRPC port is served.
        stream_documents: documents of one stream that are in flight at the same time.
        on_device_lost: called once, on another thread, when the device has failed for good and every document in flight
            has been told. Whoever runs the process sets it.
    """

    keeps_contract: Literal[True]
    server_policy: ServerPolicy
    stream_documents: int
    on_device_lost: Callable[[], None] | None

    def overload(self) -> str | None:
        """Returns what every document of a request that comes now would be told; None where there is room for one."""

    def documents_refused(self, documents: int) -> None:
        """Notes that so many documents have been told the `overload`."""

    def request_of_stream(self) -> AbstractContextManager[object]:
        """Surrounds one request of a stream, in a task of its own."""

    def describe_failure(self, error: BaseException | None) -> str:
        """Returns what a client reads of a request that failed as a whole."""


def contract_of(executor: Any) -> ServedExecutor | None:
    """Returns an Executor that keeps the contract; None for any other."""
    return executor if getattr(executor, "keeps_contract", False) is True else None


def executor_of(server: Any) -> ServedExecutor | None:
    """Returns what a server of Jina serves, where that keeps the contract: a gateway has no Executor."""
    return contract_of(getattr(server._request_handler, "_executor", None))
