"""The service as a child process: started, waited for, stopped. Used by the demo's commands and by the tests."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import nullcontext, suppress
from pathlib import Path
from types import TracebackType

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

ROOT = Path(__file__).resolve().parent.parent
CHECKPOINT = ROOT / "demo" / "checkpoint"
_POLL_S = 0.1


def free_port() -> int:
    """A TCP port on loopback that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def command(port: int) -> list[str]:
    """The command line of a service on loopback."""
    return [sys.executable, "-m", "executor", "--port", str(port)]


class Service:
    """`python -m executor` on loopback.

    Args:
        port: where to listen; a free one where there is none.
        log: a file for what the service prints; where there is none it goes to this process's standard error.
        ready_timeout_s: seconds until it must be ready.
        config: a config.yml instead of the project's.
        settings: settings of the service by name, e.g. `model="demo/checkpoint"`, which is the default.
    """

    def __init__(
        self,
        port: int | None = None,
        log: Path | None = None,
        ready_timeout_s: float = 120,
        config: Path | None = None,
        **settings: object,
    ) -> None:
        self.port = port or free_port()
        self._log = log
        self._ready_timeout_s = ready_timeout_s
        self._config = config
        self._settings = {"model": CHECKPOINT, **settings}
        self.process: subprocess.Popen[bytes] | None = None

    def command(self) -> list[str]:
        return [*command(self.port), *(["--config", str(self._config)] if self._config else [])]

    def environment(self) -> dict[str, str]:
        return os.environ | {f"BLIP2_{name.upper()}": str(value) for name, value in self._settings.items()}

    def is_ready(self) -> bool:
        return _serves(self.port)

    def __enter__(self) -> Service:
        with self._log.open("wb") if self._log else nullcontext(sys.stderr) as output:
            self.process = subprocess.Popen(
                self.command(),
                cwd=ROOT,
                env=self.environment(),
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # a process group of its own: what it starts is stopped with it
            )
        try:
            self._wait_until_ready(self.process)
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()

    def stop(self, timeout_s: float = 45) -> int:
        """Asks the service to end and waits for it, longer than it may drain. Returns its exit status."""
        assert self.process is not None
        self._signal(signal.SIGTERM)
        try:
            return self.process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self._signal(signal.SIGKILL)
            return self.process.wait()
        finally:
            self._signal(signal.SIGKILL)

    def _signal(self, number: signal.Signals) -> None:
        assert self.process is not None
        with suppress(ProcessLookupError):  # nobody is left
            os.killpg(self.process.pid, number)

    def _wait_until_ready(self, process: subprocess.Popen[bytes]) -> None:
        deadline = time.monotonic() + self._ready_timeout_s
        while process.poll() is None and time.monotonic() < deadline:
            if self.is_ready():
                return
            time.sleep(_POLL_S)  # the port opens when the model is loaded
        told = self._log.read_text(errors="replace")[-2000:] if self._log else "see its output above"
        raise RuntimeError(f"the service is not ready (exit status {process.poll()}): {told}")


def _serves(port: int) -> bool:
    # A new channel each time: one that was refused waits longer and longer before it connects again.
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        try:
            reply = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=1)
        except grpc.RpcError:
            return False
    return reply.status == health_pb2.HealthCheckResponse.SERVING
