"""The engine behind a bare gRPC server, for GPU machines on whose Python Jina does not install.

    python -m benchmarks.front --model xl --concurrency 1 8 32 64 128

The same decoder, batcher and engine as the service has, behind one `grpc.aio` method that takes a JPEG and returns
text, in a process of its own; what is missing is Jina's document protocol (0.5 ms of a core per request). The load is
a closed loop of as many callers as `--concurrency` says, each with a picture of its own, in this process. The last line
is JSON.
"""

import argparse
import asyncio
import io
import json
import os
import statistics
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import numpy as np
from PIL import Image

from benchmarks.architectures import ARCHITECTURES, build
from benchmarks.engine import PROMPT, machine
from executor.checkpoints import loading
from executor.model.blip2 import Blip2Model
from executor.model.engine import CollatedBatch, Engine, Question
from executor.model.warmup import warm_up
from executor.pictures.decoding import Decoder
from executor.pictures.limits import ImageLimits
from executor.questions.options import GenerationOptions
from executor.scheduling.batcher import Batcher
from executor.telemetry.observer import BatchReport

METHOD = "/blip2/Ask"
LIMITS = [("grpc.max_receive_message_length", 2**26)]


async def serve(options: argparse.Namespace) -> None:
    """Serves until its standard input ends; says its port when it is ready."""
    device = loading.resolve_device("auto")
    if options.model in ARCHITECTURES:
        checkpoint = build(options.model, device, options.dtype)
        loading.allow_fast_float32(device, checkpoint.dtype)
    else:
        checkpoint = loading.load(options.model, dtype=options.dtype)
    model = Blip2Model(checkpoint, max_prompt_tokens=512)
    way = GenerationOptions(max_new_tokens=options.new_tokens, min_new_tokens=options.new_tokens).canonical()
    warm_up(model, options.compile, options.batch, way, lambda line: print(line, file=sys.stderr))
    reports: list[BatchReport] = []
    engine = Engine(model, 0, reports.append)
    batcher: Batcher[Question, CollatedBatch, str] = Batcher(engine.collate, engine.run, options.batch, 0.002)
    decoder = Decoder(model.image_size, model.resample, ImageLimits())
    pool = ThreadPoolExecutor(os.cpu_count())
    token_ids = model.tokenize(PROMPT)

    async def ask(request: bytes, context: grpc.aio.ServicerContext) -> bytes:
        pixels = await asyncio.get_running_loop().run_in_executor(pool, decoder, request)
        answer = await asyncio.wrap_future(batcher.submit(Question(pixels, token_ids, way)))
        return f"{statistics.fmean(report.documents for report in reports[-20:])} {answer}".encode()

    server = grpc.aio.server(options=LIMITS)
    handler = grpc.unary_unary_rpc_method_handler(ask)
    service, method = METHOD.strip("/").split("/")
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, {method: handler}),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    print(port, flush=True)
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
    await server.stop(None)
    batcher.close()


def photograph(seed: int) -> bytes:
    """A JPEG of 640 x 480 pixels."""
    coarse = np.random.default_rng(seed).integers(0, 256, (24, 32, 3), dtype=np.uint8)
    stream = io.BytesIO()
    Image.fromarray(coarse).resize((640, 480), Image.Resampling.BICUBIC).save(stream, "JPEG", quality=88)
    return stream.getvalue()


async def load(port: int, concurrency: int, seconds: float) -> dict[str, Any]:
    """A closed loop: throughput, latencies, mean size of batch."""
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}", options=LIMITS) as channel:
        ask = channel.unary_unary(METHOD)
        pictures = [photograph(seed) for seed in range(concurrency)]
        took: list[float] = []
        batches: list[float] = []

        async def caller(picture: bytes, until: float) -> None:
            while time.perf_counter() < until:
                started = time.perf_counter()
                reply = await ask(picture)
                took.append(time.perf_counter() - started)
                batches.append(float(reply.split(b" ", 1)[0]))

        await asyncio.gather(*(caller(picture, time.perf_counter() + seconds / 4) for picture in pictures))
        took.clear()
        batches.clear()
        started = time.perf_counter()
        await asyncio.gather(*(caller(picture, started + seconds) for picture in pictures))
        elapsed = time.perf_counter() - started
    p50, p99 = (1000 * np.percentile(took, share) for share in (50, 99))
    return {
        "concurrency": concurrency,
        "per_s": round(len(took) / elapsed, 2),
        "p50_ms": round(float(p50), 2),
        "p99_ms": round(float(p99), 2),
        "batch": round(statistics.fmean(batches), 1),
    }


async def measure(options: argparse.Namespace) -> list[dict[str, Any]]:
    """One row for each concurrency."""
    server = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "benchmarks.front", "--serve", *sys.argv[1:]),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    assert server.stdin is not None
    assert server.stdout is not None
    try:
        port = int(await server.stdout.readline())
        return [await load(port, concurrency, options.seconds) for concurrency in options.concurrency]
    finally:
        server.stdin.close()
        await server.wait()


def main() -> None:
    """Measures, prints a table and a line of JSON; with `--serve`, the server."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument(
        "--model", default="demo/checkpoint", help=f"a checkpoint, or one of {', '.join(ARCHITECTURES)}"
    )
    parser.add_argument("--dtype", default="float16", choices=loading.DTYPES)
    parser.add_argument("--compile", default="graphs", choices=["off", "graphs", "max"])
    parser.add_argument("--batch", type=int, default=32, help="preferred_batch_size")
    parser.add_argument("--new-tokens", type=int, default=5)
    parser.add_argument("--concurrency", nargs="+", type=int, default=[1, 8, 32, 128])
    parser.add_argument("--seconds", type=float, default=10.0)
    options = parser.parse_args()
    if options.serve:
        asyncio.run(serve(options))
        return
    rows = asyncio.run(measure(options))
    print("concurrency  answers/s   p50 ms   p99 ms  mean batch")
    for row in rows:
        print(
            f"{row['concurrency']:11} {row['per_s']:10.1f} {row['p50_ms']:8.1f} {row['p99_ms']:8.1f} "
            f"{row['batch']:11.1f}"
        )
    print(json.dumps(machine(loading.resolve_device("auto")) | vars(options) | {"rows": rows}))


if __name__ == "__main__":
    main()
