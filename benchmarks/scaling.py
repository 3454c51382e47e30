"""How answers per second grow with replicas and with hosts, as far as the host's work and the gateway's decide it.

    python -m benchmarks.scaling [--numbers 1 2 4] [--rounds 2] [--seconds 15] [--clients 32] [--batch-ms 120] ...

Regime: the device is one that sleeps (benchmarks/sleeping), so that devices on a machine without any are as fast as
GPUs would be beside each other: what does not scale is the host's. A batch of 16 sleeps for 600 ms with the defaults:
at most 26.7 answers per second and device. Everything else is real: requests over sockets, pictures decoded, prompts
tokenised, batches. The load generator, the gateway and all services share this machine's cores.

- `alone`: `python -m executor`, without a gateway.
- `replicas`: `Deployment(replicas=n)`, on one host behind its gateway.
- `hosts`: `python examples/gateway.py` in front of n `python -m executor`, each on a host of its own (a network
  namespace, which needs root; left out without).
- `one of 2 hosts cut`: the same, with one host cut off after about a third of the time: packets vanish, no
  connection is reset. Clients of the load generator do not ask again, so each question that the gateway lost would be
  an error.

Closed loop of `--clients` for each device: 32 are two batches. Every answer is checked. Rounds measure
everything anew, every second one backwards; numbers are medians, ratios medians of each round's ratio to one replica of
the same kind, faults are summed. Prints a table; the last line is JSON, which `benchmarks.plot` draws.
"""

import argparse
import base64
import datetime
import json
import os
import signal
import sys
import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.hosts import Host, why_not
from benchmarks.programs import output_of
from benchmarks.serve import machine
from benchmarks.workload import questions
from demo.service import CHECKPOINT, ROOT, SERVE, Program, free_port, serves
from executor.checkpoints import loading
from executor.model.blip2 import Blip2Model
from executor.model.feature_cache import content_key
from executor.pictures.decoding import Decoder
from executor.pictures.limits import ImageLimits

_CONFIG = ROOT / "benchmarks" / "sleeping" / "config.yml"
_PORT = 54321
_START_S = 180
_BATCH = 16
_WARM_UP_S = 3.0
_IMPORTS_S = 5.0
"""About what the load generator takes to begin."""
_DEPLOYMENT = """
import signal, sys
from executor import Deployment
signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
with Deployment(uses=sys.argv[1], port=int(sys.argv[2]), replicas=int(sys.argv[3])) as deployment:
    deployment.block()
"""
KINDS = ("alone", "replicas", "hosts", "one of 2 hosts cut")
Measured = dict[tuple[str, int], dict[str, Any]]


class Serving:
    """Processes of one way to serve, and their end.

    Args:
        folder: for what they print.
        environment: of theirs, beside this process's own.
    """

    def __init__(self, folder: Path, environment: dict[str, str]) -> None:
        self._folder = folder
        self._environment = environment

    @contextmanager
    def start(self, kind: str, number: int) -> Iterator[tuple[int, list[Host]]]:
        """Yields the port that clients use, and the hosts, once all is ready."""
        port, hosts = free_port(), []
        serve = [*SERVE, "--config", str(_CONFIG)]
        with ExitStack() as stack:

            def run(*command: str) -> Program:
                return stack.enter_context(Program(command, self._folder / "log", **self._environment))

            if kind == "alone":
                front = run(*serve, "--port", str(port))
            elif kind == "replicas":
                front = run(sys.executable, "-c", _DEPLOYMENT, str(_CONFIG), str(port), str(number))
            else:
                hosts = [stack.enter_context(Host(place)) for place in range(number)]
                where = [f"{host.address}:{_PORT}" for host in hosts]
                own = [host.command(*serve, "--host", host.address, "--port", str(_PORT)) for host in hosts]
                for program, address in zip([run(*command) for command in own], where, strict=True):
                    program.wait_until(partial(serves, address), _START_S)
                front = run(sys.executable, "-m", "examples.gateway", "--port", str(port), *where)
            front.wait_until(partial(serves, f"127.0.0.1:{port}"), _START_S)
            yield port, hosts


def build(pictures: int, file: Path) -> None:
    """Writes the workload: drawn pictures, prompts, and what the sleeping device says to each."""
    model = Blip2Model(loading.load(str(CHECKPOINT), device="cpu"), 512)
    decoder = Decoder(model.image_size, model.resample, ImageLimits())
    rows = [
        [base64.b64encode(picture).decode(), prompt, content_key(decoder(picture)).hex()[:16]]
        for picture, prompt in questions(pictures)
    ]
    file.write_text(json.dumps(rows))


def measure(serving: Serving, kind: str, number: int, cases: Path, options: argparse.Namespace) -> dict[str, Any]:
    """One cell, as `benchmarks.load_generator` prints it."""
    with serving.start(kind, number) as (port, hosts):
        asked = ["--protocol", "jina", "--port", str(port), "--workload", str(cases)]
        asked += ["--concurrency", str(options.clients * number), "--seconds", str(options.seconds)]
        warm_up_s = 0.0 if "cut" in kind else _WARM_UP_S
        cut = threading.Timer(_IMPORTS_S + options.seconds / 3, lambda: hosts[0].cut())
        if "cut" in kind:
            cut.start()
        try:
            (line,) = output_of("benchmarks.load_generator", [*asked, "--warm-up", str(warm_up_s)])
        finally:
            cut.cancel()
    cell: dict[str, Any] = json.loads(line)
    return cell


def summarise(rounds: Sequence[Measured]) -> list[dict[str, Any]]:
    """A row for each way and number: medians, ratios to one of the same kind, sums of faults."""
    rows = []
    for kind, number in rounds[0]:
        cells = [measured[kind, number] for measured in rounds]
        row: dict[str, Any] = {"kind": kind, "number": number}
        row["answers_per_s"] = median(cell["answers_per_s"] for cell in cells)
        for percent in ("p50", "p99"):
            row[f"{percent}_ms"] = median(cell["latency_ms"][percent] for cell in cells)
        one = ("hosts" if "hosts" in kind else kind, 1)
        if one in rounds[0]:
            row["ratio"] = median(
                measured[kind, number]["answers_per_s"] / measured[one]["answers_per_s"] for measured in rounds
            )
        for name in ("answered", "wrong", "errors"):
            row[name] = sum(cell[name] for cell in cells)
        row["reason"] = next((cell["reason"] for cell in cells if cell["reason"]), "")
        rows.append(row)
    return rows


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Markdown."""
    lines = ["| how | n | answers /s | to one | p50 ms | p99 ms | answered | wrong | errors |", "|---" * 9 + "|"]
    lines += [
        f"| {row['kind']} | {row['number']} | {row['answers_per_s']:.1f} | {_shown(row.get('ratio'))} | "
        f"{row['p50_ms']:.0f} | {row['p99_ms']:.0f} | {row['answered']} | {row['wrong']} | {row['errors']} |"
        for row in rows
    ]
    return "\n".join(lines)


def _shown(ratio: float | None) -> str:
    return "-" if ratio is None else f"{ratio:.2f}"


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    description = (__doc__ or "").partition("\n")[0]
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scaling", description=description)
    add = parser.add_argument
    add("--kinds", nargs="+", choices=KINDS, default=list(KINDS), help="which ways (default: all)")
    add("--numbers", type=int, nargs="+", default=[1, 2, 4], help="of devices (default: 1 2 4)")
    add("--rounds", type=int, default=2, help="default: %(default)s")
    add("--seconds", type=float, default=15.0, help="per cell (default: %(default)s)")
    add("--clients", type=int, default=32, help="for each device (default: %(default)s)")
    add("--batch-ms", type=float, default=120.0, help="that the device sleeps for a batch (default: %(default)s)")
    add("--document-ms", type=float, default=30.0, help="and for each document of it (default: %(default)s)")
    add("--pictures", type=int, default=64, help="different pictures (default: %(default)s)")
    return parser.parse_args(arguments)


def main() -> None:
    options = parse()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that what was started is stopped then too
    kinds = options.kinds
    if reason := why_not():
        print(f"without hosts: {reason}", file=sys.stderr)
        kinds = [kind for kind in kinds if "hosts" not in kind]
    fixed = {"alone": [1], "one of 2 hosts cut": [2]}
    ways = [(kind, number) for kind in kinds for number in fixed.get(kind, options.numbers)]
    environment = {
        **{"BLIP2_MODEL": str(CHECKPOINT), "OMP_NUM_THREADS": "1", "JINA_OPTOUT_TELEMETRY": "1"},
        **{"SLEEP_BATCH_MS": str(options.batch_ms), "SLEEP_DOCUMENT_MS": str(options.document_ms)},
    }
    load_before = os.getloadavg()[0]
    rounds: list[Measured] = []
    with tempfile.TemporaryDirectory() as name:
        folder, cases = Path(name), Path(name) / "workload.json"
        build(options.pictures, cases)
        serving = Serving(folder, environment)
        for turn in range(options.rounds):
            measured: Measured = {}
            for kind, number in ways if turn % 2 == 0 else reversed(ways):
                cell = measured[kind, number] = measure(serving, kind, number, cases, options)
                print(f"round {turn + 1}, {kind}, {number}: {cell['answers_per_s']:.1f}/s", file=sys.stderr, flush=True)
            rounds.append({way: measured[way] for way in ways})
    rows = summarise(rounds)
    print(table(rows))
    most = 1000 * _BATCH / (options.batch_ms + _BATCH * options.document_ms)
    print(f"\na device answers at most {most:.1f} per second")
    facts = {"benchmark": "scaling", "date": datetime.date.today().isoformat(), "machine": machine()}
    print(json.dumps(facts | {"load_before": load_before, "options": vars(options), "most": most, "rows": rows}))


if __name__ == "__main__":
    main()
