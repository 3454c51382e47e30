"""Clients that ask in every way, ask again where they may, and note what must not happen.

Knows Jina's protocol through plain stubs of gRPC, and nothing of the process that serves.
"""

import asyncio
import random
import re
import secrets
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from contextlib import aclosing
from pathlib import Path
from typing import Any

import grpc
from jina.proto import jina_pb2

from tests.soak.lives import Lives
from tests.soak.questions import Failed, Item, decode, encode

_GIVE_UP_S = 120
_UNARY = "/jina.JinaSingleDataRequestRPC/process_single_data"
_STREAM = "/jina.JinaRPC/Call"
_OPTIONS = [
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_send_message_length", -1),
    # Each client has connections of its own, and soon finds a service that was started again.
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 500),
]
_REFUSED_AT_THE_DOOR = ("shutting down", "starting", "failed to connect", "Connection refused")
NOT_SENT = "Internal error from Core"
"""No status of the service: grpc.aio says so in the client, where a message could not be sent."""
_CLOSED_BEFORE = ("sendmsg: Broken pipe", "Cancelling all calls")
"""The system's word for a connection that the other side has closed, and that of a gRPC server that closes."""
_TELLING = re.compile(r"Traceback|File \"|\.py\b|site-packages|0x[0-9a-f]{6}|(?<![\w:/])/[\w.-]+/[\w.-]+")
"""What no client may read: tracebacks, modules, addresses in memory, paths."""


class Tally:
    """What happened, and what must not have happened."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.retries: Counter[str] = Counter()
        self.violations: list[str] = []

    def violation(self, text: str) -> None:
        self.counts["violations"] += 1
        if len(self.violations) < 20:
            self.violations.append(text[:500])

    def read(self, text: str) -> None:
        """A client has read this."""
        if _TELLING.search(text):
            self.violation(f"a client was told too much: {text}")


class Tokens:
    """A file of tokens, and the token that clients have."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self.current = secrets.token_urlsafe()
        self.write(self.current)

    def write(self, *tokens: str) -> None:
        fresh = self._file.with_suffix(".new")
        fresh.write_text("# of the soak\n" + "\n".join(tokens) + "\n")
        fresh.replace(self._file)


class Client:
    """One client with a connection of its own.

    Args:
        lives: whether calls may break off now, or meet a server that is just closing.
    """

    def __init__(self, port: int, tokens: Tokens, tally: Tally, lives: Lives) -> None:
        self._tokens = tokens
        self._tally = tally
        self._lives = lives
        self._channel = grpc.aio.insecure_channel(f"127.0.0.1:{port}", _OPTIONS)
        self._unary = self._channel.unary_unary(_UNARY)
        self._stream = self._channel.stream_stream(_STREAM)

    async def close(self) -> None:
        await self._channel.close()

    async def ask(
        self,
        items: Sequence[Item],
        parameters: Mapping[str, Any] | None = None,
        request_size: int | None = None,
        token: str | None = None,
    ) -> None:
        """Asks until every item has its answer or its expected error.

        Args:
            request_size: documents in each request of a stream; None is one request, and no stream.
            token: instead of the current one.
        """
        self._tally.counts["asked"] += len(items)
        pending = list(items)
        deadline = asyncio.get_running_loop().time() + _GIVE_UP_S
        while pending:
            used = token or self._tokens.current
            wait_s = 0.0
            left: list[Item] = []
            replies = self._replies(pending, parameters, request_size, used)
            try:
                async with aclosing(replies):
                    async for asked, reply in replies:
                        pending = pending[len(asked) :]
                        wait_s = max(wait_s, self._settle(asked, reply, left))
            except grpc.RpcError as error:
                retry_s = self._retry_after(error, used if token is None else None)
                if retry_s is None:
                    return
                wait_s = max(wait_s, retry_s)
            except (Failed, ValueError) as error:
                self._tally.violation(f"a request failed as a whole: {error}")
                return
            pending = left + pending
            if pending and asyncio.get_running_loop().time() > deadline:
                self._tally.counts["lost"] += len(pending)
                self._tally.violation(f"{len(pending)} documents had no answer after {_GIVE_UP_S} s")
                return
            if pending:
                await asyncio.sleep(wait_s * random.uniform(1, 1.5))

    async def refused(self, request: bytes, code: grpc.StatusCode | None, token: str | None) -> None:
        """Sends a request that must be refused: with a status, or in its header where `code` is None.

        A full service may say so of the documents in it before it finds out; then it is sent again.
        """
        while True:
            try:
                reply = await self._unary(
                    request, metadata=_metadata(token or self._tokens.current), timeout=_GIVE_UP_S
                )
                if _is_overloaded(reply):
                    self._tally.retries["OVERLOADED"] += 1
                    await asyncio.sleep(1)
                    continue
                decode(reply, [])
            except grpc.RpcError as error:
                if error.code() is not code:
                    retry_s = self._retry_after(error, None if token else "")
                    if retry_s is not None:
                        await asyncio.sleep(retry_s)
                        continue
                    return
                self._tally.read(error.details() or "")
            except ValueError as error:
                self._tally.violation(f"a request was let in that must be refused with {code}: {error}")
            except Failed as error:
                self._tally.read(str(error))
                if code is not None or not str(error).startswith("INVALID_"):
                    self._tally.violation(f"refused otherwise than with {code}: {error}")
            else:
                self._tally.violation(f"a request was let in that must be refused with {code}")
            self._tally.counts["expected errors"] += 1
            return

    async def leave(self, items: Sequence[Item], after_s: float) -> None:
        """Asks, and cancels the call after some time."""
        used = self._tokens.current
        call = self._unary(encode(items), metadata=_metadata(used))
        await asyncio.sleep(after_s)
        call.cancel()
        try:
            await call
        except asyncio.CancelledError:
            if not call.cancelled():
                raise  # it is this task that is cancelled
            self._tally.counts["cancelled"] += 1
        except grpc.RpcError as error:
            self._retry_after(error, used)
        else:
            self._tally.counts["answered before"] += 1

    async def expire(self, items: Sequence[Item], after_s: float) -> None:
        """Asks with a deadline that may pass."""
        used = self._tokens.current
        try:
            reply = await self._unary(encode(items), metadata=_metadata(used), timeout=after_s)
        except grpc.RpcError as error:
            if error.code() is grpc.StatusCode.DEADLINE_EXCEEDED:
                self._tally.counts["expired"] += 1
            else:
                self._retry_after(error, used)
            return
        self._tally.counts["answered before"] += 1
        left: list[Item] = []
        self._settle(items, reply, left)

    async def _replies(
        self, items: Sequence[Item], parameters: Mapping[str, Any] | None, request_size: int | None, token: str
    ) -> AsyncGenerator[tuple[Sequence[Item], bytes], None]:
        if request_size is None:
            yield items, await self._unary(encode(items, parameters), metadata=_metadata(token), timeout=_GIVE_UP_S)
            return
        groups = [items[start : start + request_size] for start in range(0, len(items), request_size)]

        async def requests() -> AsyncIterator[bytes]:
            for group in groups:
                yield encode(group, parameters)

        call = self._stream(requests(), metadata=_metadata(token), timeout=_GIVE_UP_S)
        number = 0
        async for reply in call:
            yield groups[number], reply
            number += 1
        if number < len(groups):
            self._tally.violation(f"a stream of {len(groups)} requests ended well after {number} answers")

    def _settle(self, items: Sequence[Item], reply: bytes, left: list[Item]) -> float:
        """Compares; puts what was refused into `left`. Returns seconds to wait before those are asked again."""
        wait_s = 0.0
        for item, (answer, error) in zip(items, decode(reply, items), strict=True):
            self._tally.read(error)
            code = error.partition(":")[0]
            if code == "OVERLOADED":
                hint = re.search(r"again in (\d+) s", error)
                wait_s = max(wait_s, float(hint[1]) if hint else 1.0)
                self._tally.retries["OVERLOADED"] += 1
                left.append(item)
            elif code != item.code or answer != item.answer:
                expected = item.code or repr(item.answer)
                self._tally.counts["wrong"] += 1
                asked = {name: str(value)[:60] for name, value in item.fields.items()}
                self._tally.violation(f"{answer!r} {error!r} instead of {expected} for {asked}")
            else:
                self._tally.counts["expected errors" if item.code else "right"] += 1
        return wait_s

    def _retry_after(self, error: grpc.RpcError, used_token: str | None) -> float | None:
        """Seconds until the same may be asked again; None where it may not, which is a violation.

        Args:
            used_token: where it was the current one and may have been replaced meanwhile.
        """
        code, details = error.code(), error.details() or ""
        self._tally.read(details)
        if code is grpc.StatusCode.UNAVAILABLE:
            if any(known in details for known in _REFUSED_AT_THE_DOOR):
                self._tally.retries["not let in"] += 1
                return 0.5
            # What was let in has been answered all the same: see `cut_calls`.
            if any(known in details for known in _CLOSED_BEFORE) and self._lives.is_closing:
                self._tally.retries["came as it closed"] += 1
                return 0.5
            self._tally.retries["cut by kill -9"] += 1
            if self._lives.was_killed:
                return 0.3
            self._tally.violation(f"a call was cut: {details}")
            return 0.3
        if code is grpc.StatusCode.CANCELLED and self._lives.is_closing:
            self._tally.retries["came as it closed"] += 1
            return 0.5
        if code is grpc.StatusCode.INTERNAL and details == NOT_SENT:
            self._tally.retries["not sent"] += 1
            return 0.3
        if code is grpc.StatusCode.RESOURCE_EXHAUSTED and details.startswith("OVERLOADED"):
            self._tally.retries["too many calls"] += 1
            return 1.0
        if code is grpc.StatusCode.UNAUTHENTICATED and used_token is not None and used_token != self._tokens.current:
            self._tally.retries["token replaced meanwhile"] += 1
            return 0.0
        self._tally.violation(f"a call ended with {code.name}: {details}")
        return None


def _is_overloaded(reply: bytes) -> bool:
    documents = jina_pb2.DataRequestProto.FromString(reply).data.docs.docs
    return any(document.data["error"].text.startswith("OVERLOADED") for document in documents)


def _metadata(token: str) -> tuple[tuple[str, str], ...]:
    return (("authorization", f"Bearer {token}"),) if token != "none" else ()
