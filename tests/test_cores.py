"""How many cores a process may use, by files as Linux has them for containers."""

import os
from pathlib import Path

import pytest

from executor import cores


@pytest.fixture(autouse=True)
def _eight_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)))


class Machine:
    """The files that say in which control groups a process is, and what these allow."""

    def __init__(self, folder: Path, *membership: str) -> None:
        self.membership, self.mounts = folder / "cgroup", folder / "mounts"
        self.membership.write_text("".join(f"{line}\n" for line in membership))

    def write(self, name: str, text: str) -> None:
        file = self.mounts / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f"{text}\n")

    def available(self) -> int:
        return cores.available(self.membership, self.mounts)


def test_without_a_limit_all_cores_of_the_affinity_count(tmp_path):
    assert Machine(tmp_path, "0::/").available() == 8


def test_without_control_groups_all_cores_of_the_affinity_count(tmp_path):
    assert cores.available(tmp_path / "missing", tmp_path) == 8


@pytest.mark.parametrize(
    ("limit", "expected"),
    [("400000 100000", 4), ("250000 100000", 2), ("50000 100000", 1), ("max 100000", 8), ("1600000 100000", 8)],
)
def test_version_2_of_a_container(tmp_path, limit, expected):
    machine = Machine(tmp_path, "0::/")
    machine.write("cpu.max", limit)
    assert machine.available() == expected


def test_version_2_heeds_the_groups_around(tmp_path):
    machine = Machine(tmp_path, "0::/kubepods/pod1/container")
    machine.write("kubepods/pod1/container/cpu.max", "max 100000")
    machine.write("kubepods/pod1/cpu.max", "300000 100000")
    assert machine.available() == 3


@pytest.mark.parametrize("mount", ["cpu", "cpu,cpuacct"])
def test_version_1_of_a_host(tmp_path, mount):
    machine = Machine(tmp_path, "5:memory:/docker/1", f"4:{mount}:/docker/1", "0::/")
    machine.write(f"{mount}/docker/1/cpu.cfs_quota_us", "300000")
    machine.write(f"{mount}/docker/1/cpu.cfs_period_us", "100000")
    machine.write(f"{mount}/cpu.cfs_quota_us", "-1")
    machine.write(f"{mount}/cpu.cfs_period_us", "100000")
    assert machine.available() == 3


def test_version_1_of_a_container_that_sees_the_path_on_its_host(tmp_path):
    machine = Machine(tmp_path, "4:cpu,cpuacct:/docker/1")
    machine.write("cpu,cpuacct/cpu.cfs_quota_us", "200000")
    machine.write("cpu,cpuacct/cpu.cfs_period_us", "100000")
    assert machine.available() == 2


def test_version_2_beside_version_1(tmp_path):
    machine = Machine(tmp_path, "1:cpu:/", "0::/")
    machine.write("unified/cpu.max", "200000 100000")
    assert machine.available() == 2


def test_the_affinity_counts_where_it_is_smaller(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {3, 5})
    machine = Machine(tmp_path, "0::/")
    machine.write("cpu.max", "400000 100000")
    assert machine.available() == 2


@pytest.mark.parametrize(("replicas", "expected"), [(1, 8), (2, 4), (3, 2), (16, 1)])
def test_replicas_of_a_host_divide_its_cores(monkeypatch, replicas, expected):
    monkeypatch.setattr(cores, "available", lambda: 8)
    assert cores.share(replicas) == expected
