"""The manifests: each is valid by itself and after its overlay, and all of them fit together and to the image."""

import ipaddress
import json
import re
import shutil
import subprocess
from copy import deepcopy
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from demo.service import ROOT
from executor.errors import DocumentError
from executor.pictures.addresses import AddressPolicy
from executor.settings import ENV_PREFIX, Settings

MANIFESTS = ROOT / "deploy" / "kubernetes"
DOCKERFILE = (ROOT / "Dockerfile").read_text()
OVERLAYS = ["gpu", "cpu"]
VERSIONS = ["1.25", "1.29", "1.33", "1.37"]
"""Of Kubernetes. gRPC probes came with 1.24; the schemas of neighbours hardly differ, and take long to read."""
MERGE_KEYS = ("name", "containerPort", "mountPath")
"""Of lists whose entries a patch changes one by one; every other list it replaces."""


def documents(file: Path) -> list[dict[str, Any]]:
    return [document for document in yaml.safe_load_all(file.read_text()) if document]


def kustomization(folder: Path) -> dict[str, Any]:
    return documents(folder / "kustomization.yaml")[0]


def identity(manifest: dict[str, Any]) -> tuple[str, str]:
    return manifest["kind"], manifest["metadata"]["name"]


def objects(folder: Path) -> dict[tuple[str, str], dict[str, Any]]:
    """What `kubectl kustomize` makes of a folder, by kind and name, less its namespaces."""
    wanted = kustomization(folder)
    found: dict[tuple[str, str], dict[str, Any]] = {}
    for resource in wanted["resources"]:
        path = folder / resource
        more = objects(path) if path.is_dir() else {identity(one): one for one in documents(path)}
        assert not found.keys() & more.keys()
        found |= more
    for patch in patches(folder):
        found[identity(patch)] = merge(found[identity(patch)], patch)
    for image in wanted.get("images", []):
        for container in found["Deployment", "blip2"]["spec"]["template"]["spec"]["containers"]:
            if container["image"] == image["name"]:
                container["image"] = f"{image['newName']}:{image['newTag']}"
    return found


def patches(folder: Path) -> list[dict[str, Any]]:
    return [patch for entry in kustomization(folder).get("patches", []) for patch in documents(folder / entry["path"])]


def merge(base: Any, patch: Any) -> Any:
    """A strategic merge, as far as the overlays need it."""
    if isinstance(base, dict) and isinstance(patch, dict):
        return base | {key: merge(base[key], value) if key in base else value for key, value in patch.items()}
    key = merge_key(base, patch)
    if key is None:
        return patch
    merged = {entry[key]: entry for entry in base}
    for entry in patch:
        merged[entry[key]] = merge(merged.get(entry[key], {}), entry)
    return list(merged.values())


def merge_key(base: Any, patch: Any) -> str | None:
    if not isinstance(base, list) or not isinstance(patch, list):
        return None
    entries = [*base, *patch]
    return next((key for key in MERGE_KEYS if all(isinstance(one, dict) and key in one for one in entries)), None)


@pytest.fixture(params=OVERLAYS)
def merged(request: pytest.FixtureRequest) -> dict[tuple[str, str], dict[str, Any]]:
    """Objects of an overlay."""
    return objects(MANIFESTS / request.param)


@pytest.fixture
def pod(merged: dict[tuple[str, str], dict[str, Any]]) -> dict[str, Any]:
    return pod_of(merged["Deployment", "blip2"])


def pod_of(workload: dict[str, Any]) -> dict[str, Any]:
    pod: dict[str, Any] = workload["spec"]["template"]["spec"]
    return pod


def environment(pod: dict[str, Any]) -> dict[str, str]:
    return {variable["name"]: variable["value"] for variable in pod["containers"][0]["env"]}


JOB = documents(MANIFESTS / "prepare-job.yaml")[0]


def named(manifest: dict[str, Any]) -> str:
    return "/".join(identity(manifest))


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("manifest", [*objects(MANIFESTS / "base").values(), JOB], ids=named)
def test_every_manifest_is_valid(manifest, version):
    kubernetes_validate.validate(manifest, version, strict=True)


@pytest.mark.parametrize("version", VERSIONS)
def test_every_overlay_is_valid(merged, version):
    for manifest in merged.values():
        kubernetes_validate.validate(manifest, version, strict=True)


def test_a_mistake_is_not_valid():
    manifest = deepcopy(objects(MANIFESTS / "base")["Deployment", "blip2"])
    manifest["spec"]["template"]["spec"]["containers"][0]["readinessProbes"] = {}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(manifest, VERSIONS[-1], strict=True)


@pytest.mark.parametrize("folder", ["base", *OVERLAYS])
def test_every_file_is_used(folder):
    used = kustomization(MANIFESTS / folder)
    files = {*used["resources"], *(patch["path"] for patch in used.get("patches", []))} - {"../base"}
    assert {file.name for file in (MANIFESTS / folder).iterdir()} == files | {"kustomization.yaml"}


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_every_patch_names_an_object_and_a_container_of_the_base(overlay):
    base = objects(MANIFESTS / "base")
    assert patches(MANIFESTS / overlay)
    for patch in patches(MANIFESTS / overlay):
        assert identity(patch) in base
        names = [container["name"] for container in pod_of(base[identity(patch)])["containers"]]
        assert [container["name"] for container in pod_of(patch)["containers"]] == names


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_kubectl_merges_as_these_tests_do(overlay):
    kubectl = shutil.which("kubectl")
    if kubectl is None:
        pytest.skip("there is no kubectl on this machine")
    built = subprocess.run(
        [kubectl, "kustomize", str(MANIFESTS / overlay)], capture_output=True, text=True, timeout=60, check=True
    )
    theirs = {identity(manifest): manifest for manifest in yaml.safe_load_all(built.stdout)}
    for manifest in theirs.values():
        assert manifest["metadata"].pop("namespace", "blip2") == "blip2"
    assert unordered(theirs) == unordered(objects(MANIFESTS / overlay))


def unordered(value: Any) -> Any:
    """Lists of maps in an order that depends on them alone."""
    if isinstance(value, dict):
        return {key: unordered(one) for key, one in value.items()}
    if isinstance(value, list) and all(isinstance(one, dict) for one in value):
        return sorted((unordered(one) for one in value), key=lambda one: json.dumps(one, sort_keys=True))
    return value


def test_selectors_select_the_pods(merged):
    deployment = merged["Deployment", "blip2"]
    labels = deployment["spec"]["template"]["metadata"]["labels"].items()
    selectors = [
        deployment["spec"]["selector"]["matchLabels"],
        merged["Service", "blip2"]["spec"]["selector"],
        merged["NetworkPolicy", "blip2"]["spec"]["podSelector"]["matchLabels"],
        merged["PodDisruptionBudget", "blip2"]["spec"]["selector"]["matchLabels"],
        *(spread["labelSelector"]["matchLabels"] for spread in pod_of(deployment)["topologySpreadConstraints"]),
    ]
    for selector in selectors:
        assert selector
        assert selector.items() <= labels
    assert (
        not deployment["spec"]["selector"]["matchLabels"].items()
        <= JOB["spec"]["template"]["metadata"]["labels"].items()
    ), "the job's pod would be one of the service's"


def test_the_autoscaler_scales_the_deployment_and_alone(merged):
    target = merged["HorizontalPodAutoscaler", "blip2"]["spec"]["scaleTargetRef"]
    deployment = merged[target["kind"], target["name"]]
    assert target["apiVersion"] == deployment["apiVersion"]
    assert "replicas" not in deployment["spec"]


def test_every_variable_is_a_setting_with_a_valid_value(pod, monkeypatch):
    for name, value in environment(pod).items():
        monkeypatch.setenv(name, value)
    assert [name for name in environment(pod) if name.startswith(ENV_PREFIX)]
    assert Settings.unknown_environment() == []
    Settings.resolve({})
    assert pod["enableServiceLinks"] is False


def test_a_commented_variable_is_a_setting_too():
    known = {f"{ENV_PREFIX}{name.upper()}" for name in Settings.model_fields}
    for file in MANIFESTS.rglob("*.yaml"):
        assert set(re.findall(rf"\b{ENV_PREFIX}[A-Z_]*[A-Z]\b", file.read_text())) <= known, file


def test_ports_agree(merged, pod):
    (container,) = pod["containers"]
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    entrypoint = json.loads(re.findall(r"^ENTRYPOINT (.*)$", DOCKERFILE, re.MULTILINE)[0])
    assert str(ports["grpc"]) == entrypoint[entrypoint.index("--port") + 1]
    assert str(ports["health"]) == environment(pod)["BLIP2_HEALTH_PORT"]
    assert str(ports["metrics"]) == environment(pod)["BLIP2_METRICS_PORT"]
    assert ports.keys() == {"grpc", "health", "metrics"}
    assert len(set(ports.values())) == 3
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        assert container[probe]["grpc"]["port"] == ports["health"]
    service = merged["Service", "blip2"]["spec"]
    assert service["clusterIP"] == "None"
    assert [(port["targetPort"], port["port"]) for port in service["ports"]] == [("grpc", ports["grpc"])]
    everybody, prometheus = merged["NetworkPolicy", "blip2"]["spec"]["ingress"]
    assert everybody == {"ports": [{"protocol": "TCP", "port": ports["grpc"]}]}
    assert prometheus["ports"] == [{"protocol": "TCP", "port": ports["metrics"]}]
    assert prometheus["from"]


def test_there_is_time_to_drain_before_the_kill(pod):
    (container,) = pod["containers"]
    sleep, seconds = container["lifecycle"]["preStop"]["exec"]["command"]
    assert sleep == "sleep"
    drain_s = float(environment(pod)["BLIP2_DRAIN_TIMEOUT_S"])
    assert pod["terminationGracePeriodSeconds"] >= int(seconds) + drain_s + 5
    # A pod is out of DNS before it refuses.
    assert int(seconds) >= container["readinessProbe"]["periodSeconds"]


def is_below(path: str, mounts: dict[str, dict[str, Any]]) -> bool:
    return any(path == mount or path.startswith(f"{mount}/") for mount in mounts)


@pytest.mark.parametrize(
    "manifest", [*(objects(MANIFESTS / overlay)["Deployment", "blip2"] for overlay in OVERLAYS), JOB]
)
def test_volumes_are_there_and_whatever_the_image_writes_is_on_one(manifest):
    pod = pod_of(manifest)
    (container,) = pod["containers"]
    mounts = {mount["mountPath"]: mount for mount in container["volumeMounts"]}
    assert {mount["name"] for mount in mounts.values()} == {volume["name"] for volume in pod["volumes"]}
    claims = {name for kind, name in objects(MANIFESTS / "base") if kind == "PersistentVolumeClaim"}
    assert {v["persistentVolumeClaim"]["claimName"] for v in pod["volumes"] if "persistentVolumeClaim" in v} == claims
    writable = {path: mount for path, mount in mounts.items() if not mount.get("readOnly")}
    of_image = dict(re.findall(r"^(?:ENV)?\s+(HOME|HF_HOME)=(\S+)", DOCKERFILE, re.MULTILINE))
    assert of_image.keys() == {"HOME", "HF_HOME"}
    for path in (of_image | environment(pod)).items():
        if path[0] in of_image:
            assert is_below(path[1], writable), path
    assert "/tmp" in writable


def test_tokens_come_from_a_secret_that_is_mounted_as_a_directory(pod):
    (container,) = pod["containers"]
    file = Path(environment(pod)["BLIP2_AUTH_TOKENS_FILE"])
    (mount,) = (mount for mount in container["volumeMounts"] if mount["mountPath"] == str(file.parent))
    assert mount["readOnly"]
    assert "subPath" not in mount
    (volume,) = (volume for volume in pod["volumes"] if volume["name"] == mount["name"])
    assert volume["secret"].get("optional", False) is False
    told = re.findall(
        r"create secret generic (\S+) --from-literal=(\S+?)=", (MANIFESTS / "base/deployment.yaml").read_text()
    )
    assert told == [(volume["secret"]["secretName"], file.name)]


@pytest.mark.parametrize(
    "manifest", [*(objects(MANIFESTS / overlay)["Deployment", "blip2"] for overlay in OVERLAYS), JOB]
)
def test_pods_are_restricted(manifest):
    """The standard `restricted` (kubernetes.io/docs/concepts/security/pod-security-standards), and a read-only root."""
    pod = pod_of(manifest)
    user = re.findall(r"^USER (\d+):(\d+)$", DOCKERFILE, re.MULTILINE)[0]
    security = pod["securityContext"]
    assert (str(security["runAsUser"]), str(security["runAsGroup"])) == user
    assert security["runAsNonRoot"] is True
    assert security["seccompProfile"] == {"type": "RuntimeDefault"}
    assert pod["automountServiceAccountToken"] is False
    assert not pod.keys() & {"hostNetwork", "hostPID", "hostIPC"}
    for volume in pod["volumes"]:
        assert volume.keys() - {"name"} <= {"emptyDir", "persistentVolumeClaim", "secret"}
    for container in pod["containers"]:
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
        assert not any("hostPort" in port for port in container.get("ports", []))


def test_the_job_prepares_on_the_volume_that_the_service_reads(merged):
    from executor.__main__ import _parse

    (container,) = pod_of(JOB)["containers"]
    assert container["command"][:3] == ["python", "-m", "executor"]
    options = _parse([*container["command"][3:], *container["args"]])
    assert str(options.output.parent) in [mount["mountPath"] for mount in container["volumeMounts"]]
    assert f"value: {options.output}" in (MANIFESTS / "gpu/deployment.yaml").read_text()
    image = pod_of(objects(MANIFESTS / "gpu")["Deployment", "blip2"])["containers"][0]["image"]
    assert container["image"] == image
    assert JOB["metadata"]["namespace"] == kustomization(MANIFESTS / "base")["namespace"]


def test_the_gpu_overlay_asks_for_one_gpu_and_the_other_for_none():
    limits = {
        name: pod_of(objects(MANIFESTS / name)["Deployment", "blip2"])["containers"][0]["resources"]["limits"]
        for name in OVERLAYS
    }
    assert limits["gpu"]["nvidia.com/gpu"] == "1"
    assert "nvidia.com/gpu" not in limits["cpu"]


# fmt: off
ADDRESSES = [
    "0.0.0.0", "10.1.2.3", "100.64.0.1", "127.0.0.1", "169.254.169.254", "172.16.0.1", "172.31.255.255",
    "192.0.0.8", "192.0.2.1", "192.88.99.1", "192.168.1.1", "198.18.0.1", "198.51.100.7", "203.0.113.9",
    "224.0.0.1", "239.1.1.1", "240.0.0.1", "255.255.255.255", "::", "::1", "::ffff:10.0.0.1", "64:ff9b::a00:1",
    "100::1", "2001::1", "2001:2::1", "2001:db8::1", "2002:a00:1::1", "3fff::1", "fc00::1", "fd00::1", "fe80::1",
    "fec0::1", "ff02::1",
]
# fmt: on


def test_egress_is_closed_wherever_the_service_itself_would_not_fetch(merged):
    dns, pictures = merged["NetworkPolicy", "blip2"]["spec"]["egress"]
    assert merged["NetworkPolicy", "blip2"]["spec"]["policyTypes"] == ["Ingress", "Egress"]
    assert {port["port"] for port in dns["ports"]} == {53}
    assert all("ipBlock" not in peer for peer in dns["to"])
    assert {port["port"] for port in pictures["ports"]} == {80, 443}
    blocks = [peer["ipBlock"] for peer in pictures["to"]]

    def is_open(address: str) -> bool:
        parsed = ipaddress.ip_address(address)
        networks = [(ipaddress.ip_network(b["cidr"]), map(ipaddress.ip_network, b["except"])) for b in blocks]
        return any(parsed in network and not any(parsed in closed for closed in but) for network, but in networks)

    for address in ADDRESSES:
        with pytest.raises(DocumentError):
            AddressPolicy().check_address("pictures.example", 443, address)
        assert not is_open(address), address
    for address in ("8.8.8.8", "172.32.0.1", "11.0.0.1", "2606:4700::1111", "2a00:1450::1"):
        AddressPolicy().check_address("pictures.example", 443, address)
        assert is_open(address), address
    for block in blocks:  # Kubernetes refuses exceptions outside of their block
        for closed in block["except"]:
            assert ipaddress.ip_network(closed).subnet_of(ipaddress.ip_network(block["cidr"]))  # type: ignore[arg-type]
