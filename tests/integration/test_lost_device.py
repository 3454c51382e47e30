"""A device that fails for good ends the service, and everybody is told."""

import grpc
from docarray import DocList
from grpc_health.v1 import health_pb2, health_pb2_grpc
from jina import Client

from demo.service import ROOT, Service
from executor import ImagePrompt, Response
from tests.integration.lost_device.losing import FATAL_LENGTH

CONFIG = ROOT / "tests" / "integration" / "lost_device" / "config.yml"


def test_a_lost_device_is_told_to_clients_and_health_checks_and_ends_the_process_with_status_1(tmp_path, two_cats):
    with (
        Service(log=tmp_path / "log", config=CONFIG) as service,
        grpc.insecure_channel(f"127.0.0.1:{service.port}") as channel,
    ):
        watched = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest(), timeout=60)
        assert next(watched).status == health_pb2.HealthCheckResponse.SERVING
        ask = ImagePrompt(img_bytes=two_cats, prompt="how many cats are there?")
        post = Client(port=service.port).post
        assert post("/", inputs=ask, return_type=DocList[Response])[0].error == ""
        fatal = post("/", inputs=ask, return_type=DocList[Response], parameters={"max_new_tokens": FATAL_LENGTH})[0]
        assert fatal.error.startswith("DEVICE_LOST: ")
        assert next(watched).status == health_pb2.HealthCheckResponse.NOT_SERVING
        assert service.process.wait(60) == 1
    assert "the device is lost" in (tmp_path / "log").read_text()
