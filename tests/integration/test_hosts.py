"""Services of several hosts behind one gateway: who gets a request, and what becomes of them when a host is cut off."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial

import grpc
import pytest
from jina import Client
from jina.proto import jina_pb2_grpc

from benchmarks.hosts import Host, why_not
from demo.service import CHECKPOINT, SERVE, Program, Service, as_environment, free_port, serves
from examples.retrying import ask
from executor import ImagePrompt
from tests.integration.inprocess import TIMEOUT_S, as_request, gateway_to, hold_service, numbered
from tests.support.scraping import Scrape

QUESTION = "how many cats are there?"
PORT, METRICS_PORT = 54321, 9100


def test_a_replica_that_is_busy_gets_no_more_while_another_one_is_free(demo_environment, monkeypatch, picture):
    with (
        hold_service() as one,
        hold_service() as other,
        gateway_to(one.port, other.port) as port,
        grpc.insecure_channel(f"127.0.0.1:{port}") as channel,
    ):
        process = jina_pb2_grpc.JinaSingleDataRequestRPCStub(channel).process_single_data
        held = process.future(as_request(numbered(picture, 0)), timeout=TIMEOUT_S)
        busy, free = await_entered(one, other)
        free.engine.let(4)
        for seed in range(1, 5):
            process(as_request(numbered(picture, seed)), timeout=TIMEOUT_S)
        assert free.engine.batches == [[1], [2], [3], [4]]
        busy.engine.let(1)
        held.result()
        assert busy.engine.batches == [[0]]


def await_entered(one, other):
    """(the service that got the first request, the other one)"""
    while True:
        for first, second in ((one, other), (other, one)):
            if first.engine.entered.acquire(timeout=0.05):
                return first, second


@pytest.fixture(scope="module")
def hosts() -> Iterator[list[Host]]:
    if reason := why_not():
        pytest.skip(reason)
    with ExitStack() as stack:
        yield [stack.enter_context(Host(number)) for number in range(2)]


def answered(host: Host) -> float:
    """Documents that the host's service has answered."""
    return Scrape(METRICS_PORT, host.address).value("blip2_documents_total", code="OK")


@pytest.mark.slow
def test_a_host_that_is_cut_off_under_load_costs_no_answer_and_is_used_again_later(hosts, two_cats, tmp_path):
    addresses = [f"{host.address}:{PORT}" for host in hosts]
    port = free_port()
    with ExitStack() as stack:
        services = [
            stack.enter_context(
                Program(
                    host.command(*SERVE, "--host", host.address, "--port", str(PORT)),
                    tmp_path / f"{host.address}.log",
                    **as_environment(model=CHECKPOINT, metrics_port=METRICS_PORT),
                )
            )
            for host in hosts
        ]
        for service, address in zip(services, addresses, strict=True):
            service.wait_until(partial(serves, address))
        gateway = (sys.executable, "-m", "examples.gateway", *addresses)
        stack.enter_context(Service(port, tmp_path / "gateway.log", command=gateway))
        client = Client(port=port, asyncio=True)

        async def answers(number: int) -> list[str]:
            prompts = [ImagePrompt(img_bytes=two_cats, prompt=QUESTION) for _ in range(number)]
            return [response.answer for response in await asyncio.gather(*(ask(client, prompt) for prompt in prompts))]

        async def meet() -> None:
            first, second = hosts
            asked = [asyncio.create_task(answers(1)) for _ in range(60)]
            await asyncio.wait(asked[:4], return_when=asyncio.FIRST_COMPLETED)
            first.cut()
            assert await asyncio.gather(*asked) == [["two"]] * len(asked)
            before = answered(second)
            assert await answers(20) == ["two"] * 20
            assert answered(second) == before + 20
            first.mend()
            await asyncio.to_thread(services[0].wait_until, partial(serves, addresses[0]))
            before = answered(first)
            while answered(first) == before:  # the gateway waits before it connects again
                assert await answers(4) == ["two"] * 4
                await asyncio.sleep(0.2)

        asyncio.run(meet())
