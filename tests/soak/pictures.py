"""Pictures that fail to load, in thousands and of all kinds, and what is left behind: descriptors, threads, memory."""

import asyncio
import base64
import gc
import os
import random
import threading
from collections import Counter
from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from executor.errors import DocumentError
from executor.pictures.loader import ImageLimits, ImageLoader
from tests.support.corpus import draw, encode, jpeg_with, png_of, tiff_of
from tests.support.hostile import Request, coroutine_name, raw, redirect, respond, response, serving

SOUND = encode(draw("RGB", (90, 70)), "PNG")
LARGE = png_of(4000, 4000, pixels=b"")
SEGMENTS = jpeg_with(b"\xff\xee\0\2" * 1000)[:-40]
STRIPS = tiff_of({273: (4, 2**20, 200)}, bytes(100))
LIMITS = ImageLimits(
    max_image_bytes=200_000, max_image_pixels=100_000, fetch_timeout_s=0.2, allowed_hosts=("127.0.0.1",), max_fetches=16
)


@dataclass(frozen=True)
class Left:
    """What a process holds."""

    descriptors: int
    threads: int
    tasks: int
    megabytes: float

    @classmethod
    def now(cls) -> "Left":
        gc.collect()
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        tasks = [task for task in asyncio.all_tasks() if coroutine_name(task) != "Server.serve"]
        return cls(
            len(os.listdir("/proc/self/fd")),
            threading.active_count(),
            len(tasks),
            pages * os.sysconf("SC_PAGE_SIZE") / 2**20,
        )


async def _hang(request: Request, writer: asyncio.StreamWriter) -> None:
    await asyncio.sleep(0.5)
    writer.close()


async def _drip(request: Request, writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n")
    for _ in range(20):
        writer.write(b"x")
        await writer.drain()
        await asyncio.sleep(0.02)
    writer.close()


_ANSWERS = {
    "sound": respond(SOUND),
    "missing": respond(b"secret", "404 Not Found"),
    "broken": respond(b"secret", "500 Oops"),
    "loop": redirect("/loop"),
    "inside": redirect("http://10.0.0.1/"),
    "cut": raw(response(SOUND)[:-50], close=True),
    "garbage": raw(bytes(range(256)), close=True),
    "silent": raw(b"", close=True),
    "bomb": respond(b"x" * 400_000),
    "html": respond(b"<html>"),
    "half": respond(SOUND[: len(SOUND) // 2]),
    "hang": _hang,
    "drip": _drip,
}


def _references(random_numbers: random.Random, urls: dict[str, str]) -> tuple[str | None, bytes | None]:
    noise = bytearray(SOUND)
    noise[random_numbers.randrange(8, len(noise))] ^= 0xFF
    choices: list[tuple[str | None, bytes | None]] = [
        *[(url, None) for url in urls.values()] * 2,
        (None, bytes(noise)),
        (None, SEGMENTS),
        (None, LARGE),
        (None, STRIPS),
        (None, random_numbers.randbytes(100)),
        ("data:;base64,!", None),
        ("data:;base64," + base64.b64encode(bytes(noise)).decode(), None),
        ("file:///etc/passwd", None),
        ("/etc/passwd", None),
        ("http://127.1/", None),
        (f"http://[::{random_numbers.randrange(65536):x}]/", None),
        (f"http://name-{random_numbers.randrange(10**9)}.example/", None),
        ("http://127.0.0.1:1/", None),
        (None, None),
    ]
    return random_numbers.choice(choices)


async def soak(failures: int, report: Callable[[int, Left], None], every: int) -> Counter[str]:
    """Loads until there were that many failures; calls `report` before the first and after every `every`-th."""

    async def unknown(host: str, port: int) -> list[str]:
        raise OSError("no such name")

    random_numbers = random.Random(0)
    ends: Counter[str] = Counter()
    loader = ImageLoader((224, 224), Image.Resampling.BICUBIC, LIMITS, 2, unknown)
    async with AsyncExitStack() as stack:
        servers = {name: await stack.enter_async_context(serving(answer)) for name, answer in _ANSWERS.items()}
        urls = {name: server.url for name, server in servers.items()}

        async def one() -> None:
            reference, data = _references(random_numbers, urls)
            async with loader.request() as request:
                loading = asyncio.create_task(request.load(reference, data))
                if random_numbers.random() < 0.1:
                    await asyncio.sleep(random_numbers.random() * 0.01)
                    loading.cancel()
                try:
                    await loading
                    ends["ok"] += 1
                except DocumentError as error:
                    ends[error.code.value] += 1
                except asyncio.CancelledError:
                    ends["cancelled"] += 1

        async def failed(most: int) -> None:
            while ends.total() - ends["ok"] < most:
                await asyncio.gather(*(one() for _ in range(40)))

        # Pools, caches and connections reach their size first.
        await failed(max(every, 200))
        for done in range(every, failures + 1, every):
            await failed(done)
            await asyncio.sleep(0.6)  # the hostile servers' own tasks and sockets end
            for server in servers.values():
                server.requests.clear()
            report(done, Left.now())
    loader.close()
    return ends


def growth(seen: list[Left]) -> list[str]:
    """What the last look shows more of than the first. Memory may differ by what the allocator keeps."""
    first, last = seen[0], seen[-1]
    problems = [name for name in ("threads", "tasks") if getattr(last, name) > getattr(first, name)]
    # Idle connections are kept for reuse: at most twice `max_fetches`, at both ends.
    problems += ["descriptors"] if last.descriptors > first.descriptors + 4 * LIMITS.max_fetches else []
    problems += ["memory"] if last.megabytes > first.megabytes + 30 else []
    return problems
