"""Requests of a stream of Jina's that travel together, each with a reply of its own."""

import asyncio
import math
from collections.abc import AsyncGenerator, AsyncIterable, Awaitable, Callable, Iterator, Sequence
from contextlib import aclosing
from typing import Any

from executor.scheduling.coalescing import grouped
from executor.scheduling.overlap import overlapped

LEAST_PREFETCH = 64
"""A client that wants fewer requests in flight gets exactly what it wants, one by one. (Jina's default is 1000.)"""
_MOST_BYTES = 2**20
"""To copy a megabyte takes a tenth of what a request costs a gateway; larger ones gain nothing from company."""


async def answered_together(
    requests: AsyncIterable[Any], answer: Callable[[Any], Awaitable[Any]], capacity: int, at_once: int
) -> AsyncGenerator[Any, None]:
    """Yields the reply to each of `requests`, in order; what has arrived by the same time travels as one request.

    Args:
        answer: to one request, which may hold the documents of several.
        capacity: more requests are taken while fewer documents than that are in flight.
        at_once: most documents of several requests that travel as one.
    """

    def weigh(request: Any) -> float:
        data: Any = request.proto_with_data.data
        if data.WhichOneof("documents") != "docs":
            return math.inf
        return float(max(len(data.docs.docs) / at_once, data.ByteSize() / _MOST_BYTES))

    async def answer_all(group: Sequence[Any]) -> Sequence[Any]:
        if len(group) > 1 and (replies := _split(await answer(_merge(group)), group)):
            return replies
        return await asyncio.gather(*(answer(request) for request in group))

    async with (
        aclosing(grouped(requests, weigh, _are_alike)) as groups,
        aclosing(overlapped(groups, answer_all, lambda group: sum(map(count_documents, group)), capacity)) as replies,
    ):
        async for group in replies:
            for reply in group:
                yield reply


def count_documents(request: Any) -> int:
    return len(request.proto_with_data.data.docs.docs)


def _are_alike(first: Any, second: Any) -> bool:
    one, other = first.proto_with_data, second.proto_with_data
    return bool(
        one.header.exec_endpoint == other.header.exec_endpoint
        and one.header.target_executor == other.header.target_executor
        and one.parameters == other.parameters
    )


def _merge(group: Sequence[Any]) -> Any:
    from jina.types.request.data import DataRequest

    merged = DataRequest()
    proto = merged.proto_with_data
    proto.header.CopyFrom(group[0].proto_with_data.header)
    proto.parameters.CopyFrom(group[0].proto_with_data.parameters)
    for request in group:
        proto.data.docs.docs.extend(request.proto_with_data.data.docs.docs)
    return merged


def _split(reply: Any, group: Sequence[Any]) -> list[Any]:
    """Each request's share of a reply; nothing where it is a failure, whose cause may be in one of them."""
    proto = reply.proto_with_data
    counts = [count_documents(request) for request in group]
    if proto.header.status.code == proto.header.status.ERROR or count_documents(reply) != sum(counts):
        return []
    documents = iter(proto.data.docs.docs)
    return list(_shares(proto, group, [[next(documents) for _ in range(count)] for count in counts]))


def _shares(proto: Any, group: Sequence[Any], documents: Sequence[Sequence[Any]]) -> Iterator[Any]:
    from jina.types.request.data import DataRequest

    for request, own in zip(group, documents, strict=True):
        share = DataRequest()
        share.proto_with_data.header.CopyFrom(proto.header)
        share.proto_with_data.header.request_id = request.proto_with_data.header.request_id
        share.proto_with_data.parameters.CopyFrom(proto.parameters)
        share.proto_with_data.routes.extend(proto.routes)
        share.proto_with_data.data.docs.docs.extend(own)
        yield share
