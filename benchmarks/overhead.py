"""What it costs to look inside: metrics, traces of every request sent to a collector, and a log of JSON.

    python -m benchmarks.overhead [--rounds 10] [--seconds 6] [--clients 32]

Two services run beside each other, one with all of that off, one with all of it on; the collector, on loopback, is a
process of its own. They are asked in turn, each once in a round and the first one of a round changing, by a closed loop
of clients over gRPC, with different pictures and without a feature cache; every answer is compared with what plain
transformers says. Throughput is what counts, and on a machine with other work it is noisy: the CPU seconds of the
service's process for each answer are the steadier figure. Ratios are of the same round, their medians over rounds.
Where other work takes a core away answers cost more CPU too: so there is also the ratio of CPU at equal throughput,
from a straight line through the logarithms of the rounds' ratios, with its standard error.
Prints a table; the last line is JSON with everything.
"""

import argparse
import asyncio
import json
import math
import os
import signal
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from statistics import linear_regression, median, stdev
from typing import Any

from benchmarks import load_generator, workload
from benchmarks.serve import machine
from demo.service import CHECKPOINT, ROOT, Program, Service, free_port

_WARM_UP_S = 3.0


def cpu_s(pid: int) -> float:
    """CPU seconds that a process has taken, all threads, user and system."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def measure(service: Service, cases: Sequence[tuple[bytes, str, str]], clients: int, seconds: float) -> dict[str, Any]:
    """One cell of the load generator, with `cpu_ms`: the service's CPU milliseconds for each answer."""
    before = cpu_s(service.process.pid)
    (cell,) = asyncio.run(load_generator.measure("jina", service.port, cases, [(clients, None)], seconds, 0))
    taken = cpu_s(service.process.pid) - before
    return asdict(cell) | {"cpu_ms": 1000 * taken / max(1, cell.answered)}


def summarise(rounds: Sequence[dict[str, dict[str, Any]]]) -> dict[str, Any]:
    """Medians of each side, and medians of the rounds' ratios of on to off.

    Args:
        rounds: cells by `off` and `on`.
    """
    sides = {}
    for side in ("off", "on"):
        cells = [cells[side] for cells in rounds]
        sides[side] = {
            "answers_per_s": median(cell["answers_per_s"] for cell in cells),
            "p50_ms": median(cell["latency_ms"]["p50"] for cell in cells),
            "cpu_ms": median(cell["cpu_ms"] for cell in cells),
            "wrong": sum(cell["wrong"] for cell in cells),
            "errors": sum(cell["errors"] for cell in cells),
        }
    ratios = {
        name: [cells["on"][name] / cells["off"][name] for cells in rounds] for name in ("answers_per_s", "cpu_ms")
    }
    return {
        "sides": sides,
        "throughput_ratio": median(ratios["answers_per_s"]),
        "cpu_ratio": median(ratios["cpu_ms"]),
        "cpu_ratio_at_equal_throughput": _at_equal(ratios["answers_per_s"], ratios["cpu_ms"]),
        "cpu_ms_added": median(cells["on"]["cpu_ms"] - cells["off"]["cpu_ms"] for cells in rounds),
        "ratios": ratios,
    }


def _at_equal(throughput: Sequence[float], cpu: Sequence[float]) -> tuple[float, float] | None:
    """The ratio of CPU and its standard error; None for fewer than three rounds, or equal ones."""
    x, y = ([math.log(ratio) for ratio in ratios] for ratios in (throughput, cpu))
    if len(x) < 3 or len(set(x)) == 1:
        return None
    slope, intercept = linear_regression(x, y)
    rest = [b - intercept - slope * a for a, b in zip(x, y, strict=True)]
    return math.exp(intercept), stdev(rest) / math.sqrt(len(rest))


def table(result: dict[str, Any]) -> str:
    """Markdown: a row for each side, and the ratios."""
    lines = ["| | answers/s | p50 ms | CPU ms per answer | wrong | errors |", "|---|---|---|---|---|---|"]
    for name, side in result["sides"].items():
        lines.append(
            f"| {name} | {side['answers_per_s']:.1f} | {side['p50_ms']:.1f} | {side['cpu_ms']:.3f} | "
            f"{side['wrong']} | {side['errors']} |"
        )
    lines.append(f"| on / off | {result['throughput_ratio']:.3f} | | {result['cpu_ratio']:.3f} | | |")
    if fitted := result["cpu_ratio_at_equal_throughput"]:
        lines.append(f"\nCPU at equal throughput, on / off: {fitted[0]:.3f} +- {fitted[1]:.3f}")
    return "\n".join(lines)


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    description = (__doc__ or "").partition("\n")[0]
    parser = argparse.ArgumentParser(prog="python -m benchmarks.overhead", description=description)
    add = parser.add_argument
    add("--model", type=lambda text: Path(text).resolve(), default=CHECKPOINT, help="directory of the checkpoint")
    add("--rounds", type=int, default=10, help="default: %(default)s")
    add("--seconds", type=float, default=6.0, help="of each cell (default: %(default)s)")
    add("--clients", type=int, default=32, help="default: %(default)s")
    add("--pictures", type=int, default=128, help="different pictures (default: %(default)s)")
    add("--only", choices=("metrics", "traces", "logs"), help="what is on; everything where it is not given")
    return parser.parse_args(arguments)


def main() -> None:
    options = parse()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that the services are stopped then too
    os.environ |= {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "OTEL_TRACES_SAMPLER": "always_on"}
    load_before = os.getloadavg()[0]
    cases = [(case.picture, case.prompt, case.answer) for case in workload.build(options.model, options.pictures)]
    collector = free_port()
    collect = [sys.executable, "-m", "benchmarks.collector", "--port", str(collector)]
    with tempfile.TemporaryDirectory() as name, Program(collect, Path(name) / "collector.log"):
        everything: dict[str, dict[str, Any]] = {
            "metrics": {"metrics_port": free_port()},
            "traces": {"otlp_endpoint": f"http://127.0.0.1:{collector}"},
            "logs": {"log_format": "json"},
        }
        chosen = [options.only] if options.only else list(everything)
        settings = {key: value for part in chosen for key, value in everything[part].items()}
        common = {"model": options.model, "feature_cache_mb": 0}
        with (
            Service(log=Path(name) / "off.log", **common) as off,
            Service(log=Path(name) / "on.log", **common, **settings) as on,
        ):
            rounds = _rounds({"off": off, "on": on}, cases, options)
    result = summarise(rounds)
    print(table(result))
    asked = vars(options) | {"model": os.path.relpath(options.model, ROOT)}
    facts = {"benchmark": "overhead", "machine": machine(), "load_before": load_before, "options": asked, "on": chosen}
    print(json.dumps(facts | result))


def _rounds(
    services: dict[str, Service], cases: Sequence[tuple[bytes, str, str]], options: argparse.Namespace
) -> list[dict[str, dict[str, Any]]]:
    for service in services.values():
        measure(service, cases, options.clients, _WARM_UP_S)
    rounds = []
    for number in range(options.rounds):
        order = list(services.items())[:: 1 if number % 2 else -1]
        rounds.append({name: measure(service, cases, options.clients, options.seconds) for name, service in order})
    return rounds


if __name__ == "__main__":
    main()
