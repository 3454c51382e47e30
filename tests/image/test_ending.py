"""How a container ends: stopped under load, killed."""

from __future__ import annotations

import os
import signal
import time
from contextlib import ExitStack

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from tests.image.conftest import MODEL
from tests.image.podman import Container, start_podman
from tests.integration.test_life_cycle import NOT_SERVING, SERVING, answer, is_open, stream

pytestmark = [pytest.mark.image, pytest.mark.timeout(1800)]
CALLS = 16
DOCUMENTS = 20
STOP_S = 10


def test_stopped_under_load_it_loses_nothing_and_ends_with_0_in_time(image, two_cats):
    with Container(image, *MODEL) as running, ExitStack() as stack:
        address = f"127.0.0.1:{running.port}"
        channels = [
            stack.enter_context(grpc.insecure_channel(address, [("grpc.use_local_subchannel_pool", 1)]))
            for _ in range(CALLS)
        ]
        calls = [stream(channel, two_cats, DOCUMENTS) for channel in channels]
        assert [answer(next(call)) for call in calls] == ["two"] * CALLS
        watching = stack.enter_context(grpc.insecure_channel(address))
        watched = health_pb2_grpc.HealthStub(watching).Watch(health_pb2.HealthCheckRequest(), timeout=60)
        assert next(watched).status == SERVING

        started = time.monotonic()
        stopping = start_podman("stop", "--time=40", running.name)
        assert next(watched).status == NOT_SERVING
        with pytest.raises(grpc.RpcError) as refused:
            next(stream(watching, two_cats, 1))
        assert refused.value.code() is grpc.StatusCode.UNAVAILABLE
        assert [answer(reply) for call in calls for reply in call] == ["two"] * CALLS * (DOCUMENTS - 1)
        assert running.wait() == 0
        assert time.monotonic() - started < STOP_S
        assert stopping.wait() == 0
        assert not is_open(running.port)


def test_killed_it_is_gone_with_its_port_and_its_status(image):
    with Container(image, *MODEL) as running:
        assert is_open(running.port)
        os.kill(running.state()["Pid"], signal.SIGKILL)
        assert running.wait() == 128 + signal.SIGKILL
        assert not running.is_healthy()
        assert not is_open(running.port)


def test_memory_beyond_the_limit_is_not_to_be_had_and_the_service_stays(image):
    with Container(image, *MODEL) as running:
        done = running.run("python", "-c", "print(len(b'x' * (3 * 2**30)))", check=False)
        assert done.returncode == 128 + signal.SIGKILL
        assert running.is_healthy()
