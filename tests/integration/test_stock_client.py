"""`client.post` as everybody writes it, on every way to start the service: documents meet, answers keep their order."""

import asyncio
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractContextManager
from pathlib import Path

import pytest
from docarray import DocList
from jina import Client, Deployment, Flow

from demo.service import ROOT, SERVE, Service, free_port
from executor import Blip2Executor, ImagePrompt, Response
from tests.support.held_picture import HeldPicture

TIMEOUT_S = 60
CONFIG = str(ROOT / "config.yml")


async def all_of(replies: AsyncIterator[DocList[Response]]) -> list[Response]:
    return [response async for responses in replies for response in responses]


def check(port: int, picture: bytes, held: HeldPicture) -> None:
    """All documents of a stream are in flight at once; those in the middle are answered first."""
    question = "how many cats are there?"
    ready = [ImagePrompt(img_bytes=picture, prompt=question) for _ in range(3)]
    late = [ImagePrompt(img=f"{held.url}{number}", prompt=question) for number in range(2)]
    ours = DocList[ImagePrompt]([late[0], ready[0], ready[1], late[1]])
    client = Client(port=port, asyncio=True)
    options = {"return_type": DocList[Response], "timeout": TIMEOUT_S}

    async def post() -> list[Response]:
        posted = asyncio.create_task(all_of(client.post("/", ours, request_size=1, **options)))
        for _ in late:
            assert await asyncio.to_thread(held.asked.acquire, timeout=TIMEOUT_S / 2)
        await all_of(client.post("/", ready[2], **options))  # another client's: it comes after ours, and is answered
        held.let.set()
        return await posted

    responses = asyncio.run(post())
    assert [(response.answer, response.error) for response in responses] == [("two", "")] * 4
    assert [response.id for response in responses] == [document.id for document in ours]


@pytest.mark.parametrize(
    "start",
    [
        lambda port: Deployment(uses=CONFIG, port=port),
        lambda port: Deployment(uses=Blip2Executor, port=port),
        lambda port: Flow(port=port).add(uses=CONFIG),
        lambda port: Deployment(uses=CONFIG, port=port, include_gateway=False),
    ],
    ids=["config.yml", "class", "flow", "without gateway"],
)
@pytest.mark.forks
@pytest.mark.usefixtures("demo_environment")
def test_documents_meet_and_answers_keep_their_order_in_python(
    start: Callable[[int], AbstractContextManager[object]], two_cats, held_picture
):
    port = free_port()
    with start(port):
        check(port, two_cats, held_picture)


@pytest.mark.parametrize(
    "command",
    [
        SERVE,
        [str(Path(sys.executable).with_name("jina")), "executor", "--uses", CONFIG],
    ],
    ids=["python -m executor", "jina executor"],
)
def test_documents_meet_and_answers_keep_their_order_from_the_command_line(command, two_cats, held_picture, tmp_path):
    with Service(log=tmp_path / "log", command=command, allowed_hosts="127.0.0.1") as service:
        check(service.port, two_cats, held_picture)
