"""Programs of a benchmark that run to their end, and share neither memory nor an interpreter with it."""

import os
import subprocess
import sys
from collections.abc import Mapping, Sequence

from demo.service import ROOT


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
