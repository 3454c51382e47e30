"""Load over real sockets on the service and on every server that a user could build instead.

    python -m benchmarks.serve [--servers ours,article,jina,litserve,bentoml,ray] [--rounds 3] [--tune] [--rate 100]

Same machine, same run, same checkpoint, same pictures and questions, one copy of the model and the same number of
torch threads for each; every answer is compared with what plain transformers says to that question alone.

What is compared
    ours      `python -m executor` as config.yml has it, but for the feature cache, which is off: see --feature-cache-mb
    article   the Executor of the article: one document at a time, transformers' processor and `generate`
    jina      an Executor behind Jina's own dynamic batching       )
    litserve  LitServe with its batching                           ) all four answer a batch with the same code,
    bentoml   BentoML with adaptive batching                       ) `benchmarks/peers/batched.py`
    ray       Ray Serve with `@serve.batch`                        )
    engine    ours without a service: batches of 16 straight through `executor.model.engine`, no sockets, no documents

How it is asked
    Closed loop: N clients, each asks again as soon as it has its answer: throughput against concurrency.
    Open loop (--rate): questions arrive at random at a rate, whatever the server does: latency as strangers see it.
    The load generator (`benchmarks/load_generator.py`) is a process of its own with connections that stay open;
    requests are serialised before. It shares the machine's cores with the server and all of the server's processes.

What it does not say: nothing about accuracy (all servers have the same checkpoint), networks, or the fetching of
pictures (they come as bytes; the article's own way would download each one). More than one copy of the model, one
process each, is left out for everybody. All Jina servers run in one process without a gateway, Jina's fastest way.

Rounds: each round starts, warms up, measures and stops every server in turn, so that other load on the machine meets
all of them; numbers are medians over rounds, ratios medians of each round's. `--tune` first tries a small grid of batch
sizes and waits for each batching peer at 32 clients and keeps the best; without it those of `launching.KINDS` are used,
found that way. Peers get virtual environments below benchmarks/results/venvs, made at their first use (pip, a minute
each). Prints a table; the last line is JSON with everything.
"""

import argparse
import datetime
import json
import os
import platform
import signal
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jina
import torch
import transformers

from benchmarks import summary, workload
from benchmarks.peers import environments
from benchmarks.peers.batch_log import mean_size
from benchmarks.peers.launching import KINDS, Kind, Server
from benchmarks.programs import output_of
from demo.service import CHECKPOINT, ROOT

_TUNING_CONCURRENCY = 32


class Benchmark:
    """Measures servers with one workload.

    Args:
        options: of the command line.
        folder: for the workload and what servers print; exists.
    """

    def __init__(self, options: argparse.Namespace, folder: Path) -> None:
        self._options = options
        self._folder = folder
        self._workload = folder / "workload.json"

    def prepare(self) -> None:
        """Writes the workload."""
        workload.save(workload.build(self._options.model, self._options.pictures), self._workload)

    def tune(self, kind: Kind) -> Kind:
        """The kind with the batch size and wait of its grid that give the most answers."""
        found: dict[Kind, float] = {}
        for batch, wait_ms in kind.grid:
            tried = kind.tuned(batch, wait_ms)
            found[tried] = self.server(tried, [_TUNING_CONCURRENCY], [])[0]["answers_per_s"]
            _say(f"  {kind.name}: batch {batch}, wait {wait_ms} ms: {found[tried]:.1f} answers/s")
        return max(found, key=lambda tried: found[tried]) if found else kind

    def server(self, kind: Kind, concurrency: Sequence[int], rates: Sequence[float]) -> list[dict[str, Any]]:
        """Starts a server, measures its cells, stops it."""
        options = self._options
        settings = {"feature_cache_mb": options.feature_cache_mb}
        server = Server(kind, options.model, options.threads, self._folder, settings)
        with server:
            lines = self._run(
                "benchmarks.load_generator",
                *("--protocol", kind.protocol, "--port", str(server.port)),
                *("--concurrency", *map(str, concurrency), "--rate", *map(str, rates)),
            )
        cells = [json.loads(line) for line in lines]
        for cell in cells:
            cell["batch"] = mean_size(server.batch_log, cell["start"], cell["end"])
        return cells

    def engine(self) -> dict[str, float]:
        """Measures the engine alone."""
        lines = self._run("benchmarks.engine_alone", "--model", str(self._options.model))
        result: dict[str, float] = json.loads(lines[-1])
        return result

    def _run(self, module: str, *arguments: str) -> list[str]:
        common = ["--workload", str(self._workload), "--seconds", str(self._options.seconds)]
        environment = {"OMP_NUM_THREADS": str(self._options.threads), "JINA_OPTOUT_TELEMETRY": "1"}
        return output_of(module, [*arguments, *common], environment)


def run(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Everything that the options ask for, as the JSON line has it."""
    benchmark = Benchmark(options, folder)
    kinds = [KINDS[name] for name in options.servers]
    load_before = os.getloadavg()[0]
    versions = {kind.name: environments.version(kind.name) for kind in kinds if kind.name != summary.OURS}
    _say(f"asking plain transformers about {options.pictures} pictures ...")
    benchmark.prepare()
    if options.tune:
        kinds = [benchmark.tune(kind) for kind in kinds]
    rounds: list[dict[str, list[dict[str, Any]]]] = []
    engine: list[dict[str, float]] = []
    for number in range(1, options.rounds + 1):
        if not options.no_engine:
            engine.append(benchmark.engine())
            _say(f"round {number}, engine: {engine[-1]['answers_per_s']:.1f} answers/s, {engine[-1]['lone_ms']:.1f} ms")
        rounds.append({})
        for kind in kinds:
            cells = rounds[-1][kind.name] = benchmark.server(kind, options.concurrency, options.rate)
            told = ", ".join(f"{summary.load_name(cell)}: {cell['answers_per_s']:.1f}" for cell in cells)
            _say(f"round {number}, {kind.name}: answers/s with clients {told}")
    return {
        "benchmark": "serve",
        "date": datetime.date.today().isoformat(),
        "command": f"python -m benchmarks.serve {' '.join(sys.argv[1:])}".strip(),
        "machine": machine(),
        "versions": versions | {package.__name__: package.__version__ for package in (jina, torch, transformers)},
        "load_before": load_before,  # the last minute's; far above 0 other work disturbed the measurement
        "options": vars(options) | {"model": os.path.relpath(options.model, ROOT)},
        "batching": {kind.name: {"batch": kind.batch, "wait_ms": kind.wait_ms} for kind in kinds if kind.batch},
        "servers": summary.medians(rounds),
        "ours_over_theirs": summary.ratios(rounds),
        "engine": {name: summary.median(one[name] for one in engine) for name in engine[0]} if engine else {},
        "against_engine": summary.against_engine(rounds, engine) if engine else {},
        "reasons": {
            f"{name}, {summary.load_name(cell)}": cell["reason"]
            for cells in rounds
            for name, server in cells.items()
            for cell in server
            if cell["reason"]
        },
    }


def machine() -> dict[str, Any]:
    """What this runs on."""
    cpu = platform.processor() or platform.machine()
    if Path("/proc/cpuinfo").is_file():
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        cpu = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), cpu)
    return {"cpu": cpu, "cores": len(os.sched_getaffinity(0)), "python": platform.python_version()}


def report(result: Mapping[str, Any]) -> str:
    """The tables that people read."""
    text = summary.table(result["servers"], result["ours_over_theirs"])
    engine = result["engine"]
    if engine:
        text += (
            f"\n\nengine alone: {engine['answers_per_s']:.1f} answers/s in batches of 16; one question "
            f"{engine['lone_ms']:.1f} ms, {engine['decode_ms']:.1f} of it for its picture and prompt; "
            f"{engine['wrong']:g} wrong"
        )
    against = result["against_engine"]
    if "share_of_engine" in against:
        text += f"\nours, share of the engine's own throughput: {against['share_of_engine']:.0%}"
    if "added_ms" in against:
        text += f"\nours, p50 of a lone question above the engine's own: {against['added_ms']:.1f} ms"
    return text


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    description = (__doc__ or "").partition("\n")[0]
    parser = argparse.ArgumentParser(prog="python -m benchmarks.serve", description=description)
    add = parser.add_argument
    add("--servers", type=_servers, default=list(KINDS), help=f"comma separated (default: {','.join(KINDS)})")
    add("--model", type=lambda text: Path(text).resolve(), default=CHECKPOINT, help="directory of the checkpoint")
    add("--concurrency", type=int, nargs="*", default=[1, 8, 32, 128], help="clients of closed loops")
    add("--rate", type=float, nargs="*", default=[], help="questions per second of open loops")
    add("--seconds", type=float, default=8.0, help="per cell (default: %(default)s)")
    add("--rounds", type=int, default=3, help="default: %(default)s")
    add("--threads", type=int, default=1, help="torch's threads of every server (default: %(default)s)")
    add("--pictures", type=int, default=256, help="different pictures (default: %(default)s)")
    add(
        "--feature-cache-mb",
        type=int,
        default=0,
        help="of ours; above 0 it gains by seeing pictures again (default: 0)",
    )
    add("--tune", action="store_true", help="find the batching peers' best batch size and wait first")
    add("--no-engine", action="store_true", help="leave out the engine alone")
    return parser.parse_args(arguments)


def _servers(text: str) -> list[str]:
    names = text.split(",")
    if unknown := set(names) - set(KINDS):
        raise argparse.ArgumentTypeError(f"unknown: {', '.join(sorted(unknown))}; known are {', '.join(KINDS)}")
    return names


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def main() -> None:
    options = parse()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that the servers are stopped then too
    with tempfile.TemporaryDirectory() as folder:
        result = run(options, Path(folder))
    print(report(result))
    print(json.dumps(result))


if __name__ == "__main__":
    main()
