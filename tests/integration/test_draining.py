"""What happens to calls when the service ends, with a device that the test holds."""

from collections.abc import Iterator

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from demo.service import free_port
from tests.integration.inprocess import TIMEOUT_S, HeldService, hold_service, numbered
from tests.integration.test_load import answers, call
from tests.support.logged import unwrapped

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
SERVICES = ("", "jina.JinaRPC", "jina.JinaSingleDataRequestRPC", "jina.JinaDiscoverEndpointsRPC")


@pytest.fixture
def settings(tiny_t5) -> dict[str, object]:
    return {"model": str(tiny_t5)}


@pytest.fixture
def held(settings, monkeypatch) -> Iterator[HeldService]:
    batching = {"/vqa": {"preferred_batch_size": 4, "timeout": 0}}
    with hold_service(uses_with=settings, uses_dynamic_batching=batching) as service:
        yield service


@pytest.fixture
def channel(held) -> Iterator[grpc.Channel]:
    with open_channel(held) as channel:
        yield channel


def open_channel(held: HeldService) -> grpc.Channel:
    return grpc.insecure_channel(f"127.0.0.1:{held.port}")


@pytest.mark.parametrize("kind", ["unary", "stream"])
def test_everything_accepted_is_finished_nothing_new_is_accepted_and_health_says_so(held, channel, picture, kind):
    health = health_pb2_grpc.HealthStub(channel)
    watched = [health.Watch(health_pb2.HealthCheckRequest(service=name), timeout=TIMEOUT_S) for name in SERVICES]
    assert [next(one).status for one in watched] == [SERVING] * len(SERVICES)
    running = call(channel, kind, numbered(picture, *range(20)))
    waiting = call(channel, kind, numbered(picture, *range(100, 110)))
    assert held.engine.entered.acquire(timeout=TIMEOUT_S)
    held.batcher.wait_for_submitted([0, 100])

    ended = held.shut_down()
    assert [next(one).status for one in watched] == [NOT_SERVING] * len(SERVICES)
    assert health.Check(health_pb2.HealthCheckRequest(), timeout=TIMEOUT_S).status == NOT_SERVING
    refused = call(channel, kind, numbered(picture, 999)).exception(TIMEOUT_S)
    assert refused.code() is grpc.StatusCode.UNAVAILABLE
    assert refused.details() == "the service is shutting down; try again, or elsewhere."
    assert not ended.done()

    held.engine.let(1000)
    assert first_answers(running, kind) == [str(number) for number in range(20)]
    assert first_answers(waiting, kind) == [str(number) for number in range(100, 110)]
    ended.result(TIMEOUT_S)
    assert 999 not in held.batcher.submitted


def first_answers(call: grpc.Future, kind: str) -> list[str]:
    if kind == "unary":
        return answers(call)
    (reply,) = list(call)
    return [document.data["answer"].text for document in reply.proto_with_data.data.docs.docs]


def test_what_is_not_finished_in_time_is_cut_and_the_service_ends(settings, monkeypatch, picture, capfd):
    settings["drain_timeout_s"] = 0.05
    with hold_service(uses_with=settings) as held, open_channel(held) as channel:
        stuck = call(channel, "unary", numbered(picture, 1))
        assert held.engine.entered.acquire(timeout=TIMEOUT_S)
        ended = held.shut_down()
        assert stuck.exception(TIMEOUT_S).code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED)
        held.engine.let(1)
        ended.result(TIMEOUT_S)
    logged = capfd.readouterr()
    assert "1 calls have no answer after 0.05 s and are cut" in unwrapped(logged.out + logged.err)


def test_health_is_also_served_alone_on_a_port_of_its_own(settings, monkeypatch, picture):
    settings["health_port"] = port = free_port()
    with hold_service(uses_with=settings) as held, grpc.insecure_channel(f"127.0.0.1:{port}") as probe:
        watched = health_pb2_grpc.HealthStub(probe).Watch(health_pb2.HealthCheckRequest(), timeout=TIMEOUT_S)
        assert next(watched).status == SERVING
        refused = call(probe, "unary", numbered(picture, 1)).exception(TIMEOUT_S)
        assert refused.code() is grpc.StatusCode.UNIMPLEMENTED
        held.shut_down()
        assert next(watched).status == NOT_SERVING
