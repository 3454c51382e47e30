"""The program of the tests as a child process, and the processes that it has started in turn."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import threading
from contextlib import suppress
from pathlib import Path
from types import TracebackType

from demo.service import CHECKPOINT, ROOT, free_port

TIMEOUT_S = 120.0


class Running:
    """The program, serving. All that it has started ends with this object, whatever happens.

    Args:
        how: a name of `program.HOW`.
        uses: a config.yml in place of the class.
        settings: of the service, by name.
    """

    def __init__(self, how: str, uses: Path | None = None, **settings: object) -> None:
        self.port = free_port()
        self.log: list[str] = []
        self._more = threading.Condition()
        self._is_silent = False
        environment = {"model": CHECKPOINT, "allowed_hosts": "127.0.0.1", "fetch_timeout_s": 120, **settings}
        self.process = subprocess.Popen(
            [
                *(sys.executable, "-m", "tests.integration.topologies.program"),
                *(how, str(self.port), *([str(uses)] if uses else [])),
            ],
            cwd=ROOT,
            env=os.environ
            | {"COLUMNS": "200"}  # of the log
            | {f"BLIP2_{name.upper()}": str(value) for name, value in environment.items()},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        threading.Thread(target=self._read, daemon=True).start()

    def __enter__(self) -> Running:
        try:
            self.wait_until_said("ready")
        except BaseException:
            self.kill_all()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.kill_all()

    def wait_until_said(self, line: str) -> None:
        with self._more:
            self._more.wait_for(lambda: line in self.log or self._is_silent, TIMEOUT_S)
            if line not in self.log:
                raise RuntimeError("\n".join(self.log)[-3000:])

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

    def kill_all(self) -> None:
        with suppress(ProcessLookupError):  # nobody is left
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            with self._more:
                self.log.append(line.strip())
                self._more.notify_all()
        with self._more:
            self._is_silent = True
            self._more.notify_all()


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
