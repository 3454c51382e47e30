"""The original article's program, as the README documents it."""

import subprocess
import sys

import pytest
from docarray import DocList
from jina import Client, Deployment

from demo.service import free_port
from executor import Blip2Executor
from tests.integration.documents import ImagePrompt, Response

QUESTION = "Question: how many cats are there ? Answer:"

pytestmark = pytest.mark.usefixtures("demo_environment")


def test_deployment_post_in_process(pictures_url):
    prompt = ImagePrompt(img=f"{pictures_url}/two-cats.jpg", prompt=QUESTION)
    with Deployment(uses=Blip2Executor) as dep:
        response = dep.post(on="/bar", inputs=prompt, return_type=DocList[Response])
    assert response[0].answer == "two"


def test_deployment_and_client_as_a_standalone_pair(pictures_url):
    port = free_port()
    prompt = ImagePrompt(img=f"{pictures_url}/two-cats.jpg", prompt=QUESTION)
    with Deployment(uses=Blip2Executor, port=port, timeout_ready=-1):
        response = Client(port=port).post(on="/", inputs=prompt, return_type=DocList[Response])
    assert response[0].answer == "two"


def test_make_demo_prints_picture_question_answer_and_time():
    finished = subprocess.run(
        [sys.executable, "-m", "demo.ask"], capture_output=True, text=True, timeout=240, check=True
    )
    lines = dict(line.split(":", 1) for line in finished.stdout.splitlines() if ":" in line)
    assert lines["Picture"].strip() == "demo/pictures/two-cats.jpg"
    assert lines["Question"].strip() == "Question: how many cats are there? Answer:"
    assert lines["Answer"].strip() == "two"
    assert lines["Time"].strip().endswith("connecting included")
    assert "exit status 0" in finished.stdout
