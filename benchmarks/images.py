"""How fast pictures are decoded and resized, against transformers' image processor, and whether the event loop stalls.

    python -m benchmarks.images [--rounds 7] [--threads N]

Both sides start from the same encoded bytes and end with what the model takes. Theirs is
`BlipImageProcessorPil(images=Image.open(...))`, the image half of `Blip2Processor`; ours is the service's decoder with
its default settings (exact) and with `fast_jpeg_decode`. The sides alternate within a round, so other load on the
machine meets all of them, and the ratios are medians over rounds. Stalls are measured first, in a process that has done
only what the service does: once the image processor's arrays of 150 MB have been through it, the C library's allocator
zeroes large blocks by itself, under the GIL. The last line is JSON.
"""

import argparse
import asyncio
import io
import json
import os
import statistics
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from PIL import Image
from transformers.models.blip.image_processing_pil_blip import BlipImageProcessorPil

from executor.pictures.decoding import Decoder
from executor.pictures.limits import ImageLimits
from executor.pictures.loader import ImageLoader

SIZES = {"640x480": (640, 480), "12 MP": (4000, 3000)}
STALL_PICTURES = 64


def photograph(size: tuple[int, int]) -> bytes:
    """A JPEG with the smooth areas and the fine detail of a photograph."""
    numbers = np.random.default_rng(0)
    coarse = Image.fromarray(numbers.integers(0, 256, (24, 32, 3), dtype=np.uint8))
    pixels = np.asarray(coarse.resize(size, Image.Resampling.BICUBIC), dtype=np.int16)
    pixels = (pixels + numbers.integers(-8, 9, pixels.shape, dtype=np.int16)).clip(0, 255).astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=88)
    return buffer.getvalue()


def rate(work: Callable[[], object], count: int, threads: int) -> float:
    """Calls per second."""
    start = time.perf_counter()
    if threads == 1:
        for _ in range(count):
            work()
    else:
        with ThreadPoolExecutor(threads) as pool:
            for future in [pool.submit(work) for _ in range(count)]:
                future.result()
    return count / (time.perf_counter() - start)


def compare(name: str, threads: int, rounds: int) -> dict[str, float]:
    data = photograph(SIZES[name])
    processor = BlipImageProcessorPil(size={"height": 224, "width": 224})
    exact = Decoder((224, 224), Image.Resampling.BICUBIC, ImageLimits())
    fast = Decoder((224, 224), Image.Resampling.BICUBIC, ImageLimits(fast_jpeg_decode=True))

    def theirs() -> object:
        with Image.open(io.BytesIO(data)) as picture:
            return processor(images=picture, return_tensors="pt").pixel_values

    sides: dict[str, Callable[[], object]] = {
        "processor": theirs,
        "exact": lambda: exact(data),
        "fast": lambda: fast(data),
    }
    count = (60 if name == "640x480" else 4) * threads
    rates: dict[str, list[float]] = {side: [] for side in sides}
    for _ in range(rounds):
        for side, work in sides.items():
            rates[side].append(rate(work, count, threads))
    result = {f"{side}_per_s": statistics.median(values) for side, values in rates.items()}
    for side in ("exact", "fast"):
        pairs = zip(rates[side], rates["processor"], strict=True)
        result[f"{side}_over_processor"] = statistics.median(one / other for one, other in pairs)
    return result


def longest_stall(pictures: int) -> dict[str, float]:
    """How long the event loop did not come round while pictures of 12 MP were loaded: longest and 99th percentile."""
    data = photograph(SIZES["12 MP"])

    async def run() -> dict[str, float]:
        loader = ImageLoader((224, 224), Image.Resampling.BICUBIC, ImageLimits())
        gaps: list[float] = []

        async def watch() -> None:
            last = time.perf_counter()
            while True:
                await asyncio.sleep(0.001)
                now = time.perf_counter()
                gaps.append(now - last - 0.001)
                last = now

        watcher = asyncio.create_task(watch())
        await asyncio.sleep(0.5)
        idle = max(gaps)
        gaps.clear()
        await asyncio.gather(*(loader.load(None, data) for _ in range(pictures)))
        watcher.cancel()
        loader.close()
        ordered = sorted(gaps)
        return {
            "longest_ms": 1000 * ordered[-1],
            "p99_ms": 1000 * ordered[int(len(ordered) * 0.99)],
            "idle_longest_ms": 1000 * idle,
        }

    return asyncio.run(run())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1, help="for the runs on all cores")
    options = parser.parse_args()
    report: dict[str, object] = {"threads": options.threads}
    stalls = [longest_stall(STALL_PICTURES) for _ in range(3)]
    stall = {key: max(run[key] for run in stalls) for key in stalls[0]}
    report["stall"] = {key: round(value, 1) for key, value in stall.items()}
    print(
        f"event loop while {STALL_PICTURES} pictures of 12 MP are loaded, 3 times: "
        f"longest stall {stall['longest_ms']:.1f} ms, "
        f"99th percentile {stall['p99_ms']:.1f} ms (idle: longest {stall['idle_longest_ms']:.1f} ms)"
    )
    print(f"{'picture':8} {'threads':>7} {'processor':>10} {'exact':>9} {'fast':>9}  images/s   exact/proc. fast/proc.")
    for name in SIZES:
        for threads in sorted({1, options.threads}):
            result = compare(name, threads, options.rounds)
            report[f"{name}, {threads} threads"] = {key: round(value, 2) for key, value in result.items()}
            print(
                f"{name:8} {threads:7} {result['processor_per_s']:10.1f} {result['exact_per_s']:9.1f} "
                f"{result['fast_per_s']:9.1f}  {'':9}  {result['exact_over_processor']:10.2f} "
                f"{result['fast_over_processor']:10.2f}",
                flush=True,
            )
    print(json.dumps(report))


if __name__ == "__main__":
    main()
