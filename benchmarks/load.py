"""From the start of the process to ready: seconds, and the most memory on the way.

    python -m benchmarks.load                    the demo checkpoint
    python -m benchmarks.load --model xl         the full architecture with random weights: 16 GB, below `--folder`
    python -m benchmarks.load --model DIRECTORY
    python -m benchmarks.load --model medium --dtype float16 --prepared --cold      original against prepared copy

Starts `python -m executor` as users do and asks its gRPC health until it serves, warm-up included; not with
`--load-only`. `imports` is the part before any work: Python with everything that the service imports. Files are read
once before each start, so that the disk counts as little as it can; `--cold` instead makes the kernel forget them, so
that the disk counts in full. `load` is that of the checkpoint alone, without imports and warm-up: in half precision on
a CPU a warm-up takes longer. Peak memory is the kernel's VmHWM of the process, pages of files that it mapped included,
which the kernel can take back; `anonymous` is what it has of its own, at most while it loads and once it is ready.
`--prepared` starts in turns the model and a copy of it that `python -m executor prepare` has made in `--dtype`;
`verify` is the check of that copy's checksums alone, which is part of its start. The last line is JSON.
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

from benchmarks.architectures import ARCHITECTURES, write
from benchmarks.engine import machine
from demo.service import ROOT, Program, Service
from executor.checkpoints import checksums

_LOOK_S = 0.02


def memory_gb(process: int, *names: str) -> list[float]:
    """Values of `/proc/<process>/status`, such as VmHWM; none where the process has ended."""
    try:
        status = Path(f"/proc/{process}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return []
    if "VmHWM:" not in status:  # ended, and not yet waited for
        return []
    return [int(status.split(f"{name}:")[1].split()[0]) * 1024 / 1e9 for name in names]


def run(command: list[str]) -> tuple[str, dict[str, float]]:
    """Runs a command. Returns what it printed, and its seconds and memory."""
    measured = {"s": 0.0, "peak_gb": 0.0, "anonymous_gb": 0.0}
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder, Program(command, Path(folder, "log")) as program:
        while found := memory_gb(program.process.pid, "VmHWM", "RssAnon"):
            for name, value in zip(("peak_gb", "anonymous_gb"), found, strict=True):
                measured[name] = max(measured[name], value)
            time.sleep(_LOOK_S)
        status = program.process.wait()
        measured["s"] = time.perf_counter() - started
        if status:
            raise SystemExit(f"{command} ended with status {status}: {program.told()}")
        return program.told(), measured


def preparing(model: Path, output: Path, cold: bool, dtype: str) -> dict[str, float]:
    """`python -m executor prepare`: seconds and memory."""
    read(model, cold)
    command = [sys.executable, "-m", "executor", "prepare", "--model", str(model.resolve()), "--dtype", dtype]
    return run([*command, "--output", str(output)])[1]


def imports_s() -> float:
    """Seconds to import the service in a new process."""
    started = time.perf_counter()
    subprocess.run(
        [sys.executable, "-c", "import executor.jina_adapter, executor.server.process"], cwd=ROOT, check=True
    )
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
from executor.checkpoints import loading
model, dtype = sys.argv[1:]
started = time.perf_counter(), time.process_time()
loading.load(model, dtype=dtype)
print(time.perf_counter() - started[0], time.process_time() - started[1])
"""


def loading(model: Path, cold: bool, dtype: str) -> dict[str, float]:
    """Loads the checkpoint alone, in a new process, without a warm-up: seconds, those of all cores together, memory."""
    disk_gb = read(model, cold)
    printed, measured = run([sys.executable, "-c", _LOADING, str(model.resolve()), dtype])
    load_s, cpu_s = map(float, printed.splitlines()[-1].split())
    memory = {"load_peak_gb": measured["peak_gb"], "load_anonymous_gb": measured["anonymous_gb"]}
    return {"disk_gb": disk_gb, "load_s": load_s, "load_cpu_s": cpu_s} | memory


def start(model: Path, cold: bool, settings: dict[str, Any]) -> dict[str, float]:
    """One start of the service."""
    read(model, cold)
    started = time.perf_counter()
    with (
        tempfile.TemporaryDirectory() as folder,
        Service(None, Path(folder, "log"), 1800, model=model.resolve(), **settings) as service,
    ):
        ready_s = time.perf_counter() - started
        peak_gb, anonymous_gb = memory_gb(service.process.pid, "VmHWM", "RssAnon")
    return {"ready_s": ready_s, "peak_gb": peak_gb, "anonymous_gb": anonymous_gb}


def measure(models: dict[str, Path], options: argparse.Namespace) -> dict[str, dict[str, float]]:
    """Medians of starts of several models, in turns: what else the machine does, it does to all of them."""
    settings = {"dtype": options.dtype, "compile": options.compile}
    runs: dict[str, list[dict[str, float]]] = {name: [] for name in models}
    for _ in range(options.rounds):
        for name, model in models.items():
            measured = loading(model, options.cold, options.dtype)
            if not options.load_only:
                measured |= start(model, options.cold, settings)
            runs[name].append(measured)
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
    parser.add_argument("--load-only", action="store_true", help="no starts of the service, which warm up")
    parser.add_argument("--folder", type=Path, help="where to write large files (default: the system's for such)")
    parser.add_argument("--prepared", action="store_true", help="compare with a copy prepared in --dtype")
    options = parser.parse_args()
    if options.prepared and options.dtype == "auto":
        parser.error("--prepared needs the --dtype to prepare")
    report: dict[str, Any] = machine(torch.device("cuda" if torch.cuda.is_available() else "cpu"))
    report |= {name: str(value) if isinstance(value, Path) else value for name, value in vars(options).items()}
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        model = Path(options.model)
        if options.model in ARCHITECTURES:
            model = write(options.model, options.disk_dtype, Path(folder, "original"))
        models = {"original": model}
        if options.prepared:
            models["prepared"] = Path(folder, "prepared")
            report["prepare"] = preparing(model, models["prepared"], options.cold, options.dtype)
            report["verify_s"] = statistics.median(
                verify_s(models["prepared"], options.cold) for _ in range(options.rounds)
            )
        report["imports_s"] = statistics.median(imports_s() for _ in range(options.rounds))
        report["starts"] = measure(models, options)
    _print_table(report["starts"])
    if options.prepared:
        print(
            "prepare: {s:.1f} s, peak memory {peak_gb:.2f} GB, anonymous {anonymous_gb:.2f} GB".format(
                **report["prepare"]
            )
        )
    print("   ".join(f"{key} {report[key]:.1f}" for key in ("imports_s", "verify_s") if key in report))
    print(json.dumps(_rounded(report)))


_COLUMNS = {
    "disk_gb": "on disk GB",
    "load_s": "load s",
    "load_cpu_s": "load CPU s",
    "load_peak_gb": "load peak GB",
    "load_anonymous_gb": "load anonymous GB",
    "ready_s": "ready s",
    "peak_gb": "peak GB",
    "anonymous_gb": "anonymous GB",
}


def _print_table(starts: dict[str, dict[str, float]]) -> None:
    columns = {key: title for key, title in _COLUMNS.items() if key in next(iter(starts.values()))}
    print(" " * 10, *columns.values(), "(medians)", sep="  ")
    for name, medians in starts.items():
        print(f"{name:10}", *(f"{medians[key]:{len(title)}.2f}" for key, title in columns.items()), sep="  ")


def _rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _rounded(one) for key, one in value.items()}
    return round(value, 3) if isinstance(value, float) else value


if __name__ == "__main__":
    main()
