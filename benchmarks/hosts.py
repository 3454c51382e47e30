"""Hosts for measurements and tests: network namespaces of Linux, each behind a cable of its own.

Needs root and iproute2. A cable that is cut lets packets vanish in both directions: nobody is told, no connection is
reset, as when a machine loses its power or its switch.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Sequence
from contextlib import suppress
from types import TracebackType


class Host:
    """A network namespace with one address, which this machine reaches over a cable.

    Args:
        number: 0 to 127, one for each host at a time on a machine.

    Attributes:
        address: of the host, in 198.18.0.0/15, the network for measurements (RFC 2544).
    """

    def __init__(self, number: int) -> None:
        self._name = f"blip2-{os.getpid()}-{number}"
        self._cable = f"b2{os.getpid() % 0x10000:x}n{number}"
        network = f"198.{18 + (os.getpid() >> 7) % 2}.{(os.getpid() * 2 + number) % 256}"
        self._ours, self.address = f"{network}.1", f"{network}.2"

    def __enter__(self) -> Host:
        _ip("netns", "add", self._name)
        try:
            _ip("link", "add", self._cable, "type", "veth", "peer", "name", "eth0", "netns", self._name)
            _ip("address", "add", f"{self._ours}/24", "dev", self._cable)
            _ip("link", "set", self._cable, "up")
            _ip("-n", self._name, "address", "add", f"{self.address}/24", "dev", "eth0")
            _ip("-n", self._name, "link", "set", "lo", "up")
            self.mend()
        except BaseException:
            self._remove()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._remove()

    def command(self, *program: str) -> Sequence[str]:
        """What runs `program` on this host."""
        return ["ip", "netns", "exec", self._name, *program]

    def cut(self) -> None:
        """From now on packets to and from this host vanish."""
        _ip("-n", self._name, "link", "set", "eth0", "down")

    def mend(self) -> None:
        """Plugs the cable in."""
        _ip("-n", self._name, "link", "set", "eth0", "up")

    def _remove(self) -> None:
        # Sockets that linger keep a namespace, and what is in it, after its name is gone.
        with suppress(RuntimeError):  # it was not made
            _ip("link", "delete", self._cable)
        _ip("netns", "delete", self._name)


def why_not() -> str | None:
    """Why there can be no hosts on this machine; None where there can."""
    try:
        with Host(127):
            return None
    except (OSError, RuntimeError) as error:
        return f"no network namespaces: {error}"


def _ip(*arguments: str) -> None:
    done = subprocess.run(["ip", *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"ip {' '.join(arguments)}: {done.stderr.strip()}")
