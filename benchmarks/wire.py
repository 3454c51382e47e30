"""How each server is spoken to: a request's bytes, one connection that stays open, and the answer in a reply.

The client's share of the machine is kept small: requests are serialised once, replies are read after the measurement.
gRPC servers get Jina's protocol from plain stubs, since jina's own client costs 5 ms of CPU for each call; HTTP servers
get JSON with the picture in base64, as their documentation shows.
"""

import base64
import json
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

import aiohttp
import grpc
from docarray import BaseDoc, DocList
from jina.proto import jina_pb2
from jina.types.request.data import DataRequest

Ask = Callable[[bytes], Awaitable[bytes]]
"""Sends a request's bytes, returns the reply's."""

_UNLIMITED = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
_PATHS = {"litserve": "/predict", "bentoml": "/answer", "ray": "/"}
PROTOCOLS = ("jina", *_PATHS)


class ImagePrompt(BaseDoc):
    """The fields that a client needs."""

    img_bytes: bytes
    prompt: str


def encode(protocol: str, picture: bytes, prompt: str) -> bytes:
    """A request's bytes."""
    if protocol == "jina":
        request = DataRequest()
        request.document_array_cls = DocList[ImagePrompt]
        request.data.docs = DocList[ImagePrompt]([ImagePrompt(img_bytes=picture, prompt=prompt)])
        request.header.exec_endpoint = "/vqa"
        request.header.request_id = "benchmark"
        return bytes(request.proto_with_data.SerializeToString())
    question = {"image": base64.b64encode(picture).decode(), "prompt": prompt}
    return json.dumps({"questions": [question]} if protocol == "bentoml" else question).encode()


def decode(protocol: str, reply: bytes) -> str:
    """The answer in a reply.

    Raises:
        ValueError: the server says that it failed.
    """
    if protocol == "jina":
        request = jina_pb2.DataRequestProto.FromString(reply)
        if request.header.status.code != jina_pb2.StatusProto.SUCCESS:
            raise ValueError(request.header.status.description)
        fields = request.data.docs.docs[0].data
        if "error" in fields and fields["error"].text:
            raise ValueError(fields["error"].text)
        return str(fields["answer"].text)
    body: Any = json.loads(reply)
    return str(body[0] if protocol == "bentoml" else body["answer"])


def connect(protocol: str, port: int) -> AbstractAsyncContextManager[Ask]:
    """A persistent connection, or as many as there are requests in flight for HTTP/1.1."""
    return _grpc(port) if protocol == "jina" else _http(f"http://127.0.0.1:{port}{_PATHS[protocol]}")


@asynccontextmanager
async def _grpc(port: int):
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}", _UNLIMITED) as channel:
        yield channel.unary_unary("/jina.JinaSingleDataRequestRPC/process_single_data")


@asynccontextmanager
async def _http(url: str):
    headers = {"Content-Type": "application/json"}
    connector = aiohttp.TCPConnector(limit=0)
    timeout = aiohttp.ClientTimeout(total=None)
    async with aiohttp.ClientSession(connector=connector, headers=headers, timeout=timeout) as session:

        async def ask(body: bytes) -> bytes:
            async with session.post(url, data=body) as response:
                reply = await response.read()
                if response.status != 200:
                    raise ValueError(f"status {response.status}: {reply[:200]!r}")
                return reply

        yield ask
