"""gRPC calls with messages as bytes: what a client can send that is not Jina's."""

from __future__ import annotations

import grpc

TIMEOUT_S = 60
UNARY = "/jina.JinaSingleDataRequestRPC/process_single_data"
STREAM = "/jina.JinaRPC/Call"


def outcome(
    channel: grpc.Channel,
    method: str,
    *messages: bytes,
    metadata: tuple[tuple[str, str], ...] = (),
) -> tuple[grpc.StatusCode, str]:
    """How a call with these messages ends: its status and what the client is told.

    On the wire a method that takes one message and a method that takes a stream are called alike.
    """
    call = channel.stream_stream(method)(iter(messages), timeout=TIMEOUT_S, metadata=metadata)
    try:
        for _ in call:
            pass
    except grpc.RpcError:
        pass  # its status is asked for below
    return call.code(), call.details()
