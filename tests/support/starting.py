"""Starts of `python -m executor` that fail, without the seconds that its imports take.

A process that has them done forks for each start, and the child runs `executor/__main__.py` as Python does. It is not
the tests' own process, which has spoken gRPC: threads of gRPC do not survive a fork.
"""

from __future__ import annotations

import functools
import importlib
import json
import os
import runpy
import signal
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Sequence
from typing import IO, Any, NamedTuple

from demo.service import CHECKPOINT, ROOT, as_environment, free_port

LONGEST_S = 120
IMPORTS = ("executor.jina_adapter.executor", "executor.server.process", "transformers.models.blip_2.modeling_blip_2")


class Finished(NamedTuple):
    """A process that has ended."""

    status: int
    stdout: str
    stderr: str


def start_and_fail(*arguments: str, before: Sequence[str] = (), **settings: Any) -> Finished:
    """What is said by a start that ends with status 1.

    Args:
        arguments: of the command; a free port is added where none is among them.
        before: a program to run it, such as `setpriv`.
        settings: of the service; its model is the demo checkpoint where they say nothing.
    """
    port = () if "--port" in arguments else ("--port", str(free_port()))
    variables = os.environ | as_environment(**{"model": CHECKPOINT, **settings})
    warm = _warm(tuple(before))
    assert warm.stdin is not None
    assert warm.stdout is not None
    warm.stdin.write(json.dumps([[*arguments, *port], variables]) + "\n")
    warm.stdin.flush()
    finished = Finished(*json.loads(warm.stdout.readline()))
    assert finished.status == 1, finished
    return finished


@functools.cache
def _warm(before: tuple[str, ...]) -> subprocess.Popen[str]:
    """The process that forks. Its input ends with this process, and it with its input."""
    command = [*before, sys.executable, "-m", "tests.support.starting"]
    return subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def _fork(arguments: list[str], environment: dict[str, str]) -> Finished:
    with tempfile.TemporaryFile() as stdout, tempfile.TemporaryFile() as stderr:
        child = os.fork()
        if not child:
            _start(arguments, environment, stdout, stderr)
        _, status = os.waitpid(child, 0)
        said = []
        for file in (stdout, stderr):
            file.seek(0)
            said.append(file.read().decode())
    return Finished(os.waitstatus_to_exitcode(status), *said)


def _start(arguments: list[str], environment: dict[str, str], stdout: IO[bytes], stderr: IO[bytes]) -> None:
    """Becomes the service. Does not return."""
    try:
        signal.alarm(LONGEST_S)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.dup2(stdout.fileno(), 1)
        os.dup2(stderr.fileno(), 2)
        os.environ.clear()
        os.environ.update(environment)
        sys.argv = ["executor", *arguments]
        runpy.run_module("executor", run_name="__main__", alter_sys=True)
    except BaseException:  # noqa: BLE001 - as Python ends a program
        traceback.print_exc()
        sys.stderr.flush()
        os._exit(1)


def main() -> None:
    for name in IMPORTS:
        importlib.import_module(name)
    for line in sys.stdin:
        print(json.dumps(_fork(*json.loads(line))), flush=True)


if __name__ == "__main__":
    main()
