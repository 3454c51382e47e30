"""A hardened container answers, and may do nothing else."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from docarray import DocList
from jina import Client

from executor import ImagePrompt, Response
from tests.image.conftest import MODEL
from tests.image.podman import Container, podman

pytestmark = [pytest.mark.image, pytest.mark.timeout(1800)]
QUESTIONS = {
    "how many cats are there?": "two",
    "what colour is the square?": "blue",
    "a photo of": "two cats, a circle, a square and a triangle",
}


def ask(port: int, *prompts: ImagePrompt) -> list[tuple[str, str]]:
    responses = Client(port=port).post(on="/", inputs=DocList[ImagePrompt](prompts), return_type=DocList[Response])
    return [(response.answer, response.error) for response in responses]


def ask_all(port: int, picture: bytes) -> list[tuple[str, str]]:
    return ask(port, *(ImagePrompt(img_bytes=picture, prompt=question) for question in QUESTIONS))


RIGHT = [(answer, "") for answer in QUESTIONS.values()]


def test_it_answers_with_the_checkpoint_mounted(container, two_cats):
    assert ask_all(container.port, two_cats) == RIGHT


def test_it_answers_with_the_checkpoint_baked_in(image_with_checkpoint, two_cats):
    with Container(image_with_checkpoint, "--network=bridge") as running:
        assert ask_all(running.port, two_cats) == RIGHT


def test_a_webp_is_fetched_by_its_url(container, host_port):
    url = f"http://host.containers.internal:{host_port}/two-cats.webp"
    assert ask(container.port, ImagePrompt(img=url, prompt="how many cats are there?")) == [("two", "")]


def test_a_host_that_is_not_allowed_is_not_fetched_from(image, host_port):
    with Container(image, *MODEL) as running:
        url = f"http://host.containers.internal:{host_port}/two-cats.webp"
        ((answer, error),) = ask(running.port, ImagePrompt(img=url, prompt="how many cats are there?"))
    assert answer == ""
    assert error.startswith("ADDRESS_NOT_ALLOWED")


def test_only_models_home_and_tmp_can_be_written(container):
    for folder in ("/models", "/home/blip2", "/tmp"):
        container.run("touch", f"{folder}/written")
    for folder in ("/", "/app", "/opt/venv", "/etc", "/var/tmp", "/models/demo"):
        assert container.run("touch", f"{folder}/written", check=False).returncode != 0


def test_home_can_be_used_and_nothing_complained_of_a_read_only_root(container):
    code = "import pathlib, jina.constants as c; pathlib.Path(c.__cache_path__, 'written').touch()"
    container.run("python", "-c", code)
    assert container.run("printenv", "HOME").stdout.strip() == "/home/blip2"
    assert "Read-only file system" not in container.logs()
    assert "Permission denied" not in container.logs()


def test_it_has_no_rights_and_its_limits_are_in_force(container):
    status = Path(f"/proc/{container.state()['Pid']}/status").read_text()
    fields = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
    assert fields["Uid"].split() == ["1000"] * 4
    assert fields["Gid"].split() == ["1000"] * 4
    assert {int(fields[name], 16) for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")} == {0}
    assert fields["NoNewPrivs"] == "1"
    assert limit(container, "memory", "memory.limit_in_bytes", "memory.max") == 2 * 2**30
    assert limit(container, "pids", "pids.max", "pids.max") == 256


def limit(container: Container, controller: str, name_v1: str, name_v2: str) -> int:
    """A limit of the container's control group, as the kernel has it."""
    for line in Path(f"/proc/{container.state()['Pid']}/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers == controller:
            return int(Path(f"/sys/fs/cgroup/{controller}{path}/{name_v1}").read_text())
        if not controllers and os.path.exists("/sys/fs/cgroup/cgroup.controllers"):
            return int(Path(f"/sys/fs/cgroup{path}/{name_v2}").read_text())
    raise AssertionError(f"no control group for {controller}")


FORK_AND_CLEAN_UP = """
import subprocess
started = []
try:
    while len(started) < 300:
        started.append(subprocess.Popen(["sleep", "600"]))
except BlockingIOError:
    print("stopped at", len(started))
finally:
    for process in started:
        process.kill()
        process.wait()
"""


def test_the_limit_of_processes_holds(container):
    assert "stopped at" in container.run("python", "-c", FORK_AND_CLEAN_UP).stdout
    assert container.is_healthy()


def test_health_is_told_by_its_own_check_and_a_dead_port_is_not_healthy(container):
    assert container.is_healthy()
    dead = ("python", "-m", "executor", "health", "--port", "1")
    assert container.run(*dead, check=False).returncode == 1


def test_a_model_that_is_not_there_ends_the_start_with_one_line(image):
    done = podman("run", "--rm", "--network=none", "--env=BLIP2_MODEL=/models/nothing", image, check=False)
    assert done.returncode == 1
    assert "blip2: cannot start" in done.stderr
    assert "Traceback" not in done.stderr
