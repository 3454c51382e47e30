"""Tokens and TLS where Jina starts the processes. It forks them: no server may run in this process meanwhile."""

import pytest
from docarray import DocList
from jina import Client, Deployment
from jina.excepts import BadServerFlow, RuntimeFailToStart

from demo.service import ROOT, free_port
from executor import ImagePrompt, Response
from tests.certificates import Authority

TOKEN = "configured-token-1234"


def bearer(token: str) -> tuple[tuple[str, str], ...]:
    return (("authorization", f"Bearer {token}"),)


@pytest.mark.usefixtures("demo_environment")
def test_a_deployment_without_a_gateway_takes_tokens(monkeypatch, two_cats):
    monkeypatch.setenv("BLIP2_AUTH_TOKENS", TOKEN)
    port = free_port()
    with Deployment(uses=str(ROOT / "config.yml"), port=port, include_gateway=False):
        prompt = ImagePrompt(img_bytes=two_cats, prompt="how many cats are there?")
        with pytest.raises(BadServerFlow, match="there is no valid token"):
            Client(port=port).post("/", inputs=prompt, return_type=DocList[Response])
        answered = Client(port=port).post("/", inputs=prompt, return_type=DocList[Response], metadata=bearer(TOKEN))
        assert answered[0].answer == "two"


@pytest.mark.usefixtures("demo_environment")
def test_a_gateway_in_front_of_a_service_with_tokens_does_not_start_and_says_why(monkeypatch, capfd):
    monkeypatch.setenv("BLIP2_AUTH_TOKENS", TOKEN)
    with pytest.raises(RuntimeFailToStart), Deployment(uses=str(ROOT / "config.yml"), port=free_port()):
        pass
    told = " ".join(capfd.readouterr().out.split())  # the log is wrapped
    assert "an Executor has auth_tokens, and Jina's gateways send none" in told
    assert TOKEN not in told


@pytest.mark.usefixtures("demo_environment")
def test_a_deployment_of_jinas_own_with_tls_does_not_start_and_says_why(tmp_path, monkeypatch, capfd):
    files = Authority(tmp_path).write_pair()
    monkeypatch.setenv("BLIP2_TLS_CERT", str(files[0]))
    monkeypatch.setenv("BLIP2_TLS_KEY", str(files[1]))
    with (
        pytest.raises(RuntimeFailToStart),
        Deployment(uses=str(ROOT / "config.yml"), port=free_port(), include_gateway=False),
    ):
        pass
    told = " ".join(capfd.readouterr().out.split())  # the log is wrapped
    assert "tls_cert is for `python -m executor`" in told
