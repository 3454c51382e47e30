"""Tokens and TLS where Jina starts the processes: each time in a fresh program, since Jina forks it."""

import os
import signal
import subprocess
import sys

from demo.service import CHECKPOINT, ROOT, free_port
from tests.support.certificates import Authority

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


def deploy(gateway: str, **settings: object) -> tuple[int, str]:
    """Exit status, and what the program and its processes printed, on one line: the log is wrapped."""
    environment = {f"BLIP2_{name.upper()}": str(value) for name, value in settings.items()}
    program = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(free_port()), gateway, TOKEN],
        cwd=ROOT,
        env=os.environ | {"BLIP2_MODEL": str(CHECKPOINT)} | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        told, _ = program.communicate(timeout=120)
    finally:
        if program.poll() is None:
            os.killpg(program.pid, signal.SIGKILL)
    return program.returncode, " ".join(told.split())


def test_a_deployment_without_a_gateway_takes_tokens():
    status, told = deploy("none", auth_tokens=TOKEN)
    assert status == 0
    assert "without: gRPC error: StatusCode.UNAUTHENTICATED there is no valid token" in told
    assert "with: two" in told


def test_a_gateway_in_front_of_a_service_with_tokens_does_not_start_and_says_why():
    status, told = deploy("gateway", auth_tokens=TOKEN)
    assert status == 1
    assert "an Executor has auth_tokens, and Jina's gateways send none" in told
    assert TOKEN not in told


def test_a_deployment_with_tls_does_not_start_and_says_why(tmp_path):
    cert, key = Authority(tmp_path).write_pair()
    status, told = deploy("none", tls_cert=cert, tls_key=key)
    assert status == 1
    assert "tls_cert is for `python -m executor`" in told
