"""The program of the tests as a child process, and the processes that it has started in turn."""

from __future__ import annotations

import os
import select
import sys
import tempfile
from pathlib import Path

from demo.service import CHECKPOINT, Program, as_environment, free_port

TIMEOUT_S = 120.0


class Running(Program):
    """The program, serving. All that it has started ends with this object, whatever happens.

    Args:
        how: a name of `program.HOW`.
        uses: a config.yml in place of the class.
        settings: of the service, by name.
    """

    def __init__(self, how: str, uses: Path | None = None, **settings: object) -> None:
        self.port = free_port()
        self._folder = tempfile.TemporaryDirectory()
        program = [sys.executable, "-m", "tests.integration.topologies.program", how, str(self.port)]
        environment = as_environment(
            **{"model": CHECKPOINT, "allowed_hosts": "127.0.0.1", "fetch_timeout_s": 120, **settings}
        )
        log = Path(self._folder.name, "log")
        super().__init__([*program, *([str(uses)] if uses else [])], log, COLUMNS="200", **environment)

    def wait_until_ready(self) -> None:
        self.wait_until_said("ready")

    def __exit__(self, *_: object) -> None:
        self.kill()
        self._folder.cleanup()

    def leave(self) -> None:
        """Has the program leave its `with` block."""
        assert self.process.stdin is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()

    def keepers(self) -> list[int]:
        """The processes that the program has started, in that order: those of Executors, then the gateway's."""
        return children(self.process.pid)

    def server(self, number: int) -> int:
        """The process that serves, of the n-th keeper."""
        return children(self.keepers()[number])[0]


class Ends:
    """The ends of processes, whoever their parent is by then."""

    def __init__(self, *pids: int) -> None:
        self._handles = {pid: os.pidfd_open(pid) for pid in pids}

    def wait(self) -> None:
        """Until all have ended."""
        for pid, handle in self._handles.items():
            assert select.select([handle], [], [], TIMEOUT_S)[0], f"process {pid} is still there"
            os.close(handle)


def children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
