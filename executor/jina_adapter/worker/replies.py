"""What a client is told when a request as a whole fails, or is refused."""

from typing import Any

from executor.jina_adapter.contract import contract_of


def tell_clients_no_more_than_they_need() -> None:
    """Answers a request that failed with one line.

    Jina sends the server's traceback, its paths, and all of the request itself. An Executor that keeps the contract
    says what the client reads.
    """
    from jina.types.request import Request

    tell_everything = Request.add_exception

    def add_exception(self: Any, ex: Exception | None = None, executor: Any = None) -> None:
        served = contract_of(executor)
        if served is None:
            tell_everything(self, ex, executor)
            return
        request = self.proto_with_data
        request.ClearField("data")
        request.ClearField("parameters")
        request.header.status.code = request.header.status.ERROR
        request.header.status.description = served.describe_failure(ex)

    Request.add_exception = add_exception


def refuse_before_documents_are_read() -> None:
    """Refuses the documents of a request, where there is no room for them, before they are read.

    Reading documents, and writing the answers', is most of what a request costs Jina beside the model. A service that
    is asked for more than it can do would spend its time on that. An Executor that keeps the contract is asked first
    for its `overload`: what it returns becomes the `error` of each document, under its own id, and nothing else is
    done.
    """
    from jina.serve.runtimes.worker.request_handling import WorkerRequestHandler

    process = WorkerRequestHandler.process_data

    async def process_data(self: Any, requests: list[Any], context: Any, *args: Any, **kwargs: Any) -> Any:
        served = contract_of(self._executor)
        if served is None:
            return await process(self, requests, context, *args, **kwargs)
        try:
            _ = requests[0].parameters
        except ValueError as error:  # no traceback in the log for what a client did
            requests[0].add_exception(error, self._executor)
            return requests[0]
        overload = served.overload()
        if overload is not None and (reply := _with_errors(requests[0], overload)) is not None:
            served.documents_refused(len(reply.proto_with_data.data.docs.docs))
            return reply
        return await process(self, requests, context, *args, **kwargs)

    WorkerRequestHandler.process_data = process_data


def _with_errors(request: Any, error: str) -> Any:
    """The reply to a request; None where it has no documents, which costs nothing."""
    from jina.types.request.data import DataRequest

    reply = request.proto_with_data
    ids = [document.data["id"].text if "id" in document.data else None for document in reply.data.docs.docs]
    if not ids:
        return None
    reply.data.Clear()
    for document_id in ids:
        fields = reply.data.docs.docs.add().data
        if document_id is not None:
            fields["id"].text = document_id
        fields["answer"].text = ""
        fields["error"].text = error
    return DataRequest(reply)
