"""Jina's own topologies as an operator meets them: processes that die, programs that end, and what health says."""

import asyncio
import os
import re
import signal
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress

import grpc
import pytest
from docarray import DocList
from grpc_health.v1 import health_pb2, health_pb2_grpc
from jina import Client

from demo.service import ROOT
from examples.retrying import ask
from executor import ImagePrompt, Response
from executor.cores import available
from tests.integration.lost_device.losing import FATAL_LENGTH
from tests.integration.topologies.running import TIMEOUT_S, Ends, Running, children
from tests.support.logged import unwrapped
from tests.support.scraping import Scrape
from tests.support.threads import signal_other_thread

QUESTION = "how many cats are there?"
SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
EXECUTOR, GATEWAY = 0, -1


@pytest.fixture(scope="module")
def behind_a_gateway() -> Iterator[Running]:
    with Running("gateway") as running:
        yield running


class Health:
    """What a port says about a service of it, each time that it changes."""

    def __init__(self, port: int) -> None:
        self._port = port

    @asynccontextmanager
    async def watch(self, service: str = "") -> AsyncIterator["Health"]:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{self._port}") as channel:
            request = health_pb2.HealthCheckRequest(service=service)
            self._replies = health_pb2_grpc.HealthStub(channel).Watch(request, timeout=TIMEOUT_S)
            yield self

    async def becomes(self, status: int) -> None:
        assert (await self._replies.read()).status == status


async def post(port: int, prompt: ImagePrompt, **parameters: object) -> Response:
    # A stream that is refused at its first message may end with an internal error of gRPC's client instead of the code.
    options = {"return_type": DocList[Response], "parameters": parameters, "stream": False}
    replies = Client(port=port, asyncio=True).post("/", prompt, **options)
    (response,) = [response async for responses in replies for response in responses]
    return response


async def until_serving(port: int) -> None:
    """The port is closed until then."""
    async with grpc.aio.insecure_channel(
        f"127.0.0.1:{port}", options=[("grpc.max_reconnect_backoff_ms", 200)]
    ) as channel:
        request = health_pb2.HealthCheckRequest()
        reply = await health_pb2_grpc.HealthStub(channel).Check(request, timeout=TIMEOUT_S, wait_for_ready=True)
    assert reply.status == SERVING


@pytest.mark.parametrize(("number", "service"), [(signal.SIGKILL, ""), (signal.SIGSEGV, "jina.JinaRPC")])
def test_a_worker_that_dies_is_started_again_and_its_gateway_says_so(behind_a_gateway, two_cats, number, service):
    port, prompt = behind_a_gateway.port, ImagePrompt(img_bytes=two_cats, prompt=QUESTION)

    async def meet() -> str:
        async with Health(port).watch(service) as health:
            await health.becomes(SERVING)
            os.kill(behind_a_gateway.server(EXECUTOR), number)
            await health.becomes(NOT_SERVING)
            with pytest.raises(
                ConnectionError, match="the gateway reaches no replica of the service; try again"
            ) as raised:
                await post(port, prompt)
            assert not re.search(r"ipv4|address\(es\)", str(raised.value))
            await health.becomes(SERVING)
        return (await post(port, prompt)).answer

    assert asyncio.run(meet()) == "two"


def test_a_gateway_that_dies_is_started_again(behind_a_gateway, two_cats):
    gateway = behind_a_gateway.server(GATEWAY)
    ends = Ends(gateway)
    os.kill(gateway, signal.SIGKILL)
    ends.wait()

    async def meet() -> str:
        await until_serving(behind_a_gateway.port)
        return (await post(behind_a_gateway.port, ImagePrompt(img_bytes=two_cats, prompt=QUESTION))).answer

    assert asyncio.run(meet()) == "two"


@pytest.mark.parametrize("how", ["gateway", "flow", "no gateway"])
def test_leaving_the_with_block_finishes_what_is_in_progress_and_lets_nothing_in(how, held_picture, two_cats):
    with Running(how) as running:

        async def leave() -> Response:
            async with Health(running.port).watch() as health:
                await health.becomes(SERVING)
                late = asyncio.create_task(post(running.port, ImagePrompt(img=held_picture.url, prompt=QUESTION)))
                assert await asyncio.to_thread(held_picture.asked.acquire, timeout=TIMEOUT_S)
                running.leave()
                await health.becomes(NOT_SERVING)
                with pytest.raises(ConnectionError, match="shutting down"):
                    await post(running.port, ImagePrompt(img_bytes=two_cats, prompt=QUESTION))
                held_picture.let.set()
                return await late

        assert asyncio.run(leave()).answer == "two"
        running.wait_until_said("left")
        assert running.process.wait(TIMEOUT_S) == 0


@pytest.mark.parametrize(("how", "number"), [("gateway", signal.SIGKILL), ("no gateway", signal.SIGTERM)])
def test_a_program_that_is_killed_leaves_processes_that_finish_their_work_and_end(how, number, held_picture):
    with Running(how) as running:
        keepers = running.keepers()
        ends = Ends(*keepers, *(server for keeper in keepers for server in children(keeper)))

        async def kill() -> Response:
            async with Health(running.port).watch() as health:
                await health.becomes(SERVING)
                late = asyncio.create_task(post(running.port, ImagePrompt(img=held_picture.url, prompt=QUESTION)))
                assert await asyncio.to_thread(held_picture.asked.acquire, timeout=TIMEOUT_S)
                os.kill(running.process.pid, number)
                await health.becomes(NOT_SERVING)
                held_picture.let.set()
                return await late

        assert asyncio.run(kill()).answer == "two"
        ends.wait()


def test_a_keeper_ends_on_a_signal_that_the_kernel_gives_another_thread():
    with Running("no gateway") as running:
        (keeper,) = running.keepers()
        ends = Ends(keeper, *children(keeper))
        signal_other_thread(keeper, signal.SIGTERM)
        ends.wait()


def test_one_of_two_replicas_dies_and_a_client_that_asks_again_gets_every_answer(held_picture, two_cats):
    with Running("replicas") as running:
        client = Client(port=running.port, asyncio=True)
        ours = [ImagePrompt(img_bytes=two_cats, prompt=QUESTION) for _ in range(60)]
        ours += [ImagePrompt(img=f"{held_picture.url}{number}", prompt=QUESTION) for number in range(4)]

        async def kill() -> list[Response]:
            answers = asyncio.gather(*(ask(client, prompt) for prompt in ours))
            for _ in range(4):
                assert await asyncio.to_thread(held_picture.asked.acquire, timeout=TIMEOUT_S)
            os.kill(running.server(EXECUTOR), signal.SIGKILL)
            held_picture.let.set()
            return await answers

        responses = asyncio.run(kill())
    assert [(response.id, response.answer) for response in responses] == [(prompt.id, "two") for prompt in ours]


def test_a_worker_whose_device_is_lost_tells_its_clients_and_is_started_again(two_cats):
    config = ROOT / "tests" / "integration" / "lost_device" / "config.yml"
    prompt = ImagePrompt(img_bytes=two_cats, prompt=QUESTION)
    with Running("no gateway", uses=config) as running:
        worker = running.server(EXECUTOR)
        ends = Ends(worker)

        async def lose() -> tuple[Response, Response]:
            lost = await post(running.port, prompt, max_new_tokens=FATAL_LENGTH)
            ends.wait()
            await until_serving(running.port)
            return lost, await post(running.port, prompt)

        lost, found = asyncio.run(lose())
        assert lost.error.startswith("DEVICE_LOST: ")
        assert found.answer == "two"
        assert running.server(EXECUTOR) != worker
        assert "ended with status 1" in unwrapped(running.told())


def test_a_worker_that_still_loads_ends_at_once():
    with Running("loading") as running:
        running.wait_until_said("loading")
        running.leave()
        running.wait_until_said("left")
        assert running.process.wait(TIMEOUT_S) == 0


def two_free_ports() -> int:
    """The first of two free ports in a row."""
    while True:
        with socket.socket() as one, socket.socket() as other, suppress(OSError):
            one.bind(("127.0.0.1", 0))
            first = int(one.getsockname()[1])
            other.bind(("127.0.0.1", first + 1))
            return first


def test_each_replica_gets_a_device_its_share_of_the_cores_and_a_port_for_its_metrics(monkeypatch):
    monkeypatch.setenv("CUDA_TOTAL_DEVICES", "3")  # as many as nvidia-smi would list
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    share = max(1, available() // 2)
    first = two_free_ports()
    with Running("devices", device="cpu", metrics_port=first) as running:
        for port in (first, first + 1):
            assert Scrape(port).value("blip2_calls_in_progress") == 0
        said = re.findall(r"one of 2 on this host: (\S+) (\S+) (\S+)", unwrapped(running.told()))
    assert sorted(said) == [
        (f"cores={share}", f"torch_threads={share}", f"CUDA_VISIBLE_DEVICES={device}") for device in (0, 1)
    ]
