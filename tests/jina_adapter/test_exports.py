"""What docs/containers.md says about Jina's exports, which would be wrong there after a change in Jina."""

import socket
from pathlib import Path
from typing import Any

import pytest
import yaml
from jina import Deployment, Flow
from jina.excepts import NoContainerizedError

from demo.service import ROOT

IMAGE = "docker://blip2-executor"


@pytest.fixture(autouse=True)
def asked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names that are looked up, in vain."""
    names: list[str] = []

    def refuse(host: str, *_: object, **__: object) -> None:
        names.append(host)
        raise socket.gaierror("no network")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setenv("JINA_GATEWAY_IMAGE", "blip2-executor")
    return names


def compose(folder: Path, **options: Any) -> dict[str, dict[str, Any]]:
    """Name -> service."""
    file = folder / "docker-compose.yml"
    Flow(port=54321).add(uses=IMAGE, name="blip2", gpus="all", **options).to_docker_compose_yaml(str(file))
    services: dict[str, dict[str, Any]] = yaml.safe_load(file.read_text())["services"]
    return services


def test_kubernetes(tmp_path):
    Deployment(uses=IMAGE, name="blip2", gpus="all").to_kubernetes_yaml(str(tmp_path))
    objects = {one["kind"]: one for one in yaml.safe_load_all((tmp_path / "blip2.yml").read_text())}
    pod = objects["Deployment"]["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    assert (container["image"], container["command"]) == ("blip2-executor", ["jina"])
    assert container["args"][container["args"].index("--uses") + 1] == "config.yml"
    assert "--native" in container["args"]
    assert not {"resources", "securityContext", "volumeMounts", "readinessProbe"} & container.keys()  # nor a GPU
    assert not {"securityContext", "volumes", "terminationGracePeriodSeconds"} & pod.keys()
    assert container["livenessProbe"]["exec"]["command"][:2] == ["jina", "ping"]
    assert container["lifecycle"]["preStop"]["exec"]["command"][-1] == "sleep 2"
    assert [port["port"] for port in objects["Service"]["spec"]["ports"]] == [8080]


def test_compose(tmp_path, asked):
    services = compose(tmp_path, disable_auto_volume=True)
    assert services.keys() == {"blip2", "gateway"}
    assert services["gateway"]["ports"] == ["54321:54321"]
    (device,) = services["blip2"]["deploy"]["resources"]["reservations"]["devices"]
    assert device["capabilities"] == ["gpu"]
    for service in services.values():
        assert service["healthcheck"]["test"].startswith("jina ping ")
        assert not {"volumes", "restart", "stop_grace_period", "read_only", "user", "mem_limit"} & service.keys()
    assert set(asked) == {"registry.hub.docker.com"}
    (volume,) = compose(tmp_path)["blip2"]["volumes"]
    assert volume.split(":")[1] == "/app"
    assert "WORKDIR /app\n" in (ROOT / "Dockerfile").read_text()


def test_config_yml_itself_is_refused(tmp_path):
    with pytest.raises(NoContainerizedError):
        Deployment(uses=str(ROOT / "config.yml")).to_kubernetes_yaml(str(tmp_path))
