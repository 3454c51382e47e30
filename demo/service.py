"""Child processes, and the service as one: started, waited for, ended with all that they have started.

The demo's commands, the benchmarks and the tests start their processes here. It lies in `demo` because all three may
import that package: the quick start needs it, and neither the demo nor a benchmark may need the tests.
"""

from __future__ import annotations

import itertools
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

if TYPE_CHECKING:
    from typing_extensions import Self

ROOT = Path(__file__).resolve().parent.parent
CHECKPOINT = ROOT / "demo" / "checkpoint"
SERVE = (sys.executable, "-m", "executor")
_POLL_S = 0.1
# Below those that the kernel gives to outgoing connections, which could take one before it is used. Two processes begin
# at places far from each other: until somebody listens on a port, nothing shows that it is taken.
_PORTS = range(10_000, 32_000)
_places = itertools.count(random.Random(os.getpid()).randrange(len(_PORTS)))


def free_port() -> int:
    """A TCP port on loopback that nobody listens on, and that this process has not been given before."""
    for place in itertools.islice(_places, len(_PORTS)):
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port := _PORTS[place % len(_PORTS)]))
            return port
    raise OSError("no port is free")


def as_environment(**settings: object) -> dict[str, str]:
    """The variables of the environment that set these settings of the service."""
    return {f"BLIP2_{name.upper()}": str(value) for name, value in settings.items()}


class Program:
    """A child process from `with` to its end, and a process group of its own, of which nobody is left then.

    Args:
        command: runs in the project's folder.
        log: a file that what it prints is added to; where there is none it goes to this process's standard error.
        environment: beside this process's own.
    """

    process: subprocess.Popen[str]

    def __init__(self, command: Sequence[str], log: Path | None = None, **environment: str) -> None:
        self.command, self.log, self.environment = command, log, environment

    def __enter__(self) -> Self:
        with self.log.open("ab") if self.log else nullcontext(sys.stderr) as log:
            self.process = subprocess.Popen(
                self.command,
                cwd=ROOT,
                env=os.environ | self.environment,
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=subprocess.STDOUT,
                text=True,
                start_new_session=True,
            )
        try:
            self.wait_until_ready()
        except BaseException:
            self.kill()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def wait_until_ready(self) -> None:
        """Does not wait: a program has a way of its own to tell that it is ready."""

    def wait_until(self, condition: Callable[[], bool], timeout_s: float = 120) -> None:
        """Asks again and again; raises RuntimeError where the process ends instead, or in the end."""
        deadline = time.monotonic() + timeout_s
        while True:
            status = self.process.poll()  # asked first, since what it says last counts too
            if condition():
                return
            if status is not None or time.monotonic() > deadline:
                raise RuntimeError(f"not ready (exit status {status}): {self.told()[-3000:]}")
            time.sleep(_POLL_S)

    def wait_until_said(self, line: str) -> None:
        self.wait_until(lambda: line in map(str.strip, self.told().splitlines()))

    def told(self) -> str:
        """What it has printed into its log."""
        return self.log.read_text(errors="replace") if self.log else "see its output above"

    def stop(self, timeout_s: float = 45) -> int:
        """Asks it to end and waits, longer than the service may drain. Returns its exit status."""
        self._signal(signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            self.process.wait(timeout_s)
        return self.kill()

    def kill(self) -> int:
        """Ends it and all that it has started, at once. Returns its exit status."""
        self._signal(signal.SIGKILL)
        return self.process.wait()

    def _signal(self, number: signal.Signals) -> None:
        with suppress(ProcessLookupError):  # nobody is left
            os.killpg(self.process.pid, number)


class Service(Program):
    """`python -m executor` on loopback, ready when entered; or another program that takes `--port` and tells health.

    Args:
        port: where to listen; a free one where there is none.
        log: see `Program`.
        ready_timeout_s: seconds until it must be ready.
        config: a config.yml instead of the project's.
        command: of the other program, less the port.
        settings: of the service by name, e.g. `model="demo/checkpoint"`, which is the default.
    """

    def __init__(
        self,
        port: int | None = None,
        log: Path | None = None,
        ready_timeout_s: float = 120,
        config: Path | None = None,
        command: Sequence[str] = SERVE,
        **settings: object,
    ) -> None:
        self.port = port or free_port()
        self._ready_timeout_s = ready_timeout_s
        options = ["--port", str(self.port), *(["--config", str(config)] if config else [])]
        super().__init__([*command, *options], log, **as_environment(**{"model": CHECKPOINT, **settings}))

    def wait_until_ready(self) -> None:
        self.wait_until(self.is_ready, self._ready_timeout_s)  # the port opens before the model is there

    def is_ready(self) -> bool:
        return serves(f"127.0.0.1:{self.port}")


def serves(address: str, timeout_s: float = 1, credentials: grpc.ChannelCredentials | None = None) -> bool:
    """Whether a service says that it is SERVING."""
    # A new channel each time: one that was refused waits longer and longer before it connects again.
    channel = grpc.secure_channel(address, credentials) if credentials else grpc.insecure_channel(address)
    with channel:
        try:
            reply = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=timeout_s)
        except grpc.RpcError:
            return False
    return bool(reply.status == health_pb2.HealthCheckResponse.SERVING)
