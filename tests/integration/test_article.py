"""The original article's program, in this process."""

import pytest
from docarray import DocList
from jina import Client, Deployment

from demo.service import free_port
from executor import Blip2Executor
from tests.support.documents import ImagePrompt, Response

QUESTION = "Question: how many cats are there ? Answer:"

pytestmark = [pytest.mark.forks, pytest.mark.usefixtures("demo_environment")]


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
