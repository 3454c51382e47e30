"""A soak from its plan to its verdict: the service's lives, clients, picture servers, the rotation of tokens."""

import asyncio
import base64
import json
import random
import re
import secrets
import sys
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc

from demo.service import ROOT, Service, free_port
from tests.soak.clients import NOT_SENT, Client, Tally, Tokens
from tests.soak.habits import Habits
from tests.soak.lives import Life, Lives
from tests.soak.questions import Questions, encode
from tests.support.hostile import Answer, Request, respond, response, serving
from tests.support.logged import unwrapped

_MAX_MESSAGE_MB = 16
_SETTINGS: dict[str, Any] = {
    "allowed_hosts": "127.0.0.1",
    "max_message_mb": _MAX_MESSAGE_MB,
    "fetch_timeout_s": 3,
    "max_fetches": 16,
    "feature_cache_mb": 1,
}


@dataclass(frozen=True)
class Verdict:
    """What a soak found."""

    tally: Tally
    lives: Sequence[Life]
    seconds: float

    @property
    def problems(self) -> list[str]:
        """Why it failed; empty where it did not."""
        counts = self.tally.counts
        lives = [f"life {number}: {fault}" for number, life in enumerate(self.lives, 1) for fault in life.faults()]
        nothing = [f"nothing was {name}" for name in ("right", "expected errors") if not counts[name]]
        return [*self.tally.violations, *lives, *nothing]

    def table(self) -> str:
        """Figures, for people."""
        rows = [("seconds", f"{self.seconds:.0f}")]
        rows += [(name, f"{count:,}") for name, count in sorted(self.tally.counts.items())]
        rows += [(name, f"{self.tally.counts[name]:,}") for name in ("lost", "wrong", "violations")]
        rows += [(f"asked again: {name}", f"{count:,}") for name, count in sorted(self.tally.retries.items())]
        for number, life in enumerate(self.lives, 1):
            last = life.samples[-1] if life.samples else None
            held = f"{last.megabytes:.0f} MB, {last.descriptors} descriptors, {last.threads} threads" if last else "-"
            grown = ", ".join(f"{name} {growth:+.0f}" for name, growth in life.growth().items()) or "too short to say"
            rows.append((f"life {number}, {life.end.name}", f"exit status {life.status}; {held}; growth: {grown}"))
        return "\n".join(f"{name:34} {value}" for name, value in dict(rows).items())


async def soak(
    lives: Sequence[Life],
    folder: Path,
    clients: int,
    pictures: int,
    max_queue: int,
    sample_s: float,
    rotation_s: float,
    stock_client_s: float,
    report: Callable[[str], None],
    report_s: float = 60,
) -> Verdict:
    """Runs it.

    Args:
        folder: for tokens and logs; exists.
        clients: at the same time.
        pictures: that are asked about.
        max_queue: of the service; bursts and long requests are as large as to fill it.
        sample_s: seconds between two looks at the process.
        rotation_s: seconds between two rotations of the token.
        stock_client_s: seconds between two uses of jina's own client.
        report: called with a line every `report_s` seconds.
    """
    begun = time.monotonic()
    questions = await asyncio.to_thread(Questions, pictures)
    tally, tokens, port = Tally(), Tokens(folder / "tokens"), free_port()
    logs = iter(range(len(lives)))

    def start() -> Service:
        log = folder / f"life-{next(logs) + 1}.log"
        return Service(port, log, auth_tokens_file=folder / "tokens", max_queue=max_queue, **_SETTINGS)

    running = Lives(lives, start, sample_s)
    asking = Asking(port, tokens, tally, running)
    async with AsyncExitStack() as stack:
        urls = await stack.enter_async_context(_picture_servers(questions.pictures))
        living = asyncio.create_task(running.run())
        serving_first = asyncio.create_task(running.is_serving.wait())
        await asyncio.wait([living, serving_first], return_when=asyncio.FIRST_COMPLETED)
        habits = [Habits(questions, urls, max_queue, _MAX_MESSAGE_MB, seed) for seed in range(clients)]
        over = running.is_over
        tasks = [asyncio.create_task(asking.client(habit, over)) for habit in habits]
        tasks.append(asyncio.create_task(asking.rotate(habits[0], rotation_s, over)))
        tasks.append(asyncio.create_task(asking.stock_client(questions, stock_client_s, over)))

        async def report_often() -> None:
            while True:
                await asyncio.sleep(report_s)
                counts, life = tally.counts, lives[running.current]
                held = life.samples[-1] if life.samples else None
                minutes, again = (time.monotonic() - begun) / 60, sum(tally.retries.values())
                report(
                    f"{minutes:.1f} min, life {running.current + 1}: {counts['asked']:,} asked, "
                    f"{counts['right']:,} right, {counts['expected errors']:,} expected errors, "
                    f"{again:,} asked again, {counts['violations']} violations, {held}"
                )

        reporting = asyncio.create_task(report_often())
        try:
            await living
            await asyncio.gather(*tasks)
        finally:
            for task in (living, serving_first, reporting, *tasks):
                task.cancel()
            await asyncio.gather(living, serving_first, reporting, *tasks, return_exceptions=True)
            await running.end()
    for number in range(1, len(lives) + 1):
        if cut_calls(await asyncio.to_thread((folder / f"life-{number}.log").read_text, errors="replace")):
            tally.violation(f"life {number} has cut calls that it had let in")
    return Verdict(tally, lives, time.monotonic() - begun)


def cut_calls(log: str) -> bool:
    """Whether a service says in its log, whose lines have times and are broken anywhere, that it has cut calls."""
    return "calls have no answer after" in unwrapped(log)


class Asking:
    """What goes on beside the service until it is over."""

    def __init__(self, port: int, tokens: Tokens, tally: Tally, lives: Lives) -> None:
        self._port = port
        self._tokens = tokens
        self._tally = tally
        self._lives = lives

    def _connect(self) -> Client:
        return Client(self._port, self._tokens, self._tally, self._lives)

    async def client(self, habits: Habits, over: asyncio.Event) -> None:
        """Everything once, then at random, on one connection."""
        client = self._connect()
        every = list(habits.all())
        random.shuffle(every)
        while not over.is_set():
            try:
                await (every.pop()(client) if every else habits.next(client))
            except Exception as error:  # noqa: BLE001 - whatever it is, it must not happen
                self._tally.violation(f"a client failed: {error!r}")
        await client.close()

    async def rotate(self, habits: Habits, every_s: float, over: asyncio.Event) -> None:
        """The old token and the new one are both valid for a while, then the new one alone."""
        client = self._connect()
        while not await _wait(over, every_s):
            old, new = self._tokens.current, secrets.token_urlsafe()
            self._tokens.write(old, new)
            for token in (old, new):
                await client.ask(habits.sound(1), token=token)
            self._tokens.current = new
            await _wait(over, every_s / 2)
            self._tokens.write(new)
            await client.refused(encode(habits.sound(1)), grpc.StatusCode.UNAUTHENTICATED, old)
            await client.ask(habits.sound(1), token=new)
            self._tally.counts["token rotations"] += 1
        await client.close()

    async def stock_client(self, questions: Questions, every_s: float, over: asyncio.Event) -> None:
        """jina's own client, as everybody uses it."""
        cases = questions.plain()
        rows = json.dumps([[base64.b64encode(picture).decode(), prompt] for picture, prompt, _ in cases]).encode()
        expected = [[answer, ""] for _, _, answer in cases]
        while True:
            token = self._tokens.current
            command = [sys.executable, "-m", "tests.soak.stock_client", str(self._port), token]
            process = await asyncio.create_subprocess_exec(
                *command, cwd=ROOT, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
            )
            try:
                output, _ = await process.communicate(rows)
            finally:
                if process.returncode is None:
                    process.kill()
                    await process.wait()
            reply = json.loads(output.splitlines()[-1]) if output else {"failed": "no output"}
            again = self._judge_stock_client(reply, expected, token)
            if await _wait(over, 0.5 if again else every_s) and not again:
                return

    def _judge_stock_client(self, reply: dict, expected: list, token: str) -> bool:
        """Whether it must ask again."""
        failed = reply.get("failed")
        if failed is not None and NOT_SENT in failed:
            self._tally.retries["stock client, not connected"] += 1
            return True
        self._tally.read(failed or "")
        if failed is None and any(error.startswith("OVERLOADED") for _, error in reply["answers"]):
            self._tally.retries["stock client, OVERLOADED"] += 1
            return True
        if failed is None:
            self._tally.counts["stock client right"] += reply["answers"] == expected
            if reply["answers"] != expected:
                self._tally.violation(f"jina's client: {reply['answers']} instead of {expected}")
            return False
        if re.search("UNAVAILABLE|ConnectionError", failed) or token != self._tokens.current:
            self._tally.retries["stock client, not connected"] += 1
            return True
        self._tally.violation(f"jina's client: {failed}")
        return False


async def _wait(event: asyncio.Event, seconds: float) -> bool:
    """Until the event or so many seconds are over. Whether it was the event."""
    try:
        await asyncio.wait_for(event.wait(), seconds)
    except asyncio.TimeoutError:
        return False
    return True


@asynccontextmanager
async def _picture_servers(pictures: Sequence[bytes]) -> AsyncIterator[Mapping[str, str]]:
    async def sound(request: Request, writer: asyncio.StreamWriter) -> None:
        writer.write(response(pictures[int(request.target[1:])]))

    async def slow(request: Request, writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(60)

    answers: dict[str, Answer] = {
        "sound": sound,
        "missing": respond(b"secret", "404 Not Found"),
        "broken": respond(b"secret", "500 Oops"),
        "slow": slow,
    }
    async with AsyncExitStack() as stack:
        servers = {name: await stack.enter_async_context(serving(answer)) for name, answer in answers.items()}
        yield {name: server.url for name, server in servers.items()} | {"dead": "http://127.0.0.1:1"}
