"""Requests and replies as bytes."""

from typing import Any


def count_no_bytes_in_the_environment() -> None:
    """Keeps Jina from writing the sum of all bytes into environment variables with every message.

    The C library never frees what was in the environment, since somebody may still read it: with every request the
    process grows by about 120 bytes, without end. Nobody reads the sums.
    """
    from jina.proto.serializer import DataRequestProto
    from jina.types.request.data import DataRequest

    def serialize(message: Any) -> Any:
        return message.proto.SerializePartialToString() if message.is_decompressed else message.buffer

    DataRequestProto.SerializeToString = staticmethod(serialize)
    DataRequestProto.FromString = staticmethod(DataRequest)
