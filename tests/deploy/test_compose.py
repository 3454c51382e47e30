"""deploy/compose.yaml: Compose reads it, its parts fit together, and the service is as confined as on Kubernetes."""

import json
import re
import shlex
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from demo.service import ROOT
from executor.settings import ENV_PREFIX, Settings
from tests.deploy.test_deploy import promtool
from tests.deploy.test_kubernetes import MANIFESTS, environment, objects, pod_of

DEPLOY = ROOT / "deploy"
DOCKERFILE = (ROOT / "Dockerfile").read_text()


def read(name: str) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((DEPLOY / name).read_text())
    return found


COMPOSE = read("compose.yaml")
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
EXECUTOR = SERVICES["executor"]
GPU = read("compose.gpu.yaml")["services"]["executor"]
PROMETHEUS = read("prometheus.yml")


def mounts(service: str) -> dict[str, str]:
    """Place in the container -> file below deploy/, or volume."""
    return {place: source for source, place, *_ in (entry.split(":") for entry in SERVICES[service]["volumes"])}


def seconds(duration: str) -> int:
    number, unit = re.fullmatch(r"(\d+)([sm])", duration).groups()  # type: ignore[union-attr]
    return int(number) * {"s": 1, "m": 60}[unit]


@pytest.mark.parametrize("files", [["compose.yaml"], ["compose.yaml", "compose.gpu.yaml"]], ids=["cpu", "gpu"])
def test_compose_reads_it(files, monkeypatch):
    command = shutil.which("docker-compose")
    if command is None:
        pytest.skip("docker-compose is not installed (Debian's package of that name needs no Docker for this)")
    monkeypatch.delenv("BLIP2_AUTH_TOKENS", raising=False)
    chosen = [argument for file in files for argument in ("-f", str(DEPLOY / file))]
    arguments = [command, *chosen, "config"]
    finished = subprocess.run(arguments, capture_output=True, text=True, timeout=60, check=False)
    assert finished.returncode == 0, finished.stderr
    executor = yaml.safe_load(finished.stdout)["services"]["executor"]
    assert executor["build"]["context"] == str(ROOT)
    assert executor["environment"]["BLIP2_DEVICE"] == ("cuda" if "compose.gpu.yaml" in files else "cpu")
    assert ("deploy" in executor) == ("compose.gpu.yaml" in files)
    assert executor["read_only"] is True


def test_whatever_a_service_refers_to_is_there():
    for name, service in SERVICES.items():
        assert set(service["networks"]) <= COMPOSE["networks"].keys()
        assert set(service.get("depends_on", [])) <= SERVICES.keys()
        for source in mounts(name).values():
            assert (DEPLOY / source).is_file() if source.startswith(".") else source in COMPOSE["volumes"]
    assert (DEPLOY / EXECUTOR["build"]["context"] / "Dockerfile").samefile(ROOT / "Dockerfile")
    for argument in EXECUTOR["build"]["args"] | GPU["build"]["args"]:
        assert re.search(rf"^ARG {argument}=", DOCKERFILE, re.MULTILINE), argument
    assert (ROOT / EXECUTOR["build"]["args"]["CHECKPOINT"] / "config.json").is_file()


def test_on_a_gpu_the_image_is_what_the_dockerfile_makes_by_default():
    defaults = dict(re.findall(r'^ARG (\w+)="?(.*?)"?$', DOCKERFILE, re.MULTILINE))
    assert GPU["build"]["args"] == {name: defaults[name] for name in EXECUTOR["build"]["args"]}
    (device,) = GPU["deploy"]["resources"]["reservations"]["devices"]
    assert (device["driver"], device["count"], device["capabilities"]) == ("nvidia", 1, ["gpu"])


def test_images_of_others_have_exact_versions():
    images = [service["image"] for service in SERVICES.values() if "build" not in service]
    assert len(images) == 2
    for image in images:
        assert re.search(r":v?\d+\.\d+\.\d+$", image)


@pytest.mark.parametrize("service", [EXECUTOR, GPU], ids=["cpu", "gpu"])
def test_settings_are_known(service):
    for name in service["environment"]:
        assert name.removeprefix(ENV_PREFIX).lower() in Settings.model_fields, name


@pytest.mark.parametrize("overlay", ["cpu", "gpu"])
def test_the_service_is_as_confined_as_on_kubernetes(overlay):
    pod = pod_of(objects(MANIFESTS / overlay)["Deployment", "blip2"])
    container = pod["containers"][0]
    assert EXECUTOR["user"] == f"{pod['securityContext']['runAsUser']}:{pod['securityContext']['runAsGroup']}"
    assert EXECUTOR["read_only"] is container["securityContext"]["readOnlyRootFilesystem"]
    assert EXECUTOR["cap_drop"] == container["securityContext"]["capabilities"]["drop"]
    assert EXECUTOR["security_opt"] == ["no-new-privileges:true"]
    writable = {mount["mountPath"] for mount in container["volumeMounts"] if not mount.get("readOnly")}
    assert {place.split(":")[0] for place in EXECUTOR["tmpfs"]} | mounts("executor").keys() == writable
    ours = EXECUTOR if overlay == "cpu" else EXECUTOR | GPU
    assert ours["mem_limit"].removesuffix("g") == container["resources"]["limits"]["memory"].removesuffix("Gi")
    theirs = environment(pod)
    variables = EXECUTOR["environment"] | (GPU["environment"] if overlay == "gpu" else {})
    # Here tokens come from the environment, or there are none: see the ports.
    assert variables.pop("BLIP2_AUTH_TOKENS") is None
    assert {name: theirs.get(name) for name in variables} == variables


def test_it_has_time_to_drain_and_the_health_check_of_the_image():
    assert seconds(EXECUTOR["stop_grace_period"]) >= int(EXECUTOR["environment"]["BLIP2_DRAIN_TIMEOUT_S"]) + 5
    check = re.search(r"^HEALTHCHECK (.*?) *\\\n *CMD (.*)$", DOCKERFILE, re.MULTILINE)
    assert check
    health = EXECUTOR["healthcheck"]
    assert health["test"] == ["CMD", *json.loads(check[2])]
    options = dict(option.removeprefix("--").split("=") for option in shlex.split(check[1]))
    assert {name.replace("-", "_"): value for name, value in options.items()} == {
        name: str(value) for name, value in health.items() if name != "test"
    }


def test_only_clients_reach_the_service_from_outside_and_only_over_loopback():
    published = {name: service["ports"] for name, service in SERVICES.items() if "ports" in service}
    port = re.search(r'"--port", "(\d+)"', DOCKERFILE)
    assert port
    assert published == {"executor": [f"127.0.0.1:{port[1]}:{port[1]}"], "grafana": ["127.0.0.1:3000:3000"]}
    assert COMPOSE["networks"]["metrics"]["internal"] is True
    assert SERVICES["prometheus"]["networks"] == ["metrics"]
    shared = {name: set(service["networks"]) - {"metrics"} for name, service in SERVICES.items()}
    assert not shared["executor"] & shared["grafana"]


def test_prometheus_finds_the_service_and_the_alerts():
    (job,) = PROMETHEUS["scrape_configs"]
    assert job["job_name"] == "blip2"
    assert job["static_configs"] == [{"targets": [f"executor:{EXECUTOR['environment']['BLIP2_METRICS_PORT']}"]}]
    assert "metrics" in EXECUTOR["networks"]
    assert mounts("prometheus")["/etc/prometheus/prometheus.yml"] == "./prometheus.yml"
    assert [mounts("prometheus")[file] for file in PROMETHEUS["rule_files"]] == ["./alerts.yml"]
    promtool("check", "config", "--syntax-only", str(DEPLOY / "prometheus.yml"))


def test_grafana_finds_prometheus_and_the_dashboard():
    provisioning = "/etc/grafana/provisioning"
    files = mounts("grafana")
    assert files[f"{provisioning}/datasources/blip2.yml"] == "./grafana/datasources.yml"
    assert files[f"{provisioning}/dashboards/blip2.yml"] == "./grafana/dashboards.yml"
    (source,) = read("grafana/datasources.yml")["datasources"]
    assert source["url"] == "http://prometheus:9090"
    assert set(SERVICES["prometheus"]["networks"]) & set(SERVICES["grafana"]["networks"])
    assert source["jsonData"]["timeInterval"] == PROMETHEUS["global"]["scrape_interval"]
    variables = json.loads((DEPLOY / "dashboard.json").read_text())["templating"]["list"]
    assert [one["query"] for one in variables if one["type"] == "datasource"] == [source["type"]]
    (provider,) = read("grafana/dashboards.yml")["providers"]
    shown = SERVICES["grafana"]["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"]
    assert files[shown] == "./dashboard.json"
    assert Path(provider["options"]["path"]) == Path(shown).parent
