"""How many of the machine's cores this process may use.

`os.cpu_count` counts those of the node, whatever a container's limit is, and as many threads throttle each other. Knows
Linux' affinity and control groups; elsewhere all cores count.
"""

import os
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

_MEMBERSHIP = Path("/proc/self/cgroup")
_MOUNTS = Path("/sys/fs/cgroup")


def available(membership: Path = _MEMBERSHIP, mounts: Path = _MOUNTS) -> int:
    """Counts the cores that this process may use: its affinity, and whole cores of its control groups' quotas; at least
    1.

    Args:
        membership: the file that says in which control groups this process is.
        mounts: the folder where they are mounted.
    """
    affinity = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quotas = [quota for folder in _groups(membership, mounts) if (quota := _quota(folder)) is not None]
    return max(1, int(min([affinity, *quotas])))


def share(replicas: int) -> int:
    """Returns the cores of one of several replicas on this host; at least 1."""
    return max(1, available() // replicas)


def _groups(membership: Path, mounts: Path) -> Iterator[Path]:
    """The folders of the control groups that this process is in and of those around them.

    A container may see the path that its group has on the host, and its own group at the root.
    """
    try:
        lines = membership.read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if not controllers:  # version 2, alone or beside version 1
            roots = [mounts, mounts / "unified"]
        elif "cpu" in controllers.split(","):
            roots = [mounts / "cpu", mounts / controllers]
        else:
            continue
        group = PurePosixPath(path.lstrip("/"))
        for root in roots:
            yield from (root / part for part in (group, *group.parents))


def _quota(folder: Path) -> float | None:
    """In cores; None where there is none."""
    try:
        if (folder / "cpu.max").is_file():
            quota, period = (folder / "cpu.max").read_text().split()
        else:
            quota = (folder / "cpu.cfs_quota_us").read_text()
            period = (folder / "cpu.cfs_period_us").read_text()
    except OSError:
        return None
    return None if quota == "max" or int(quota) <= 0 else int(quota) / int(period)
