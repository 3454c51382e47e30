"""Draws what a benchmark measured, from the last line that it printed.

    python -m benchmarks.plot results.json --output benchmarks/throughput.svg

Of `benchmarks.serve`: throughput against concurrency, ours and the peers'. Of `benchmarks.scaling`: throughput against
the number of devices.

Needs matplotlib, from the dependency group `benchmarks` of pyproject.toml.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
# Equal input gives an equal file, and text stays text: small, and searchable.
matplotlib.rcParams.update({"svg.hashsalt": "blip2", "svg.fonttype": "none", "font.family": "sans-serif"})

from matplotlib import pyplot  # noqa: E402
from matplotlib.axes import Axes  # noqa: E402

_LABELS = {
    "ours": "this service",
    "article": "the article's Executor",
    "jina": "Jina's dynamic batching",
    "litserve": "LitServe",
    "bentoml": "BentoML",
    "ray": "Ray Serve",
    "alone": "python -m executor",
    "replicas": "Deployment(replicas=n)",
    "hosts": "a gateway and n hosts",
}


def draw(result: dict[str, Any], output: Path) -> None:
    """Writes the picture; the ending of `output` decides on its format."""
    figure, axes = pyplot.subplots(figsize=(7, 4))
    (_draw_scaling if result.get("benchmark") == "scaling" else _draw_serving)(result, axes)
    axes.grid(alpha=0.3)
    axes.legend(fontsize="small", loc="upper left", bbox_to_anchor=(1.0, 1.0))
    figure.savefig(output, bbox_inches="tight", metadata={"Date": None} if output.suffix == ".svg" else None)
    pyplot.close(figure)


def _draw_serving(result: dict[str, Any], axes: Axes) -> None:
    highest = 0.0
    for server, loads in result["servers"].items():
        closed = {int(load): cell for load, cell in loads.items() if not load.endswith("/s")}
        rates = [cell["answers_per_s"] for cell in closed.values()]
        highest = max(highest, *rates)
        ours = server == "ours"
        axes.plot(list(closed), rates, marker="o", linewidth=2.5 if ours else 1.2, label=_LABELS.get(server, server))
    if result["engine"]:
        rate = result["engine"]["answers_per_s"]
        highest = max(highest, rate)
        axes.axhline(rate, color="grey", linestyle=":", label="this service's engine alone")
    axes.set_xscale("log", base=2)
    axes.set_xticks(ticks := result["options"]["concurrency"], [str(tick) for tick in ticks])
    axes.set_ylim(0, highest * 1.1)
    axes.set_xlabel("clients, each with one question in flight")
    axes.set_ylabel("right answers per second")
    axes.set_title(f"{result['options']['model']}, {result['machine']['cores']} cores, {result['date']}")


def _draw_scaling(result: dict[str, Any], axes: Axes) -> None:
    kinds: dict[str, dict[int, float]] = {}
    for row in result["rows"]:
        kinds.setdefault(row["kind"], {})[row["number"]] = row["answers_per_s"]
    for place, (kind, rates) in enumerate(kinds.items()):  # rings of different sizes, since they may lie on each other
        label, size = _LABELS.get(kind, kind), 15 - 3 * place
        axes.plot(list(rates), list(rates.values()), marker="o", fillstyle="none", markersize=size, label=label)
    numbers = sorted({row["number"] for row in result["rows"]})
    axes.plot(numbers, [result["most"] * n for n in numbers], color="grey", linestyle=":", label="the devices' limit")
    axes.set_xticks(numbers)
    axes.set_ylim(0, None)
    axes.set_xlabel("devices, each of which sleeps as a GPU would compute")
    axes.set_ylabel("right answers per second")
    axes.set_title(f"{result['machine']['cores']} cores for all of it, {result['date']}")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.plot", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("results", type=Path, help="what the benchmark printed")
    parser.add_argument("--output", type=Path, required=True, help="the picture; its ending decides on its format")
    options = parser.parse_args()
    draw(json.loads(options.results.read_text().splitlines()[-1]), options.output)


if __name__ == "__main__":
    main()
