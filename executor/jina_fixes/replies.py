"""What a client is told when a request as a whole fails."""

from typing import Any


def tell_clients_no_more_than_they_need() -> None:
    """Jina answers a request that failed with the server's traceback, its paths, and all of the request itself.

    An Executor with a method `explain` has it say what the client reads: it takes the exception, and returns one line.
    """
    from jina.types.request import Request

    tell_everything = Request.add_exception

    def add_exception(self: Any, ex: Exception | None = None, executor: Any = None) -> None:
        explain = getattr(executor, "explain", None)
        if explain is None:
            tell_everything(self, ex, executor)
            return
        request = self.proto_with_data
        request.ClearField("data")
        request.ClearField("parameters")
        request.header.status.code = request.header.status.ERROR
        request.header.status.description = explain(ex)

    Request.add_exception = add_exception
