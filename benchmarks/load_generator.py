"""The load generator: a process of its own that asks a server and measures what its clients would see.

    python -m benchmarks.load_generator --protocol jina --port 54321 --workload cases.json --concurrency 1 8 --seconds 8

A cell is one way of asking, for some seconds. Closed loop: `concurrency` clients, each with one question in flight,
the next one asked when the answer is there. Open loop: questions arrive at random (a Poisson process) at a rate,
whatever the server does; latency counts from when a question was due, so that a server which falls behind cannot hide
it. Throughput counts the right answers that came within the seconds. Prints one line of JSON for each cell.
"""

import argparse
import asyncio
import base64
import itertools
import json
import random
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import quantiles
from typing import Any

from benchmarks import wire

_DRAIN_S = 60
"""For questions that are in flight when the seconds are over; who has no answer by then is an error."""
_REFUSED = "OVERLOADED"


@dataclass
class Cell:
    """What one way of asking gave. Times in seconds since the epoch, latencies in ms.

    Attributes:
        answers_per_s: right answers within the seconds.
        wrong: answers that were not transformers' own.
        errors: questions without an answer, refused ones among them.
        refused: questions that were told OVERLOADED.
        refused_ms: how long it took to tell them.
        cores: of the machine that this process took meanwhile.
        reason: of the first error, or the first wrong answer.
    """

    concurrency: int | None
    rate: float | None
    start: float
    end: float
    answers_per_s: float
    answered: int
    wrong: int
    errors: int
    latency_ms: dict[str, float] = field(default_factory=dict)
    refused: int = 0
    refused_ms: dict[str, float] = field(default_factory=dict)
    cores: float = 0.0
    reason: str = ""


@dataclass(frozen=True)
class _Outcome:
    case: int
    due: float
    done: float
    reply: bytes | None
    reason: str = ""


class Asker:
    """Asks cases in turn over one connection.

    Args:
        ask: from `wire.connect`.
        requests: each case's bytes.
    """

    def __init__(self, ask: wire.Ask, requests: Sequence[bytes]) -> None:
        self._ask = ask
        self._requests = requests
        self._cases = itertools.cycle(range(len(requests)))

    async def closed(self, concurrency: int, seconds: float) -> list[_Outcome]:
        """`concurrency` clients, one question in flight each."""
        outcomes: list[_Outcome] = []
        end = time.perf_counter() + seconds

        async def client() -> None:
            while (now := time.perf_counter()) < end:
                outcomes.append(await self._once(now))

        await asyncio.gather(*(client() for _ in range(concurrency)))
        return outcomes

    async def open(self, rate: float, seconds: float) -> list[_Outcome]:
        """Questions at `rate` per second, whatever becomes of them."""
        numbers = random.Random(0)
        tasks = []
        due = start = time.perf_counter()
        while (due := due + numbers.expovariate(rate)) < start + seconds:
            await asyncio.sleep(max(0.0, due - time.perf_counter()))
            tasks.append(asyncio.create_task(self._once(due)))
        return await asyncio.gather(*tasks)

    async def _once(self, due: float) -> _Outcome:
        case = next(self._cases)
        try:
            reply = await asyncio.wait_for(self._ask(self._requests[case]), _DRAIN_S)
        except Exception as error:  # noqa: BLE001 - whatever it is, the client has no answer
            return _Outcome(case, due, time.perf_counter(), None, f"{type(error).__name__}: {error}")
        return _Outcome(case, due, time.perf_counter(), reply)


def summarise(
    protocol: str, answers: Sequence[str], outcomes: Sequence[_Outcome], begun: float, seconds: float
) -> dict[str, Any]:
    """Counts and latencies of one cell, the fields of `Cell` that come from its outcomes.

    Args:
        answers: the right one of each case.
        begun: when the cell began, on the clock of the outcomes.
    """
    right_in_time, wrong, errors, reason = 0, 0, 0, ""
    latencies, refusals = [], []
    for outcome in outcomes:
        try:
            if outcome.reply is None:
                raise ValueError(outcome.reason)
            answer = wire.decode(protocol, outcome.reply)
        except (ValueError, LookupError) as error:
            errors, reason = errors + 1, reason or str(error)[:300]
            if _REFUSED in str(error):
                refusals.append((outcome.done - outcome.due) * 1000)
            continue
        latencies.append((outcome.done - outcome.due) * 1000)
        if answer != answers[outcome.case]:
            wrong, reason = wrong + 1, reason or f"{answer!r} instead of {answers[outcome.case]!r}"
        elif outcome.done <= begun + seconds:
            right_in_time += 1
    return {
        "answers_per_s": right_in_time / seconds,
        "answered": len(latencies),
        "wrong": wrong,
        "errors": errors,
        "latency_ms": percentiles(latencies),
        "refused": len(refusals),
        "refused_ms": percentiles(refusals),
        "reason": reason,
    }


def percentiles(latencies: Sequence[float]) -> dict[str, float]:
    """p50, p95 and p99, interpolated between observations; empty where there is none."""
    if not latencies:
        return {}
    latencies = latencies if len(latencies) > 1 else [*latencies, *latencies]
    cuts = quantiles(latencies, n=100, method="inclusive")
    return {f"p{percent}": cuts[percent - 1] for percent in (50, 95, 99)}


async def measure(
    protocol: str,
    port: int,
    cases: Sequence[tuple[bytes, str, str]],
    ways: Sequence[tuple[int | None, float | None]],
    seconds: float,
    warm_up_s: float,
) -> list[Cell]:
    """Measures one cell after the other.

    Args:
        cases: (picture, prompt, answer).
        ways: (concurrency, None) for a closed loop, (None, rate) for an open one.
        warm_up_s: seconds of 32 clients before, not counted.
    """
    requests = [wire.encode(protocol, picture, prompt) for picture, prompt, _ in cases]
    answers = [answer for _, _, answer in cases]
    cells = []
    async with wire.connect(protocol, port) as ask:
        asker = Asker(ask, requests)
        await asker.closed(32, warm_up_s)
        for concurrency, rate in ways:
            start, begun, used = time.time(), time.perf_counter(), time.process_time()
            if concurrency is not None:
                outcomes = await asker.closed(concurrency, seconds)
            else:
                assert rate is not None
                outcomes = await asker.open(rate, seconds)
            cores = (time.process_time() - used) / (time.perf_counter() - begun)
            summary = summarise(protocol, answers, outcomes, begun, seconds)
            cells.append(Cell(concurrency, rate, start, start + seconds, cores=cores, **summary))
    return cells


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.load_generator", description=__doc__)
    parser.add_argument("--protocol", choices=wire.PROTOCOLS, required=True)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--workload", type=Path, required=True, help="from benchmarks.workload.save")
    parser.add_argument("--concurrency", type=int, nargs="*", default=[])
    parser.add_argument("--rate", type=float, nargs="*", default=[], help="questions per second, open loop")
    parser.add_argument("--seconds", type=float, default=8.0, help="per cell (default: %(default)s)")
    parser.add_argument("--warm-up", type=float, default=2.0, help="seconds (default: %(default)s)")
    options = parser.parse_args()
    rows = json.loads(options.workload.read_text())
    cases = [(base64.b64decode(picture), prompt, answer) for picture, prompt, answer in rows]
    ways = [*((number, None) for number in options.concurrency), *((None, rate) for rate in options.rate)]
    cells = asyncio.run(measure(options.protocol, options.port, cases, ways, options.seconds, options.warm_up))
    for cell in cells:
        sys.stdout.write(json.dumps(asdict(cell)) + "\n")


if __name__ == "__main__":
    main()
