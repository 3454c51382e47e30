"""What the command that asks for health says, of a server of the test's own."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1.health import HealthServicer

from demo.service import free_port
from executor.__main__ import main
from executor.server.authority import authority_of

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


@contextmanager
def serving(host: str, status: int) -> Iterator[int]:
    health = HealthServicer()
    health.set("", status)
    server = grpc.server(ThreadPoolExecutor(1))
    health_pb2_grpc.add_HealthServicer_to_server(health, server)
    try:
        port = server.add_insecure_port(authority_of(host, 0))
    except RuntimeError:
        pytest.skip(f"this machine has no address {host}")
    server.start()
    try:
        yield port
    finally:
        server.stop(None).wait()


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "::1"])
def test_a_service_that_serves_is_told_as_such_on_addresses_of_both_kinds(host, capsys):
    with serving(host, SERVING) as port:
        assert main(["health", "--host", host, "--port", str(port)]) == 0
    assert capsys.readouterr().out == "SERVING\n"


def test_a_service_that_does_not_serve_yet_is_told_by_the_status(capsys):
    with serving("127.0.0.1", NOT_SERVING) as port:
        assert main(["health", "--port", str(port)]) == 1
    assert capsys.readouterr().out == "NOT_SERVING\n"


def test_nobody_there_is_said(capsys):
    assert main(["health", "--port", str(free_port()), "--timeout", "2"]) == 1
    assert capsys.readouterr().err == "no health: UNAVAILABLE\n"


def test_the_port_is_that_of_the_environment_and_a_wrong_one_is_said_where_it_counts(monkeypatch, capsys):
    with serving("127.0.0.1", SERVING) as port:
        monkeypatch.setenv("BLIP2_HEALTH_PORT", str(port))
        assert main(["health"]) == 0
    monkeypatch.setenv("BLIP2_HEALTH_PORT", "tcp://10.0.0.1:80")
    with pytest.raises(SystemExit):
        main(["health"])
    assert "tcp://10.0.0.1:80 is no port" in capsys.readouterr().err
    with pytest.raises(SystemExit) as helped:
        main(["--help"])
    assert helped.value.code == 0
