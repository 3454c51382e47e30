"""From the start of the process to ready: seconds, and the most memory on the way.

    python -m benchmarks.load                    the demo checkpoint
    python -m benchmarks.load --model xl         the full architecture with random weights (writes 8 to 16 GB first)
    python -m benchmarks.load --model DIRECTORY

Starts `python -m executor` as users do and asks its gRPC health until it serves, warm-up included. `imports` is the
part before any work: Python with everything that the service imports. Files are read once before, so that the disk
counts as little as it can; `--cold` leaves that out, for machines where the page cache was emptied. Peak memory is the
kernel's VmHWM of the process, file pages that it mapped included. The last line is JSON.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch

from benchmarks.architectures import ARCHITECTURES, build
from benchmarks.engine import machine
from demo.service import ROOT, Service


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


def start(model: Path, settings: dict[str, Any]) -> dict[str, float]:
    """One start of the service."""
    started = time.perf_counter()
    with (
        tempfile.TemporaryDirectory() as folder,
        Service(None, Path(folder, "log"), 1800, model=model.resolve(), **settings) as service,
    ):
        ready_s = time.perf_counter() - started
        assert service.process is not None
        status = Path(f"/proc/{service.process.pid}/status").read_text()
    peak_kb = int(status.split("VmHWM:")[1].split()[0])
    return {"ready_s": ready_s, "peak_gb": peak_kb * 1024 / 1e9}


def main() -> None:
    """Measures, prints a table and a line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="demo/checkpoint", help=f"a directory, or one of {', '.join(ARCHITECTURES)}")
    parser.add_argument("--dtype", default="auto", help="setting of the service")
    parser.add_argument("--disk-dtype", default="float32", help="of random weights on disk")
    parser.add_argument("--compile", default="graphs", help="setting of the service")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--cold", action="store_true", help="do not read the files first")
    options = parser.parse_args()
    with ExitStack() as stack:
        model = Path(options.model)
        if options.model in ARCHITECTURES:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            model = write(options.model, options.disk_dtype, folder)
        files = [file for file in model.iterdir() if file.is_file()]
        if not options.cold:
            for file in files:
                with file.open("rb") as stream:
                    while stream.read(2**24):
                        pass
        settings = {"dtype": options.dtype, "compile": options.compile}
        runs = [start(model, settings) for _ in range(options.rounds)]
        report: dict[str, Any] = machine(torch.device("cuda" if torch.cuda.is_available() else "cpu")) | vars(options)
        report["disk_gb"] = sum(file.stat().st_size for file in files) / 1e9
        report["imports_s"] = statistics.median(imports_s() for _ in range(options.rounds))
        report |= {key: statistics.median(run[key] for run in runs) for key in runs[0]}
    print("on disk GB  imports s  ready s  peak memory GB   (medians)")
    print(f"{report['disk_gb']:10.2f} {report['imports_s']:10.1f} {report['ready_s']:8.1f} {report['peak_gb']:15.2f}")
    print(json.dumps({key: round(value, 3) if isinstance(value, float) else value for key, value in report.items()}))


if __name__ == "__main__":
    main()
