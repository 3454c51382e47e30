"""A real Prometheus, configured as shipped, scrapes a loaded service and answers what dashboard and alerts ask."""

from __future__ import annotations

import json
import math
import re
import shutil
import threading
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import yaml
from docarray import DocList
from jina import Client

from demo.service import Program, Service, free_port
from executor import ImagePrompt, Response
from tests.deploy.test_compose import DEPLOY
from tests.deploy.test_deploy import ALERTS, queries, rules

NO_GPU = "blip2_device_memory"
"""What is told only where there is CUDA."""


class Prometheus(Program):
    """A Prometheus on loopback with the shipped configuration, less its places, and a scrape every half second.

    Args:
        command: the program.
        folder: for its files.
        metrics_port: what it scrapes.
    """

    def __init__(self, command: str, folder: Path, metrics_port: int) -> None:
        configuration = yaml.safe_load((DEPLOY / "prometheus.yml").read_text())
        configuration["global"] |= {"scrape_interval": "500ms", "evaluation_interval": "500ms"}
        configuration["rule_files"] = [str(ALERTS)]
        configuration["scrape_configs"][0]["static_configs"] = [{"targets": [f"127.0.0.1:{metrics_port}"]}]
        file = folder / "prometheus.yml"
        file.write_text(yaml.safe_dump(configuration))
        self.port = free_port()
        options = [f"--config.file={file}", f"--storage.tsdb.path={folder / 'data'}"]
        options += [f"--web.listen-address=127.0.0.1:{self.port}"]
        super().__init__([command, *options], folder / "prometheus.log")

    def wait_until_ready(self) -> None:
        self.wait_until(self._is_ready)

    def _is_ready(self) -> bool:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/-/ready", timeout=30) as reply:
                return bool(reply.status == 200)
        except urllib.error.URLError:  # it starts
            return False

    def ask(self, path: str, **parameters: str) -> Any:
        """The data of an answer, which must be a success."""
        url = f"http://127.0.0.1:{self.port}/api/v1/{path}?{urllib.parse.urlencode(parameters)}"
        try:
            with urllib.request.urlopen(url, timeout=30) as reply:
                answer = json.load(reply)
        except urllib.error.HTTPError as error:
            raise AssertionError(f"{parameters}: {error.read().decode()}") from error
        assert answer["status"] == "success", answer
        return answer["data"]

    def values(self, query: str) -> list[float]:
        """What a query finds, less what is not a number, such as a quantile of nothing."""
        found = [float(sample["value"][1]) for sample in self.ask("query", query=query)["result"]]
        return [value for value in found if not math.isnan(value)]

    def alerts(self) -> dict[str, dict[str, Any]]:
        return {rule["name"]: rule for group in self.ask("rules")["groups"] for rule in group["rules"]}

    def target(self) -> dict[str, Any]:
        found: list[dict[str, Any]] = self.ask("targets")["activeTargets"]
        return found[0] if found else {"health": "unknown"}


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Service, Prometheus]]:
    command = shutil.which("prometheus")
    if command is None:
        pytest.skip("prometheus is not installed (Debian's package of that name has it)")
    folder, metrics_port = tmp_path_factory.mktemp("prometheus"), free_port()
    with (
        Service(log=folder / "service.log", metrics_port=metrics_port, allowed_hosts="127.0.0.1") as service,
        Prometheus(command, folder, metrics_port) as prometheus,
    ):
        prometheus.wait_until(lambda: prometheus.target()["health"] == "up")
        yield service, prometheus


@pytest.fixture(scope="module")
def loaded(running, pictures_url) -> Iterator[Prometheus]:
    """A Prometheus that sees everything of the service move."""
    service, prometheus = running
    prompts = DocList[ImagePrompt](
        ImagePrompt(img=f"{pictures_url}/{name}", prompt=prompt)
        for name in ("two-cats.jpg", "one-dog.jpg", "nowhere.jpg")
        for prompt in ("how many cats are there?", "a photo of")
    )
    is_over = threading.Event()

    def load() -> None:
        with suppress(ConnectionError):  # the service has ended
            while not is_over.is_set():
                Client(port=service.port).post("/", inputs=prompts, return_type=DocList[Response])

    thread = threading.Thread(target=load)
    thread.start()
    try:
        prometheus.wait_until(lambda: sum(prometheus.values("rate(blip2_tokens_total[1m])")) > 0)
        yield prometheus
    finally:
        is_over.set()
        thread.join()


def test_the_service_is_up_under_the_name_of_its_job(loaded):
    assert loaded.target()["health"] == "up"
    assert loaded.target()["lastError"] == ""
    assert loaded.target()["labels"]["job"] == "blip2"
    assert loaded.values('up{job="blip2"}') == [1]


def test_every_alert_is_evaluated_and_silent_on_a_sound_service(loaded):
    loaded.wait_until(lambda: all(rule["health"] != "unknown" for rule in loaded.alerts().values()))
    assert loaded.alerts().keys() == {rule["alert"] for rule in rules()}
    assert {rule["health"] for rule in loaded.alerts().values()} == {"ok"}
    assert {name for name, rule in loaded.alerts().items() if rule["state"] != "inactive"} == set()


@pytest.mark.parametrize("query", queries())
def test_every_query_is_answered_and_finds_data(query, loaded):
    loaded.ask("query", query=query)
    # An alert finds nothing on a sound service: what it compares does.
    compared = re.sub(r"\s*(?:==|>=?)\s*[\d.]+", "", query)
    if NO_GPU in query or query.startswith("absent("):
        assert not loaded.values(query)
    else:
        assert loaded.values(compared), compared


def test_the_alert_for_a_service_that_is_gone_is_on_its_way(running, loaded):
    service, prometheus = running
    assert service.stop() == 0
    prometheus.wait_until(lambda: prometheus.alerts()["Blip2NotServing"]["state"] == "pending")
