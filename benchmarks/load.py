"""From the start of the process to ready: seconds, and the most memory on the way.

    python -m benchmarks.load                    the demo checkpoint
    python -m benchmarks.load --model xl         the full architecture with random weights (writes 8 to 16 GB first)
    python -m benchmarks.load --model DIRECTORY
    python -m benchmarks.load --model medium --dtype float16 --prepared --cold      original against prepared copy

Starts `python -m executor` as users do and asks its gRPC health until it serves, warm-up included. `imports` is the
part before any work: Python with everything that the service imports. Files are read once before each start, so that
the disk counts as little as it can; `--cold` instead makes the kernel forget them, so that the disk counts in full.
`load` is that of the checkpoint alone, without imports and warm-up: in half precision on a CPU a warm-up takes longer.
Peak memory is the kernel's VmHWM of the process, file pages that it mapped included; `anonymous` is what it has of its
own once it is ready. `--prepared` starts in turns the model and a copy of it that `python -m executor prepare` has made
in `--dtype`; `verify` is the check of that copy's checksums alone, which is part of its start. The last line is JSON.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from benchmarks.architectures import ARCHITECTURES, build
from benchmarks.engine import machine
from demo.service import ROOT, Service
from executor import checksums
from executor.prepare import prepare


def write(architecture: str, dtype: str, folder: Path) -> Path:
    """A checkpoint with random weights on disk."""
    checkpoint = build(architecture, torch.device("cpu"), dtype)
    checkpoint.model.save_pretrained(folder)
    checkpoint.processor.save_pretrained(folder)
    return folder


def imports_s() -> float:
    """Seconds to import the service in a new process."""
    started = time.perf_counter()
    subprocess.run([sys.executable, "-c", "import executor.__main__"], cwd=ROOT, check=True)
    return time.perf_counter() - started


def read(folder: Path, cold: bool) -> float:
    """Has the files of a folder in memory, or nowhere but on disk. Returns their size in GB."""
    files = [file for file in folder.iterdir() if file.is_file()]
    for file in files:
        with file.open("rb") as stream:
            if cold:
                os.fsync(stream)  # what is not yet written cannot be forgotten
                os.posix_fadvise(stream.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
            else:
                while stream.read(2**24):
                    pass
    return sum(file.stat().st_size for file in files) / 1e9


def verify_s(folder: Path, cold: bool) -> float:
    """Seconds to check a folder's checksums."""
    read(folder, cold)
    started = time.perf_counter()
    checksums.verify(folder)
    return time.perf_counter() - started


_LOADING = """
import sys, time
from executor import checkpoint
model, dtype = sys.argv[1:]
started = time.perf_counter(), time.process_time()
checkpoint.load(model, dtype=dtype)
print(time.perf_counter() - started[0], time.process_time() - started[1])
"""


def loading(model: Path, cold: bool, dtype: str) -> dict[str, float]:
    """Loads the checkpoint alone, in a new process, without a warm-up: seconds, and those of all cores together."""
    read(model, cold)
    command = [sys.executable, "-c", _LOADING, str(model.resolve()), dtype]
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True)
    load_s, cpu_s = map(float, done.stdout.split())
    return {"load_s": load_s, "load_cpu_s": cpu_s}


def start(model: Path, cold: bool, settings: dict[str, Any]) -> dict[str, float]:
    """One start of the service."""
    disk_gb = read(model, cold)
    started = time.perf_counter()
    with (
        tempfile.TemporaryDirectory() as folder,
        Service(None, Path(folder, "log"), 1800, model=model.resolve(), **settings) as service,
    ):
        ready_s = time.perf_counter() - started
        assert service.process is not None
        status = Path(f"/proc/{service.process.pid}/status").read_text()
    peak_gb, anonymous_gb = (int(status.split(f"{name}:")[1].split()[0]) * 1024 / 1e9 for name in ("VmHWM", "RssAnon"))
    return {"disk_gb": disk_gb, "ready_s": ready_s, "peak_gb": peak_gb, "anonymous_gb": anonymous_gb}


def measure(models: dict[str, Path], options: argparse.Namespace) -> dict[str, dict[str, float]]:
    """Medians of starts of several models, in turns: what else the machine does, it does to all of them."""
    settings = {"dtype": options.dtype, "compile": options.compile}
    runs: dict[str, list[dict[str, float]]] = {name: [] for name in models}
    for _ in range(options.rounds):
        for name, model in models.items():
            loaded = loading(model, options.cold, options.dtype)
            runs[name].append(loaded | start(model, options.cold, settings))
    return {
        name: {key: statistics.median(run[key] for run in of_one) for key in of_one[0]} for name, of_one in runs.items()
    }


def main() -> None:
    """Measures, prints a table and a line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="demo/checkpoint", help=f"a directory, or one of {', '.join(ARCHITECTURES)}")
    parser.add_argument("--dtype", default="auto", help="setting of the service")
    parser.add_argument("--disk-dtype", default="float32", help="of random weights on disk")
    parser.add_argument("--compile", default="graphs", help="setting of the service")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--cold", action="store_true", help="the files are on disk alone before each start")
    parser.add_argument("--prepared", action="store_true", help="compare with a copy prepared in --dtype")
    options = parser.parse_args()
    if options.prepared and options.dtype == "auto":
        parser.error("--prepared needs the --dtype to prepare")
    report: dict[str, Any] = machine(torch.device("cuda" if torch.cuda.is_available() else "cpu")) | vars(options)
    with tempfile.TemporaryDirectory() as folder:
        model = Path(options.model)
        if options.model in ARCHITECTURES:
            model = write(options.model, options.disk_dtype, Path(folder, "original"))
        models = {"original": model}
        if options.prepared:
            models["prepared"] = Path(folder, "prepared")
            started = time.perf_counter()
            prepare(str(model), models["prepared"], dtype=options.dtype)
            report["prepare_s"] = time.perf_counter() - started
            report["verify_s"] = statistics.median(
                verify_s(models["prepared"], options.cold) for _ in range(options.rounds)
            )
        report["imports_s"] = statistics.median(imports_s() for _ in range(options.rounds))
        report["starts"] = measure(models, options)
    print("             on disk GB   load s   load CPU s  ready s  peak memory GB  anonymous GB   (medians)")
    for name, medians in report["starts"].items():
        print(
            f"{name:12} {medians['disk_gb']:10.2f} {medians['load_s']:8.2f} {medians['load_cpu_s']:12.2f} "
            f"{medians['ready_s']:8.1f} {medians['peak_gb']:15.2f} "
            f"{medians['anonymous_gb']:13.2f}"
        )
    print("   ".join(f"{key} {report[key]:.1f}" for key in ("imports_s", "prepare_s", "verify_s") if key in report))
    print(json.dumps(_rounded(report)))


def _rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _rounded(one) for key, one in value.items()}
    return round(value, 3) if isinstance(value, float) else value


if __name__ == "__main__":
    main()
