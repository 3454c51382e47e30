"""Tokens and TLS where Jina starts the processes: each time in a fresh program, since Jina forks it."""

import sys
from pathlib import Path

from demo.service import CHECKPOINT, Program, as_environment, free_port
from tests.support.certificates import Authority
from tests.support.logged import unwrapped

TOKEN = "configured-token-1234"
PROGRAM = """
import sys
from docarray import DocList
from jina import Client
from executor import Deployment, ImagePrompt, Response

def ask(*metadata):
    prompt = ImagePrompt(img_bytes=open("demo/pictures/two-cats.jpg", "rb").read(), prompt="how many cats are there?")
    try:
        return Client(port=port).post("/", inputs=prompt, return_type=DocList[Response], metadata=metadata)[0].answer
    except Exception as error:
        return error

port, gateway, token = int(sys.argv[1]), sys.argv[2] == "gateway", sys.argv[3]
with Deployment(uses="config.yml", port=port, include_gateway=gateway):
    print("without:", ask())
    print("with:", ask(("authorization", f"Bearer {token}")))
"""


def deploy(folder: Path, gateway: str, **settings: object) -> tuple[int, str]:
    """Exit status, and what the program and its processes printed, on one line: the log is wrapped."""
    command = [sys.executable, "-c", PROGRAM, str(free_port()), gateway, TOKEN]
    with Program(command, folder / "log", **as_environment(**{"model": CHECKPOINT, **settings})) as program:
        return program.process.wait(120), unwrapped(program.told())


def test_a_deployment_without_a_gateway_takes_tokens(tmp_path):
    status, told = deploy(tmp_path, "none", auth_tokens=TOKEN)
    assert status == 0
    assert "without: gRPC error: StatusCode.UNAUTHENTICATED there is no valid token" in told
    assert "with: two" in told


def test_a_gateway_in_front_of_a_service_with_tokens_does_not_start_and_says_why(tmp_path):
    status, told = deploy(tmp_path, "gateway", auth_tokens=TOKEN)
    assert status == 1
    assert "an Executor has auth_tokens, and Jina's gateways send none" in told
    assert TOKEN not in told


def test_a_deployment_with_tls_does_not_start_and_says_why(tmp_path):
    cert, key = Authority(tmp_path).write_pair()
    status, told = deploy(tmp_path, "none", tls_cert=cert, tls_key=key)
    assert status == 1
    assert "tls_cert is for `python -m executor`" in told
