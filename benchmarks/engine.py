"""The engine without a network: how fast batches are answered, where the time goes, how far that is from the ideal.

    python -m benchmarks.engine                      the demo checkpoint, on what the machine has
    python -m benchmarks.engine --model xl           the full architecture with random weights; make bench-gpu
    python -m benchmarks.engine --model base         one of 111 million parameters, for CPUs

Regimes: encoding pictures is bound by arithmetic at every size of batch on a GPU; a step of the answers is bound by
reading the decoder's weights, until batches are large, and without graphs by launching kernels, the host's work.
Every batch has different pictures and nothing is cached. All answers have exactly `--new-tokens` tokens.

- `alone`: one batch with nothing beside it, from tensors in the host's memory to texts: its latency.
- `stream`: batches one after the other through the service's own batcher, which prepares ahead: the engine's
  throughput, and what the service's is compared with.
- `article`: the loop of the original article, one document at a time through transformers' processor and `generate`,
  in the same process on the same weights, with the time of the processor.

`ideal` is from measured peaks of the device, see `benchmarks/roofline.py`. The last line is JSON.
"""

import argparse
import datetime
import json
import platform
import statistics
import time
from concurrent.futures import Future
from typing import Any

import torch
import transformers
from PIL import Image

from benchmarks.architectures import ARCHITECTURES, build
from benchmarks.roofline import Peaks, ideal, measure_peaks
from executor.checkpoints import loading
from executor.model.blip2 import Blip2Model
from executor.model.engine import CollatedBatch, Engine, Question
from executor.model.warmup import warm_up
from executor.questions.options import GenerationOptions
from executor.scheduling.batcher import Batcher
from executor.telemetry.observer import BatchReport

PROMPT = "Question: how many cats are there? Answer:"


class Bench:
    """One model, at one level of `compile`, with batches up to one size."""

    def __init__(self, checkpoint: loading.Checkpoint, compile: Any, options: argparse.Namespace) -> None:
        self.checkpoint = checkpoint
        self.options = GenerationOptions(
            max_new_tokens=options.new_tokens, min_new_tokens=options.new_tokens, num_beams=options.beams
        )
        self.model = Blip2Model(checkpoint, max_prompt_tokens=512)
        started = time.perf_counter()
        self.compile = warm_up(self.model, compile, max(options.batches), self.options, print)
        self.warm_up_s = time.perf_counter() - started
        self.reports: list[BatchReport] = []
        self.engine = Engine(self.model, 0, self.reports.append)
        # The published tokenizer is not at hand: any tokens do, as many as its question has.
        token_ids = (self.model.tokenize(PROMPT) * options.prompt_tokens)[: options.prompt_tokens]
        pixels = torch.randint(0, 256, (max(options.batches), 3, *self.model.image_size), dtype=torch.uint8)
        self.questions = [Question(each, token_ids, self.options) for each in pixels]

    def alone(self, batch: int, seconds: float) -> dict[str, float]:
        """Medians over as many batches as fit into `seconds`."""
        questions = self.questions[:batch]
        self.engine.run(self.engine.collate(questions))
        self.reports.clear()
        took: list[float] = []
        until = time.perf_counter() + seconds
        while len(took) < 3 or time.perf_counter() < until:
            started = time.perf_counter()
            self.engine.run(self.engine.collate(questions))
            took.append(time.perf_counter() - started)
        times = [report.times for report in self.reports]
        return {
            "latency_ms": 1000 * statistics.median(took),
            "encode_ms": 1000 * statistics.median(each.encode_s for each in times),
            "prefill_ms": 1000 * statistics.median(each.prefill_s for each in times),
            "step_ms": 1000 * statistics.median(each.decode_s / each.steps for each in times),
        }

    def stream(self, batch: int, seconds: float) -> float:
        """Documents per second."""
        batcher: Batcher[Question, CollatedBatch, str] = Batcher(self.engine.collate, self.engine.run, batch, 0.0)
        waiting: list[Future[str]] = [batcher.submit(each) for each in self.questions[:batch] * 4]
        done, started = 0, time.perf_counter()
        until = started + seconds
        while time.perf_counter() < until:
            for future in waiting[:batch]:
                future.result()
            done += batch
            waiting = waiting[batch:] + [batcher.submit(each) for each in self.questions[:batch]]
        rate = done / (time.perf_counter() - started)
        batcher.close()
        return rate

    def article(self, seconds: float) -> float:
        """Documents per second of the original article's loop."""
        model, processor, device = self.checkpoint.model, self.checkpoint.processor, self.checkpoint.device
        height, width = self.model.image_size
        picture = Image.frombytes("RGB", (width, height), bytes(3 * height * width))
        kwargs = self.options.generate_kwargs()
        done, started = 0, time.perf_counter()
        while done < 3 or time.perf_counter() - started < seconds:
            inputs = processor(picture, PROMPT, return_tensors="pt").to(device, self.checkpoint.dtype)
            processor.batch_decode(model.generate(**inputs, **kwargs), skip_special_tokens=True)[0].strip()
            done += 1
            if done == 1:
                started = time.perf_counter()
        return (done - 1) / (time.perf_counter() - started)


def machine(device: torch.device) -> dict[str, Any]:
    """What the numbers were measured on."""
    is_cuda = device.type == "cuda"
    return {
        "date": datetime.date.today().isoformat(),
        "machine": torch.cuda.get_device_name(device) if is_cuda else f"CPU, {platform.machine()}",
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--model", default="demo/checkpoint", help=f"a checkpoint, or one of {', '.join(ARCHITECTURES)}"
    )
    parser.add_argument("--device", default="auto")
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--compile", nargs="+", default=["off", "graphs"], choices=["off", "graphs", "max"])
    parser.add_argument("--batches", nargs="+", type=int, default=[1, 2, 4, 8, 16, 32])
    parser.add_argument("--beams", type=int, default=1)
    parser.add_argument("--new-tokens", type=int, default=5)
    parser.add_argument("--prompt-tokens", type=int, default=12)
    parser.add_argument("--seconds", type=float, default=5.0, help="for each number")
    return parser.parse_args()


def main() -> None:
    """Measures, prints a table and a line of JSON."""
    options = parse()
    device = loading.resolve_device(options.device)
    dtype_name = options.dtype if options.dtype != "auto" else ("float16" if device.type == "cuda" else "float32")
    if options.model in ARCHITECTURES:
        checkpoint = build(options.model, device, dtype_name)
    else:
        checkpoint = loading.load(options.model, device=options.device, dtype=options.dtype)
    loading.allow_fast_float32(device, checkpoint.dtype)
    report: dict[str, Any] = machine(device) | {"model": options.model, "dtype": dtype_name, **vars(options)}
    peaks = measure_peaks(device, checkpoint.dtype)
    report["peaks"] = peaks._asdict()
    print(f"{report['machine']}: {peaks.flops / 1e12:.2f} TFLOP/s in {dtype_name}, {peaks.bandwidth / 1e9:.0f} GB/s")
    print(
        f"{options.model}: {checkpoint.model.num_parameters() / 1e6:.1f} million parameters, prompts of "
        f"{options.prompt_tokens} tokens, answers of {options.new_tokens}, {options.beams} beams"
    )
    report["rows"] = [row for level in options.compile for row in measure(checkpoint, level, peaks, options)]
    article = Bench(checkpoint, "off", options).article(options.seconds)
    report["article_per_s"] = round(article, 2)
    best = max(row["stream_per_s"] for row in report["rows"])
    report["best_over_article"] = round(best / article, 2)
    print(f"article's loop: {article:.1f} images/s; best of the engine: {best / article:.1f} times as many")
    print(json.dumps(report))


def measure(
    checkpoint: loading.Checkpoint, level: str, peaks: Peaks, options: argparse.Namespace
) -> list[dict[str, Any]]:
    """One row for each size of batch."""
    bench = Bench(checkpoint, level, options)
    print(f"\ncompile {level}, came to {bench.compile}: warmed up in {bench.warm_up_s:.1f} s")
    print("batch  latency ms   encode  prefill  per step |  stream/s   ideal/s  share |  memory GB")
    rows = []
    for batch in options.batches:
        if checkpoint.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(checkpoint.device)
        row: dict[str, Any] = {"compile": bench.compile, "batch": batch, **bench.alone(batch, options.seconds)}
        row["stream_per_s"] = bench.stream(batch, options.seconds)
        row["ideal_per_s"] = batch / ideal(checkpoint, peaks, batch, options.prompt_tokens, options.new_tokens).total(
            options.new_tokens
        )
        row["share"] = row["stream_per_s"] / row["ideal_per_s"]
        row["memory_gb"] = (
            torch.cuda.max_memory_allocated(checkpoint.device) / 1e9 if checkpoint.device.type == "cuda" else 0.0
        )
        print(
            f"{batch:5}  {row['latency_ms']:10.2f} {row['encode_ms']:8.2f} {row['prefill_ms']:8.2f} "
            f"{row['step_ms']:9.3f} | {row['stream_per_s']:9.1f} {row['ideal_per_s']:9.1f} {row['share']:6.2f} | "
            f"{row['memory_gb']:10.2f}",
            flush=True,
        )
        rows.append({key: round(value, 4) if isinstance(value, float) else value for key, value in row.items()})
    return rows


if __name__ == "__main__":
    main()
