"""What is left of the service when it is asked for several times what it can do.

    python -m benchmarks.overload [--seconds 15] [--times 0.95 4] [--max-queue 64] [--rounds 2] [--apart]

First a closed loop of 32 clients measures what the service can do: its capacity. Then questions arrive at random (a
Poisson process, whatever the service does) at so many times the capacity. Goodput is what counts: right answers per
second that came within the seconds of the measurement. A client that is told OVERLOADED does not ask again, and should
be told at once. A service without admission would answer everybody too late; one that spends its time on refusing would
answer few.

The load generator shares the machine's cores with the service; how much of them it takes is in the table. With
`--apart` it has the last core for itself and the service the others, as if its clients were on other machines. Every
answer is compared with what plain transformers says to that question alone. The feature cache is off, as in
benchmarks.serve. Rounds: each starts a service anew; numbers are medians over rounds, ratios medians of each round's,
faults are summed.
Prints a table; the last line is JSON with everything.
"""

import argparse
import json
import os
import signal
import sys
import tempfile
import threading
from collections.abc import Collection, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from statistics import mean, median
from typing import Any

from benchmarks import workload
from benchmarks.programs import output_of
from benchmarks.serve import machine
from demo.service import CHECKPOINT, ROOT, Service

_CLIENTS = 32
_WATCH_S = 0.1


class Memory:
    """The most that a process had resident, in MB of 2**20 bytes, since it was last asked."""

    def __init__(self, pid: int) -> None:
        self._status = Path(f"/proc/{pid}/statm")
        self._most = 0.0
        self._changed = threading.Lock()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def most(self) -> float:
        with self._changed:
            most, self._most = self._most, 0.0
        return most

    def close(self) -> None:
        self._ended.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._ended.wait(_WATCH_S):
            now = int(self._status.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20
            with self._changed:
                self._most = max(self._most, now)


@contextmanager
def _serving(options: argparse.Namespace, folder: Path) -> Iterator[tuple[Service, Memory]]:
    settings = {"model": options.model, "max_queue": options.max_queue, "feature_cache_mb": 0}
    with Service(log=folder / "service.log", **settings) as service:
        memory = Memory(service.process.pid)
        try:
            yield service, memory
        finally:
            memory.close()


@contextmanager
def _on(cores: Collection[int]) -> Iterator[None]:
    """What is started within runs on these cores."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def measure(options: argparse.Namespace, folder: Path, cases: Path) -> list[dict[str, Any]]:
    """One round: the closed loop's cell, then one for each rate, as `benchmarks.load_generator` prints them.

    Returns:
        Cells, with `times` (of the capacity; None for the closed loop) and `memory_mb` beside their own fields.
    """
    cores = sorted(os.sched_getaffinity(0))
    ours, clients = (cores[:-1], cores[-1:]) if options.apart else (cores, cores)
    with ExitStack() as stack:
        with _on(ours):
            service, memory = stack.enter_context(_serving(options, folder))
        stack.enter_context(_on(clients))
        common = ["--port", str(service.port), "--workload", str(cases), "--seconds", str(options.seconds)]
        cells = [_ask([*common, "--concurrency", str(_CLIENTS)]) | {"times": None, "memory_mb": memory.most()}]
        capacity = options.capacity or cells[0]["answers_per_s"]
        for times in options.times:
            cell = _ask([*common, "--warm-up", "0", "--rate", str(times * capacity)])
            cells.append(cell | {"times": times, "memory_mb": memory.most()})
    return cells


def _ask(arguments: Sequence[str]) -> dict[str, Any]:
    (line,) = output_of("benchmarks.load_generator", ["--protocol", "jina", *arguments])
    cell: dict[str, Any] = json.loads(line)
    return cell


def summarise(rounds: Sequence[Sequence[dict[str, Any]]]) -> dict[str, Any]:
    """Medians, sums of faults, and the goodput of each rate over that of the first."""
    rows = []
    for cells in zip(*rounds, strict=True):
        row: dict[str, Any] = {"times": cells[0]["times"]}
        for name in ("answers_per_s", "rate", "memory_mb", "cores"):
            row[name] = median(cell[name] for cell in cells) if cells[0][name] is not None else None
        for kind in ("latency_ms", "refused_ms"):
            for percent in ("p50", "p99"):
                known = [cell[kind][percent] for cell in cells if cell[kind]]
                row[f"{kind.removesuffix('_ms')}_{percent}_ms"] = median(known) if known else None
        for name in ("answered", "refused", "wrong"):
            row[name] = sum(cell[name] for cell in cells)
        row["errors"] = sum(cell["errors"] - cell["refused"] for cell in cells)
        rows.append(row)
    first, *others = dict.fromkeys(row["times"] for row in rows[1:])
    ratios = {
        f"{times:g}": median(_goodput(cells, times) / _goodput(cells, first) for cells in rounds) for times in others
    }
    return {"cells": rows, "goodput_ratio": ratios}


def _goodput(cells: Sequence[dict[str, Any]], times: float) -> float:
    return mean(cell["answers_per_s"] for cell in cells if cell["times"] == times)


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Markdown: a row for each load."""
    lines = [
        "| asked | goodput /s | p50 ms | p99 ms | refused | told after, p50 ms | p99 ms | wrong | other errors "
        "| memory MB | load generator, cores |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        asked = f"{_CLIENTS} clients" if row["times"] is None else f"{row['times']:g} x = {row['rate']:.0f}/s"
        times = [_shown(row[f"{kind}_{percent}_ms"]) for kind in ("latency", "refused") for percent in ("p50", "p99")]
        lines.append(
            f"| {asked} | {row['answers_per_s']:.1f} | {times[0]} | {times[1]} | {row['refused']} | {times[2]} | "
            f"{times[3]} | {row['wrong']} | {row['errors']} | {row['memory_mb']:.0f} | {row['cores']:.2f} |"
        )
    return "\n".join(lines)


def _shown(milliseconds: float | None) -> str:
    return "-" if milliseconds is None else f"{milliseconds:.1f}"


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    description = (__doc__ or "").partition("\n")[0]
    parser = argparse.ArgumentParser(prog="python -m benchmarks.overload", description=description)
    add = parser.add_argument
    add("--model", type=lambda text: Path(text).resolve(), default=CHECKPOINT, help="directory of the checkpoint")
    add("--times", type=float, nargs="+", default=[0.95, 4.0], help="of the capacity; the first is the standard")
    add("--capacity", type=float, help="questions per second, where other work disturbs its measurement")
    add("--seconds", type=float, default=15.0, help="per load (default: %(default)s)")
    add("--rounds", type=int, default=2, help="default: %(default)s")
    add("--max-queue", type=int, default=64, help="documents in the service at a time (default: %(default)s)")
    add("--pictures", type=int, default=128, help="different pictures (default: %(default)s)")
    add("--apart", action="store_true", help="a core of their own for the clients; needs two")
    return parser.parse_args(arguments)


def main() -> None:
    options = parse()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that the service is stopped then too
    os.environ |= {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "JINA_OPTOUT_TELEMETRY": "1"}
    load_before = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as name:
        folder, cases = Path(name), Path(name) / "workload.json"
        workload.save(workload.build(options.model, options.pictures), cases)
        rounds = [measure(options, folder, cases) for _ in range(options.rounds)]
    result = summarise(rounds)
    print(table(result["cells"]))
    for times, ratio in result["goodput_ratio"].items():
        print(f"\ngoodput at {times} x over goodput at {options.times[0]:g} x the capacity: {ratio:.2f}")
    asked = vars(options) | {"model": os.path.relpath(options.model, ROOT)}
    reasons = sorted({cell["reason"] for cells in rounds for cell in cells if cell["reason"]})
    facts = {"benchmark": "overload", "machine": machine(), "load_before": load_before, "options": asked}
    print(json.dumps(facts | result | {"reasons": reasons}))


if __name__ == "__main__":
    main()
