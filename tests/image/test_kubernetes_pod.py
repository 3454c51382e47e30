"""The CPU overlay of deploy/kubernetes, as podman runs it: the container is confined as it says, and answers.

Podman 4.3 reads all of the overlay and keeps to user, read-only root, capabilities, seccomp, memory, volumes and ports.
It ignores probes, preStop, the grace period, Namespace, NetworkPolicy, PodDisruptionBudget and autoscaler, and mounts
secrets as the base64 text that they have in a manifest.
"""

import base64
import os
import shutil
import subprocess
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
import yaml
from docarray import DocList
from grpc_health.v1 import health_pb2, health_pb2_grpc
from jina import Client

from demo.service import CHECKPOINT, ROOT, free_port
from executor import ImagePrompt, Response
from tests.image.podman import podman

pytestmark = [pytest.mark.image, pytest.mark.timeout(1800)]
TOKEN = base64.b64encode(b"a-token-of-24-characters").decode()
WAIT_S = 120


class Pod:
    """What podman makes of the overlay: objects with a name of their own, and free ports.

    Args:
        folder: for its files.
        image: of the service, instead of the overlay's.
    """

    def __init__(self, folder: Path, image: str) -> None:
        rendered = subprocess.run(
            ["kubectl", "kustomize", str(ROOT / "deploy" / "kubernetes" / "cpu")], capture_output=True, check=True
        )
        self.manifests: list[dict[str, Any]] = list(yaml.safe_load_all(rendered.stdout))
        self.ports: dict[str, int] = {}
        self.name = f"blip2-test-{os.getpid()}"
        models = folder / "models"
        shutil.copytree(CHECKPOINT, models / "demo")
        self._adapt(models, image)
        self._file = folder / "play.yaml"
        self._file.write_text(yaml.safe_dump_all(self.manifests))

    def _adapt(self, models: Path, image: str) -> None:
        self.manifests = [one for one in self.manifests if one["kind"] != "PersistentVolumeClaim"]
        (deployment,) = (one for one in self.manifests if one["kind"] == "Deployment")
        deployment["metadata"]["name"] = self.name
        pod = deployment["spec"]["template"]["spec"]
        (container,) = pod["containers"]
        container["image"] = image
        container["env"].append({"name": "BLIP2_MODEL", "value": "/models/demo"})
        for port in container["ports"]:
            port["hostPort"] = self.ports[port["name"]] = free_port()
        for volume in pod["volumes"]:
            if volume["name"] == "models":
                volume.pop("persistentVolumeClaim")
                volume["hostPath"] = {"path": str(models), "type": "Directory"}
            if volume["name"] == "tokens":
                volume["secret"] |= {"secretName": self.name, "optional": False}  # podman crashes where it is not said
        # Podman mounts what stands here as it is, where Kubernetes decodes it.
        secret = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": self.name}, "data": {"tokens": TOKEN}}
        self.manifests.insert(0, secret)

    @property
    def container(self) -> str:
        return f"{self.name}-pod-0-blip2"

    def __enter__(self) -> "Pod":
        try:
            podman("play", "kube", str(self._file))
            wait_until(self.is_serving, lambda: podman("logs", self.container, check=False).stdout)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        podman("pod", "rm", "--force", f"{self.name}-pod-0", check=False)
        podman("secret", "rm", self.name, check=False)

    def is_serving(self) -> bool:
        with grpc.insecure_channel(f"127.0.0.1:{self.ports['health']}") as channel:
            try:
                reply = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=5)
            except grpc.RpcError:
                return False
        return bool(reply.status == health_pb2.HealthCheckResponse.SERVING)

    def inspect(self, template: str) -> str:
        return podman("inspect", self.container, "--format", template).stdout.strip()

    def shell(self, script: str) -> str:
        return podman("exec", self.container, "sh", "-c", script).stdout


def wait_until(condition: Callable[[], bool], explain: Callable[[], str]) -> None:
    deadline = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < deadline, explain()
        time.sleep(0.2)


@pytest.fixture(scope="module")
def pod(image: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pod]:
    if shutil.which("kubectl") is None:
        pytest.skip("kubectl is not installed")
    folder = tmp_path_factory.mktemp("podman")
    for above in (folder, folder.parent):
        above.chmod(0o755)  # the container's user reads the checkpoint in it
    with Pod(folder, image) as running:
        yield running


def test_it_answers_who_has_the_token(pod, two_cats):
    client = Client(port=pod.ports["grpc"])
    prompt = ImagePrompt(img_bytes=two_cats, prompt="how many cats are there?")
    bearer = (("authorization", f"Bearer {TOKEN}"),)
    assert client.post("/", prompt, return_type=DocList[Response], metadata=bearer)[0].answer == "two"
    with pytest.raises(Exception, match="UNAUTHENTICATED"):
        client.post("/", prompt, return_type=DocList[Response])


def test_it_tells_its_metrics(pod):
    with urllib.request.urlopen(f"http://127.0.0.1:{pod.ports['metrics']}/metrics", timeout=30) as reply:
        assert b"blip2_build_info{" in reply.read()


def test_it_is_confined_as_the_manifest_says(pod):
    assert pod.inspect("{{.Config.User}} {{.HostConfig.ReadonlyRootfs}} {{.HostConfig.Memory}}") == (
        f"1000:1000 true {8 * 2**30}"
    )
    status = dict(line.split(":\t", 1) for line in pod.shell("cat /proc/1/status").splitlines())
    assert (int(status["CapEff"], 16), int(status["CapBnd"], 16)) == (0, 0)
    assert (status["NoNewPrivs"], status["Seccomp"]) == ("1", "2")
    assert pod.shell("for place in / /app /etc /models /home/blip2 /tmp; do test -w $place && echo $place; done") == (
        "/home/blip2\n/tmp\n"
    )


def test_it_ends_with_status_0_when_it_is_stopped(pod):
    podman("pod", "stop", f"{pod.name}-pod-0")
    assert pod.inspect("{{.State.ExitCode}}") == "0"
