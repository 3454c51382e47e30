"""How to get throughput out of `jina.Client`: recipes against the service with the demo checkpoint.

    python -m benchmarks.clients [--rounds 5] [--documents 192] [--topologies native gateway ...] [--regimes ...]

Every recipe asks the same question about the same pictures, each of them different. What differs is how many documents
reach the device at the same time, and how often the cost of a request is paid:

- one stream of requests, as `post` sends it by default, with 1, 16 or 100 (jina's default) documents in each;
- `stream=False`: a call of its own for each request, many of them at once;
- `Client(asyncio=True)` and a post of its own for each document, all at once: each post opens a connection;
- 8 threads that post one document after the other: jina's client has one lock for all threads of a process, so they
  wait for each other, and no two documents ever meet.

There are two regimes. With `questions` an answer costs so little (the demo checkpoint, one or two words, greedy) that
what a request costs decides: client, gateway and server share the cores, and every request that need not be made is a
gain. With `texts` (the preset `caption` made to write 60 tokens with five beams) the device is what everything waits
for, as it is with a large checkpoint, and all that matters is whether its batches are full.

The device's cache of pictures is off, so that every round computes the same. Recipes alternate within a round, so that
other load on the machine meets all of them; numbers are medians over rounds, and a ratio is the median over rounds of
the recipe's rate over that of the best recipe (the one with the highest median) of the same topology and regime. The
last line is JSON.
"""

import argparse
import asyncio
import io
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

# Read by jina and torch when they are imported, here and in the processes that are started.
os.environ |= {"JINA_LOG_LEVEL": "ERROR", "OMP_NUM_THREADS": "1", "BLIP2_FEATURE_CACHE_MB": "0"}

from docarray import DocList
from jina import Client, Deployment, Flow

from demo.drawing import draw_scene
from demo.scenes import random_scene, random_stream
from demo.service import CHECKPOINT, ROOT, Service, free_port
from executor import Blip2Executor, ImagePrompt, Response

THREADS = 8
CONFIG = str(ROOT / "config.yml")
Recipe = Callable[[int, DocList], DocList]


def stream(request_size: int, **options: object) -> Recipe:
    def post(port: int, documents: DocList) -> DocList:
        client = Client(port=port)
        return client.post("/", documents, request_size=request_size, return_type=DocList[Response], **options)

    return post


def gather(port: int, documents: DocList) -> DocList:
    client = Client(port=port, asyncio=True)

    async def post(document: ImagePrompt) -> Response:
        replies = [reply async for reply in client.post("/", document, return_type=DocList[Response])]
        return replies[0][0]

    async def post_all() -> list[Response]:
        return await asyncio.gather(*(post(document) for document in documents))

    return DocList[Response](asyncio.run(post_all()))


def threads(port: int, documents: DocList) -> DocList:
    client = Client(port=port)

    def post(document: ImagePrompt) -> Response:
        return client.post("/", document, return_type=DocList[Response])[0]

    with ThreadPoolExecutor(THREADS) as pool:
        return DocList[Response](pool.map(post, documents))


RECIPES: dict[str, Recipe] = {
    "post, request_size=1": stream(1),
    "post, request_size=16": stream(16),
    "post, request_size=100": stream(100),
    "post, request_size=1, stream=False": stream(1, stream=False),
    "asyncio=True, gather": gather,
    f"{THREADS} threads, one document each": threads,
}


@contextmanager
def native(port: int) -> Iterator[None]:
    with tempfile.TemporaryDirectory() as folder, Service(port=port, log=Path(folder) / "log"):
        yield


TOPOLOGIES: dict[str, tuple[str, Callable[[int], AbstractContextManager[object]]]] = {
    "native": ("python -m executor", native),
    "gateway": ("Deployment(uses=Blip2Executor)", lambda port: Deployment(uses=Blip2Executor, port=port)),
    "config": ("Deployment(uses='config.yml')", lambda port: Deployment(uses=CONFIG, port=port)),
    "flow": ("Flow().add(uses='config.yml')", lambda port: Flow(port=port).add(uses=CONFIG)),
}


REGIMES: dict[str, dict[str, Any]] = {
    "questions": {"prompt": "how many cats are there?"},
    "texts": {"prompt": "a photo of", "preset": "caption", "min_new_tokens": 60, "max_new_tokens": 60},
}


def draw_documents(count: int, fields: dict[str, Any]) -> DocList:
    def picture(number: int) -> bytes:
        buffer = io.BytesIO()
        draw_scene(random_scene(random_stream("evaluate", 1, number)), number).save(buffer, "JPEG", quality=85)
        return buffer.getvalue()

    return DocList[ImagePrompt](
        ImagePrompt(id=str(number), img_bytes=picture(number), **fields) for number in range(count)
    )


def measure(port: int, documents: DocList, rounds: int) -> dict[str, dict[str, object]]:
    rates: dict[str, list[float]] = {name: [] for name in RECIPES}
    in_order = dict.fromkeys(RECIPES, True)
    errors = dict.fromkeys(RECIPES, 0)
    ids = [document.id for document in documents]
    stream(16)(port, documents)  # warm-up
    for _ in range(rounds):
        for name, recipe in RECIPES.items():
            start = time.perf_counter()
            responses = recipe(port, documents)
            rates[name].append(len(documents) / (time.perf_counter() - start))
            answered = [response.id for response in responses]
            if sorted(answered) != sorted(ids):
                raise RuntimeError(f"'{name}' did not answer every document once")
            in_order[name] &= answered == ids
            errors[name] += sum(bool(response.error) for response in responses)
    best = max(rates, key=lambda name: statistics.median(rates[name]))
    return {
        name: {
            "answers_per_s": round(statistics.median(rates[name]), 1),
            "over_best": round(statistics.median(a / b for a, b in zip(rates[name], rates[best], strict=True)), 3),
            "in_order": in_order[name],
            "errors": errors[name],
        }
        for name in RECIPES
    }


def print_table(title: str, results: dict[str, dict[str, object]]) -> None:
    print(f"\n{title:42} {'answers/s':>9} {'over best':>9} {'in order':>8} {'errors':>6}")
    for name, result in results.items():
        print(
            f"{name:42} {result['answers_per_s']:9.1f} {result['over_best']:9.2f} "
            f"{'yes' if result['in_order'] else 'no':>8} {result['errors']:6}",
            flush=True,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--documents", type=int, default=192)
    parser.add_argument("--topologies", nargs="+", choices=TOPOLOGIES, default=["native", "gateway"])
    parser.add_argument("--regimes", nargs="+", choices=REGIMES, default=list(REGIMES))
    options = parser.parse_args()
    os.environ["BLIP2_MODEL"] = str(CHECKPOINT)
    documents = {regime: draw_documents(options.documents, REGIMES[regime]) for regime in options.regimes}
    report: dict[str, object] = {"documents": options.documents, "rounds": options.rounds}
    for topology in options.topologies:
        title, start = TOPOLOGIES[topology]
        port = free_port()
        with start(port):
            for regime in options.regimes:
                results = measure(port, documents[regime], options.rounds)
                report[f"{topology}, {regime}"] = results
                print_table(f"{title}, {regime}", results)
    print(json.dumps(report))


if __name__ == "__main__":
    main()
