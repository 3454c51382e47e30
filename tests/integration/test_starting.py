"""Every way to start the service starts the same service, and every mistake at start says what it is."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest
from docarray import DocList
from jina import Client, Deployment, Flow

from demo.service import CHECKPOINT, ROOT, SERVE, Service, free_port
from executor import Blip2Executor, ImagePrompt, Response
from tests.support.starting import Finished, start_and_fail

CONFIG = str(ROOT / "config.yml")


def ask(port: int, picture: bytes) -> str:
    prompt = ImagePrompt(img_bytes=picture, prompt="how many cats are there?")
    return str(Client(port=port).post(on="/", inputs=prompt, return_type=DocList[Response])[0].answer)


@pytest.mark.parametrize(
    "start",
    [
        lambda port: Deployment(uses=CONFIG, port=port),
        lambda port: Deployment(uses=Blip2Executor, port=port),
        lambda port: Deployment(uses=CONFIG, port=port, include_gateway=False),
        lambda port: Flow(port=port).add(uses=CONFIG),
    ],
    ids=["config.yml", "class", "without gateway", "flow"],
)
@pytest.mark.forks
@pytest.mark.usefixtures("demo_environment")
def test_python_starts_the_service(start: Callable[[int], AbstractContextManager[object]], two_cats):
    port = free_port()
    with start(port):
        assert ask(port, two_cats) == "two"


@pytest.mark.forks
def test_uses_with_and_uses_dynamic_batching_override_config_yml(two_cats, monkeypatch):
    monkeypatch.delenv("BLIP2_MODEL", raising=False)
    port = free_port()
    with Deployment(
        uses=CONFIG,
        uses_with={"model": str(CHECKPOINT), "max_new_tokens": 1},
        uses_dynamic_batching={"/default": {"preferred_batch_size": 2}},
        port=port,
    ):
        client = Client(port=port)
        prompts = DocList[ImagePrompt](
            [ImagePrompt(img_bytes=two_cats, prompt=text) for text in ("a photo of", "how many cats are there?")] * 3
        )
        answers = [response.answer for response in client.post("/", inputs=prompts, return_type=DocList[Response])]
    assert answers == ["two", "two"] * 3


def test_python_dash_m_starts_the_service_and_sigterm_ends_it_with_status_0(tmp_path, two_cats):
    with Service(log=tmp_path / "log") as service:
        assert ask(service.port, two_cats) == "two"
        group = service.process.pid
        assert Path(f"/proc/{group}/task/{group}/children").read_text().split() == []  # it is one process
        assert service.stop() == 0
    with pytest.raises(ProcessLookupError):
        os.killpg(group, 0)


def test_the_jina_command_line_starts_the_service_from_anywhere(tmp_path, two_cats, monkeypatch):
    monkeypatch.chdir(tmp_path)
    jina = Path(sys.executable).with_name("jina")
    with Service(log=tmp_path / "log", command=[str(jina), "executor", "--uses", CONFIG]) as service:
        assert ask(service.port, two_cats) == "two"


def test_health_is_told_by_the_check_of_the_container(service):
    command = [sys.executable, "-m", "executor", "health", "--port"]
    assert subprocess.run([*command, str(service.port)], cwd=ROOT, check=False, timeout=60).returncode == 0
    assert subprocess.run([*command, str(free_port())], cwd=ROOT, check=False, timeout=60).returncode == 1


@pytest.mark.parametrize(
    ("settings", "arguments", "message"),
    [
        ({"device": "cuda:99"}, [], "setting 'device' is 'cuda:99', but this machine shows"),
        ({"dtype": "int8"}, [], "setting 'dtype' (from BLIP2_DTYPE) is 'int8'"),
        ({"model": "./nowhere"}, [], "there is no such directory"),
        ({"model": "tests"}, [], "model 'tests' is a directory without config.json"),
        ({"num_beams": "99"}, [], "setting 'num_beams' (from BLIP2_NUM_BEAMS) is '99'"),
        ({}, ["--config", "nowhere.yml"], "there is no configuration file nowhere.yml"),
        # As Kubernetes sets it beside a Service named blip2-health.
        ({"health_port": "tcp://10.0.0.1:80"}, [], "setting 'health_port' (from BLIP2_HEALTH_PORT) is 'tcp://"),
    ],
    ids=["device", "dtype", "model", "no checkpoint", "setting", "config", "health port"],
)
def test_a_mistake_at_start_ends_with_one_clear_line(settings, arguments, message):
    assert_one_clear_line(start_and_fail(*arguments, **settings), message)


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({"BLIP2_MODEL": "tests"}, "model 'tests' is a directory without config.json"),
        ({"HOME": "/proc/nowhere"}, "/proc/nowhere cannot be made"),
    ],
    ids=["no checkpoint", "home"],
)
def test_the_command_ends_with_that_line_and_status_1(environment, message):
    finished = subprocess.run(
        [*SERVE, "--port", str(free_port())],
        cwd=ROOT,
        env=os.environ | {"BLIP2_MODEL": str(CHECKPOINT)} | environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert_one_clear_line(Finished(finished.returncode, finished.stdout, finished.stderr), message)


def assert_one_clear_line(finished: Finished, message: str) -> None:
    assert finished.status == 1
    (said,) = finished.stderr.splitlines()
    assert said.startswith("blip2: cannot start: ")
    assert message in said
    assert "can not load" not in finished.stdout


@pytest.mark.parametrize("unreadable", [".", "config.json", "model.safetensors"])
def test_a_model_that_may_not_be_read_is_said(unreadable, tmp_path):
    model = Path(shutil.copytree(CHECKPOINT, tmp_path / "model"))
    (model / unreadable).chmod(0)
    finished = start_and_fail(before=unprivileged(), model=model)
    (model / unreadable).chmod(0o700)
    (said,) = finished.stderr.splitlines()
    assert said.startswith(f"blip2: cannot start: checkpoint '{model}' cannot be read: Permission denied for ")
    assert said.endswith("the directory" if unreadable == "." else unreadable)


def unprivileged() -> list[str]:
    """In front of a command: root is stopped by permissions as others are."""
    if os.geteuid() != 0:
        return []
    setpriv = shutil.which("setpriv")
    if setpriv is None:
        pytest.skip("root may read everything, and there is no setpriv")
    less = "-dac_override,-dac_read_search"
    return [setpriv, f"--inh-caps={less}", f"--bounding-set={less}"]


def test_a_port_in_use_is_said(service):
    finished = start_and_fail("--port", str(service.port))
    assert f"blip2: cannot start: port {service.port} is in use" in finished.stderr


@pytest.mark.parametrize("name", ["health_port", "metrics_port"])
def test_a_port_that_is_grpcs_is_said_before_the_model_is_loaded(name):
    port = free_port()
    settings: dict[str, Any] = {"model": "nowhere", name: port}
    finished = start_and_fail("--port", str(port), **settings)
    assert finished.stderr == f"blip2: cannot start: {name} {port} is the port of gRPC; choose another\n"


@pytest.mark.parametrize(
    "text",
    [
        *("jtype: [", "", "jtype: NoSuchExecutor", "some text", "- a list", "jtype: Blip2Executor\nwith: some text"),
        *(f"jtype: Blip2Executor\n{section}: 3" for section in ("metas", "requests", "dynamic_batching")),
    ],
    ids=["broken", "empty", "unknown jtype", "text", "list", "with", "metas", "requests", "dynamic_batching"],
)
def test_a_configuration_that_cannot_be_read_is_said(tmp_path, text):
    config = tmp_path / "config.yml"
    config.write_text(text)
    finished = start_and_fail("--config", str(config))
    assert f"blip2: cannot start: {config} cannot be read" in finished.stderr
    assert "Traceback" not in finished.stderr


def test_a_class_of_the_operators_own_is_served_though_it_has_the_same_name(tmp_path):
    (tmp_path / "mine.py").write_text("""
import executor
from executor.errors import StartupError

class Blip2Executor(executor.Blip2Executor):
    def __init__(self, **settings):
        raise StartupError("this one is mine")
""")
    config = tmp_path / "config.yml"
    config.write_text(f"jtype: Blip2Executor\npy_modules: [{tmp_path / 'mine.py'}]\n")
    assert_one_clear_line(start_and_fail("--config", str(config)), "this one is mine")


def test_a_config_yml_that_names_the_package_by_its_path_is_served_as_ours(tmp_path):
    config = tmp_path / "config.yml"
    config.write_text(f"jtype: Blip2Executor\npy_modules: {ROOT / 'executor' / '__init__.py'}\nwith: {{dtype: int8}}\n")
    assert_one_clear_line(start_and_fail("--config", str(config)), "setting 'dtype' is 'int8'")
