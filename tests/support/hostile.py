"""A small internet on loopback: servers that send any bytes, names that resolve to anything, public addresses.

Everything goes through real sockets. Only where a connection is opened, `Internet` sends one to a public address to the
server on loopback that plays it; every other address outside of loopback is unreachable.
"""

import asyncio
import io
import random
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from PIL import Image

from executor.pictures.fetching import Fetcher

PUBLIC = "93.184.216.34"
PUBLIC_6 = "2606:2800:220:1:248:1893:25c8:1946"


@dataclass
class Request:
    """What a client asked: request line and headers, names in lower case."""

    method: str
    target: str
    headers: dict[str, str]


Answer = Callable[[Request, asyncio.StreamWriter], Awaitable[None]]


@dataclass
class Server:
    """Listens on loopback and answers every request with `answer`; an answer that closes the writer ends it."""

    answer: Answer
    host: str = "127.0.0.1"
    port: int = 0
    requests: list[Request] = field(default_factory=list)
    connections: int = 0
    open_connections: int = 0
    most_open_connections: int = 0

    @property
    def url(self) -> str:
        return f"http://{self.host}:{self.port}"

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self.open_connections += 1
        self.most_open_connections = max(self.most_open_connections, self.open_connections)
        try:
            while not writer.is_closing():
                head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
                method, target, _ = head[0].split(" ", 2)
                headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in head[1:])}
                request = Request(method, target, headers)
                self.requests.append(request)
                await self.answer(request, writer)
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass  # the client has left
        finally:
            self.open_connections -= 1
            writer.close()


@asynccontextmanager
async def serving(answer: Answer | bytes, host: str = "127.0.0.1") -> AsyncIterator[Server]:
    """A running server. Bytes as the answer: a plain response with this body."""
    server = Server(respond(answer) if isinstance(answer, bytes) else answer, host)
    tasks: set[asyncio.Task[None]] = set()

    def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.get_running_loop().create_task(server.serve(reader, writer))
        tasks.add(task)
        task.add_done_callback(tasks.discard)

    listener = await asyncio.start_server(connected, host, 0)
    server.port = listener.sockets[0].getsockname()[1]
    try:
        yield server
    finally:
        listener.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def until(condition: Callable[[], Any]) -> None:
    """Lets everything else run until the condition holds."""
    while not condition():  # noqa: ASYNC110
        await asyncio.sleep(0)


def coroutine_name(task: asyncio.Task[Any]) -> str:
    """The name of the function that a task runs, as in `Server.serve`."""
    return str(getattr(task.get_coro(), "__qualname__", ""))


def respond(body: bytes, status: str = "200 OK", headers: dict[str, str] | None = None) -> Answer:
    """Answers every request with this response."""
    return raw(response(body, status, headers))


def response(body: bytes, status: str = "200 OK", headers: dict[str, str] | None = None) -> bytes:
    lines = {"Content-Length": str(len(body)), **(headers or {})}
    head = "".join(f"{name}: {value}\r\n" for name, value in lines.items())
    return f"HTTP/1.1 {status}\r\n{head}\r\n".encode("latin-1") + body


def raw(data: bytes, close: bool = False) -> Answer:
    """Answers every request with exactly these bytes."""

    async def answer(request: Request, writer: asyncio.StreamWriter) -> None:
        writer.write(data)
        if close:
            await writer.drain()
            writer.close()

    return answer


def redirect(location: str, status: str = "302 Found") -> Answer:
    return respond(b"", status, {"Location": location})


class Internet:
    """Names and addresses of a test's own.

    Attributes:
        names: host name -> the answers of successive lookups; the last one is repeated.
        servers: address -> the server on loopback that plays it, on whatever port it is asked.
        connections: (address, port) of every attempt to connect.
        lookups: every name asked for.
    """

    def __init__(self, monkeypatch: Any = None) -> None:
        self.names: dict[str, list[list[str]]] = {}
        self.servers: dict[str, Server] = {}
        self.connections: list[tuple[str, int]] = []
        self.lookups: list[str] = []
        if monkeypatch is not None:
            monkeypatch.setattr(Fetcher, "_socket", lambda fetcher, address: self._socket(fetcher, address))

    async def lookup(self, host: str, port: int) -> list[str]:
        self.lookups.append(host)
        if host not in self.names:
            raise socket.gaierror(socket.EAI_NONAME, "unknown name")
        answers = self.names[host]
        return answers.pop(0) if len(answers) > 1 else answers[0]

    def _socket(self, fetcher: Fetcher, address: tuple[Any, ...]) -> socket.socket:
        internet = self

        class Routed(socket.socket):
            @property
            def family(self) -> socket.AddressFamily:  # what asyncio resolves the address for
                return socket.AddressFamily(address[0])

            def connect(self, target: Any) -> None:
                internet.connections.append((target[0], target[1]))
                server = internet.servers.get(target[0])
                if server is not None:
                    super().connect((server.host, server.port))
                elif target[0].startswith("127."):
                    super().connect(target)
                else:
                    raise OSError("unreachable")

        routed = Routed(socket.AF_INET, socket.SOCK_STREAM)
        fetcher._sockets.add(routed)
        return routed


def png(size: tuple[int, int] = (64, 48), seed: int = 0) -> bytes:
    return encoded("PNG", size, seed)


def encoded(encoding: str, size: tuple[int, int] = (64, 48), seed: int = 0) -> bytes:
    picture = Image.frombytes("RGB", size, random.Random(seed).randbytes(size[0] * size[1] * 3))
    buffer = io.BytesIO()
    picture.save(buffer, encoding)
    return buffer.getvalue()
