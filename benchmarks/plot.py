"""Draws throughput against concurrency, ours and the peers', from the last line that `benchmarks.serve` printed.

    python -m benchmarks.plot results.json [--output benchmarks/throughput.svg]

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

_LABELS = {
    "ours": "this service",
    "article": "the article's Executor",
    "jina": "Jina's dynamic batching",
    "litserve": "LitServe",
    "bentoml": "BentoML",
    "ray": "Ray Serve",
}


def draw(result: dict[str, Any], output: Path) -> None:
    """Writes the picture; the ending of `output` decides on its format."""
    figure, axes = pyplot.subplots(figsize=(7, 4))
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
    axes.grid(alpha=0.3)
    axes.legend(fontsize="small", loc="upper left", bbox_to_anchor=(1.0, 1.0))
    figure.savefig(output, bbox_inches="tight", metadata={"Date": None} if output.suffix == ".svg" else None)
    pyplot.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.plot", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("results", type=Path, help="what `python -m benchmarks.serve` printed")
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "throughput.svg")
    options = parser.parse_args()
    draw(json.loads(options.results.read_text().splitlines()[-1]), options.output)


if __name__ == "__main__":
    main()
