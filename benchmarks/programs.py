"""Programs of a benchmark, or of a test, which share neither memory nor an interpreter with it."""

import os
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from demo.service import ROOT

_END_S = 60


def output_of(module: str, arguments: Sequence[str], environment: Mapping[str, str] | None = None) -> list[str]:
    """The lines that `python -m module` prints.

    Args:
        environment: beside this process's own.

    Raises:
        RuntimeError: it fails; with the end of what it said.
    """
    command = [sys.executable, "-m", module, *arguments]
    done = subprocess.run(
        command, cwd=ROOT, env=os.environ | dict(environment or {}), capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} failed: {done.stderr[-2000:]}")
    return done.stdout.splitlines()


@contextmanager
def running(command: Sequence[str], log: Path, environment: Mapping[str, str] | None = None) -> Iterator[None]:
    """Runs a service, and asks it to end at the end.

    Args:
        log: what it prints is added to this file.
        environment: beside this process's own.
    """
    with log.open("ab") as output:
        process = subprocess.Popen(
            command,
            cwd=ROOT,
            env=os.environ | dict(environment or {}),
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        yield
    finally:
        process.terminate()
        try:
            process.wait(_END_S)
        finally:
            process.kill()
