"""From cells of several rounds to what is reported: medians, ratios, shares, a table.

Knows numbers only. A round's results are a mapping from server name to its cells, each a mapping with the fields of
`benchmarks.load_generator.Cell` and `batch`, documents per batch; the engine's have those of
`benchmarks.engine_alone.measure`.
"""

from collections.abc import Iterable, Mapping, Sequence
from statistics import median
from typing import Any

Cells = Mapping[str, Sequence[Mapping[str, Any]]]
OURS = "ours"


def load_name(cell: Mapping[str, Any]) -> str:
    """How a cell was asked: "32" for clients of a closed loop, "100/s" for an open one."""
    return str(cell["concurrency"]) if cell["concurrency"] is not None else f"{cell['rate']:g}/s"


def medians(rounds: Sequence[Cells]) -> dict[str, dict[str, dict[str, Any]]]:
    """server -> load -> numbers: medians over rounds, sums of `wrong` and `errors`, spread of throughput."""
    result: dict[str, dict[str, dict[str, Any]]] = {}
    for server in rounds[0]:
        for place, first in enumerate(rounds[0][server]):
            cells = [cells[server][place] for cells in rounds]
            rates = [cell["answers_per_s"] for cell in cells]
            result.setdefault(server, {})[load_name(first)] = {
                "answers_per_s": median(rates),
                "lowest": min(rates),
                "highest": max(rates),
                **{name: _median(cell["latency_ms"].get(name) for cell in cells) for name in ("p50", "p95", "p99")},
                "batch": _median(cell["batch"] for cell in cells),
                "wrong": sum(cell["wrong"] for cell in cells),
                "errors": sum(cell["errors"] for cell in cells),
            }
    return result


def ratios(rounds: Sequence[Cells]) -> dict[str, dict[str, float]]:
    """peer -> load -> our throughput over theirs: the median of each round's ratio. Without a peer's failed cells."""
    result: dict[str, dict[str, float]] = {}
    for server in rounds[0]:
        if server == OURS or OURS not in rounds[0]:
            continue
        for place, first in enumerate(rounds[0][server]):
            pairs = [(cells[OURS][place]["answers_per_s"], cells[server][place]["answers_per_s"]) for cells in rounds]
            if all(theirs > 0 for _, theirs in pairs):
                result.setdefault(server, {})[load_name(first)] = median(ours / theirs for ours, theirs in pairs)
    return result


def against_engine(rounds: Sequence[Cells], engine: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """How much of the engine's own throughput the service gives, and what it adds to a lone question.

    Returns:
        share_of_engine: the median over rounds of the service's highest throughput in a closed loop over the engine's.
        added_ms: the median over rounds of the service's p50 with one client less the engine's time for one question.
    """
    shares, added = [], []
    for cells, alone in zip(rounds, engine, strict=True):
        closed = [cell for cell in cells.get(OURS, ()) if cell["concurrency"] is not None]
        shares += [max(cell["answers_per_s"] for cell in closed) / alone["answers_per_s"]] if closed else []
        added += [cell["latency_ms"]["p50"] - alone["lone_ms"] for cell in closed if cell["concurrency"] == 1]
    result = {"share_of_engine": median(shares)} if shares else {}
    return result | ({"added_ms": median(added)} if added else {})


def table(numbers: Mapping[str, Mapping[str, Mapping[str, Any]]], ours_over: Mapping[str, Mapping[str, float]]) -> str:
    """Markdown: a row for each server and load."""
    lines = [
        "| server | clients or rate | answers/s (range) | p50 ms | p95 ms | p99 ms | batch | wrong | errors "
        "| ours / theirs |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for server, loads in numbers.items():
        for load, cell in loads.items():
            ratio = ours_over.get(server, {}).get(load)
            latencies = (_shown(cell[name], ".0f" if (cell[name] or 0) >= 100 else ".1f") for name in _PERCENTILES)
            lines.append(
                f"| {server} | {load} | {cell['answers_per_s']:.1f} ({cell['lowest']:.1f} to {cell['highest']:.1f}) | "
                f"{' | '.join(latencies)} | {_shown(cell['batch'], '.1f')} | {cell['wrong']} | {cell['errors']} | "
                f"{_shown(ratio, '.2f')} |"
            )
    return "\n".join(lines)


_PERCENTILES = ("p50", "p95", "p99")


def _median(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return median(known) if known else None


def _shown(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)
