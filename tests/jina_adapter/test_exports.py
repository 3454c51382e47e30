"""What Jina's exports make of the Executor, and what they lack: the table in docs/containers.md, kept true.

They want an image, not config.yml, which the image has: `docker://<image>`. They ask a registry on the internet for a
version, in vain here, and go on; for the image of a gateway they do not where JINA_GATEWAY_IMAGE names one.
"""

import socket
from pathlib import Path
from typing import Any

import pytest
import requests
import yaml
from jina import Deployment, Flow
from jina.excepts import NoContainerizedError

from demo.service import ROOT

CONFIG = str(ROOT / "config.yml")
IMAGE = "docker://blip2-executor:0.1.0"


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names that are looked up, in vain."""
    asked: list[str] = []

    def refuse(host: str, *_: object, **__: object) -> None:
        asked.append(host)
        raise socket.gaierror("no network")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setenv("JINA_GATEWAY_IMAGE", "blip2-executor:0.1.0")
    return asked


@pytest.fixture
def kubernetes(tmp_path: Path) -> dict[str, dict[str, Any]]:
    """Kind -> object."""
    Deployment(uses=IMAGE, name="blip2", gpus="all", env={"BLIP2_DTYPE": "bfloat16"}).to_kubernetes_yaml(str(tmp_path))
    return {one["kind"]: one for one in yaml.safe_load_all(Path(tmp_path, "blip2.yml").read_text())}


@pytest.fixture
def pod(kubernetes: dict[str, dict[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = kubernetes["Deployment"]["spec"]["template"]["spec"]
    return found


def compose(folder: Path, **options: Any) -> dict[str, dict[str, Any]]:
    """Name -> service."""
    file = folder / "docker-compose.yml"
    Flow(port=54321).add(uses=IMAGE, name="blip2", gpus="all", **options).to_docker_compose_yaml(str(file))
    services: dict[str, dict[str, Any]] = yaml.safe_load(file.read_text())["services"]
    return services


def test_config_yml_itself_is_refused(tmp_path):
    with pytest.raises(NoContainerizedError):
        Deployment(uses=CONFIG).to_kubernetes_yaml(str(tmp_path))
    with pytest.raises(NoContainerizedError):
        Flow().add(uses=CONFIG).to_docker_compose_yaml(str(tmp_path / "docker-compose.yml"))


def test_an_export_asks_a_registry_for_a_version(tmp_path, offline):
    compose(tmp_path)
    assert set(offline) == {"registry.hub.docker.com"}


def test_kubernetes_gets_the_image_its_config_yml_and_the_environment(kubernetes, pod):
    assert kubernetes.keys() == {"ConfigMap", "Service", "Deployment"}
    (container,) = pod["containers"]
    assert (container["image"], container["command"]) == ("blip2-executor:0.1.0", ["jina"])
    assert container["args"][container["args"].index("--uses") + 1] == "config.yml"
    assert kubernetes["ConfigMap"]["data"]["BLIP2_DTYPE"] == "bfloat16"


def test_kubernetes_lacks_a_gpu_limits_and_security(pod):
    (container,) = pod["containers"]
    assert "--gpus" in container["args"]
    assert not {"resources", "securityContext", "volumeMounts"} & container.keys()
    assert not {"securityContext", "volumes", "enableServiceLinks", "automountServiceAccountToken"} & pod.keys()


def test_kubernetes_probes_with_jina_ping_and_not_for_readiness(pod):
    (container,) = pod["containers"]
    assert "readinessProbe" not in container
    for probe in ("startupProbe", "livenessProbe"):
        assert container[probe]["exec"]["command"][:2] == ["jina", "ping"]
    startup = container["startupProbe"]
    assert startup["failureThreshold"] * startup["periodSeconds"] == 600


def test_kubernetes_has_two_seconds_before_sigterm_the_default_grace_and_another_port(kubernetes, pod):
    (container,) = pod["containers"]
    assert container["lifecycle"]["preStop"]["exec"]["command"][-1] == "sleep 2"
    assert "terminationGracePeriodSeconds" not in pod
    assert [port["port"] for port in kubernetes["Service"]["spec"]["ports"]] == [8080]
    assert kubernetes["Service"]["spec"]["type"] == "ClusterIP"
    assert kubernetes["Service"]["spec"].get("clusterIP") != "None"


def test_compose_has_the_gpu_and_a_gateway_on_the_port(tmp_path):
    services = compose(tmp_path)
    assert services.keys() == {"blip2", "gateway"}
    (device,) = services["blip2"]["deploy"]["resources"]["reservations"]["devices"]
    assert device["capabilities"] == ["gpu"]
    assert (services["gateway"]["image"], services["gateway"]["ports"]) == ("blip2-executor:0.1.0", ["54321:54321"])


def test_compose_hides_the_images_code_below_a_volume_unless_told_not_to(tmp_path):
    (volume,) = compose(tmp_path)["blip2"]["volumes"]
    assert volume.split(":")[1] == "/app"
    assert "WORKDIR /app\n" in (ROOT / "Dockerfile").read_text()
    assert "volumes" not in compose(tmp_path, disable_auto_volume=True)["blip2"]


def test_compose_pings_and_lacks_restarts_grace_and_security(tmp_path):
    for service in compose(tmp_path, disable_auto_volume=True).values():
        assert service["healthcheck"]["test"].startswith("jina ping ")
        assert not {"restart", "stop_grace_period", "read_only", "user", "cap_drop", "mem_limit"} & service.keys()


def test_a_gateways_image_is_asked_for_at_jinas_hub_unless_it_is_named(tmp_path, offline, monkeypatch):
    monkeypatch.delenv("JINA_GATEWAY_IMAGE")
    with pytest.raises(requests.exceptions.ConnectionError):
        compose(tmp_path)
    assert "api.hubble.jina.ai" in offline
