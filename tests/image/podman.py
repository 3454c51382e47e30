"""podman as the tests of the image call it, and one container of theirs. Knows nothing of how the image is built."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
import time
import uuid
from pathlib import Path
from types import TracebackType
from typing import Any

from demo.service import free_port

TOOLS = ("podman", "runc", "mmdebstrap")
PACKAGES = ("podman", "buildah", "runc", "netavark", "iptables", "catatonit", "mmdebstrap")
_ENVIRONMENT = os.environ | {"CONTAINERS_CONF": str(Path(__file__).with_name("containers.conf"))}
_POLL_S = 0.2

HARDENED = (
    "--read-only",
    "--read-only-tmpfs=false",
    "--tmpfs=/tmp:size=64m,mode=1777",
    "--tmpfs=/home/blip2:size=64m,mode=1777",
    "--cap-drop=all",
    "--security-opt=no-new-privileges",
    "--memory=2g",
    "--memory-swap=2g",
    "--pids-limit=256",
)
"""As docs/containers.md says to run it."""


def podman(
    *arguments: str, check: bool = True, stdin: str | None = None, timeout_s: float = 300
) -> subprocess.CompletedProcess[str]:
    """Runs podman to its end.

    Raises:
        RuntimeError: its exit status is not 0 (where `check`); with what it said.
        subprocess.TimeoutExpired: it did not end in time.
    """
    done = subprocess.run(
        ["podman", *arguments],
        env=_ENVIRONMENT,
        check=False,
        capture_output=True,
        text=True,
        input=stdin,
        timeout=timeout_s,
        cwd=tempfile.gettempdir(),  # conmon leaves a file `oom` where it was started
    )
    if check and done.returncode:
        raise RuntimeError(f"podman {arguments[0]}: exit status {done.returncode}: {done.stderr[-3000:]}")
    return done


def start_podman(*arguments: str) -> subprocess.Popen[str]:
    """Runs podman beside the test."""
    return subprocess.Popen(["podman", *arguments], env=_ENVIRONMENT, stdout=subprocess.DEVNULL, text=True)


def inspect_image(image: str) -> dict[str, Any]:
    (found,) = json.loads(podman("image", "inspect", image).stdout)
    assert isinstance(found, dict)
    return found


def in_image(image: str, script: str, stdin: str | None = None) -> str:
    """What a shell script prints that root runs in a fresh container of the image, without a network."""
    options = ("--rm", "--interactive", "--network=none", "--user=0", "--entrypoint=sh", "--workdir=/")
    return podman("run", *options, image, "-c", script, stdin=stdin).stdout


def why_not() -> str | None:
    """Why no container can run here, or None."""
    missing = [tool for tool in TOOLS if shutil.which(tool) is None]
    if missing:
        return f"{', '.join(missing)} not installed (needs root and apt to install)"
    if os.geteuid() != 0:
        return "needs root: mmdebstrap and podman's bridge do"
    done = podman("info", check=False)
    return f"podman cannot run: {_last_line(done.stderr)}" if done.returncode else None


def why_not_run(image: str) -> str | None:
    """Why a trivial container of `image`, with the limits of the tests, cannot run here, or None."""
    port = free_port()
    done = podman("run", "--rm", f"--publish=127.0.0.1:{port}:8000", *HARDENED, image, "true", check=False)
    return f"a container cannot run: {_last_line(done.stderr)}" if done.returncode else None


def _last_line(text: str) -> str:
    return (text.strip().splitlines() or ["no reason given"])[-1]


class Container:
    """A hardened container of the service, ready when entered, removed when left.

    Args:
        image: what to run.
        options: more options of `podman run`.
        ready_timeout_s: seconds until its HEALTHCHECK must succeed.
    """

    def __init__(self, image: str, *options: str, ready_timeout_s: float = 120) -> None:
        self.name = f"blip2-image-test-{uuid.uuid4().hex[:8]}"
        self.port = free_port()
        self._image = image
        self._options = options
        self._ready_timeout_s = ready_timeout_s

    def __enter__(self) -> Container:
        # Periodic health checks are systemd's timers: there may be none, so the tests run the check themselves.
        publish = f"--publish=127.0.0.1:{self.port}:54321"
        own = (f"--name={self.name}", publish, "--health-interval=disable", *HARDENED, *self._options)
        podman("run", "--detach", *own, self._image)
        try:
            self._wait_until_healthy()
        except BaseException:
            self._remove()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._remove()

    def run(self, *command: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Runs a command inside, as the service's user."""
        return podman("exec", self.name, *command, check=check)

    def state(self) -> dict[str, Any]:
        (found,) = json.loads(podman("inspect", self.name).stdout)
        state = found["State"]
        assert isinstance(state, dict)
        return state

    def is_healthy(self) -> bool:
        """Whether the image's own HEALTHCHECK succeeds."""
        return podman("healthcheck", "run", self.name, check=False).returncode == 0

    def logs(self) -> str:
        done = podman("logs", self.name)
        return done.stdout + done.stderr

    def wait(self) -> int:
        """Its exit status, once it has ended."""
        return int(podman("wait", self.name).stdout)

    def _wait_until_healthy(self) -> None:
        deadline = time.monotonic() + self._ready_timeout_s
        while not self.is_healthy():
            if time.monotonic() > deadline or not self.state()["Running"]:
                raise RuntimeError(f"the container is not healthy: {self.logs()[-3000:]}")
            time.sleep(_POLL_S)

    def _remove(self) -> None:
        podman("rm", "--force", "--volumes", "--time=0", self.name)
