"""TLS and mutual TLS on the gRPC port: who is refused, who is let in, and how certificates are renewed."""

import os
import ssl
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from docarray import DocList
from grpc_health.v1 import health_pb2, health_pb2_grpc
from jina.proto import jina_pb2_grpc

from demo.service import ROOT, Service, serves
from executor import Response
from tests.integration.inprocess import TIMEOUT_S, HeldService, as_request, hold_service, numbered
from tests.support.certificates import Authority, replace
from tests.support.starting import start_and_fail

STOCK_CLIENT = """
import sys
from docarray import DocList
from jina import Client
from executor import ImagePrompt, Response
picture = open(sys.argv[2], "rb").read()
for stream in (False, True):
    prompt = ImagePrompt(img_bytes=picture, prompt="how many cats are there?")
    client = Client(host="localhost", port=int(sys.argv[1]), tls=True)
    print(client.post("/vqa", inputs=prompt, return_type=DocList[Response], stream=stream)[0].answer)
"""


@pytest.fixture
def authority(tmp_path) -> Authority:
    return Authority(tmp_path)


@pytest.fixture
def files(authority) -> tuple[Path, Path]:
    return authority.write_pair()


@pytest.fixture
def secured(tiny_t5, files, monkeypatch) -> Iterator[HeldService]:
    settings = {"model": str(tiny_t5), "tls_cert": str(files[0]), "tls_key": str(files[1])}
    with hold_service(uses_with=settings) as service:
        service.engine.let(1000)
        yield service


def ask(port: int, picture: bytes, credentials: grpc.ChannelCredentials | None) -> list[str]:
    """A plain gRPC client's answers. Without credentials it speaks plaintext."""
    address = f"127.0.0.1:{port}"
    channel = grpc.secure_channel(address, credentials) if credentials else grpc.insecure_channel(address)
    with channel:
        stub = jina_pb2_grpc.JinaSingleDataRequestRPCStub(channel)
        reply = stub.process_single_data(as_request(numbered(picture, 1, 2)), timeout=TIMEOUT_S)
    reply.document_array_cls = DocList[Response]
    return [response.answer for response in reply.docs]


def is_refused(port: int, picture: bytes, credentials: grpc.ChannelCredentials | None) -> bool:
    with pytest.raises(grpc.RpcError) as raised:
        ask(port, picture, credentials)
    return raised.value.code() is grpc.StatusCode.UNAVAILABLE


def served_certificate(port: int) -> str:
    return ssl.get_server_certificate(("127.0.0.1", port), timeout=TIMEOUT_S).strip()


def first_certificate(file: Path) -> str:
    return file.read_text().partition("-----END CERTIFICATE-----")[0] + "-----END CERTIFICATE-----"


def test_who_trusts_the_authority_is_answered_over_tls(secured, authority, picture):
    assert ask(secured.port, picture, grpc.ssl_channel_credentials(authority.pem)) == ["1", "2"]


def test_plaintext_and_a_client_with_another_authority_are_refused(secured, tmp_path, picture):
    assert is_refused(secured.port, picture, None)
    assert is_refused(secured.port, picture, grpc.ssl_channel_credentials(Authority(tmp_path, "other").pem))


def test_new_handshakes_get_the_new_certificate_and_old_connections_stay(secured, authority, files, picture):
    before = first_certificate(files[0])
    assert served_certificate(secured.port) == before
    with grpc.secure_channel(f"127.0.0.1:{secured.port}", grpc.ssl_channel_credentials(authority.pem)) as connected:
        health = health_pb2_grpc.HealthStub(connected)
        health.Check(health_pb2.HealthCheckRequest(), timeout=TIMEOUT_S)
        authority.write_pair()
        after = first_certificate(files[0])
        assert after != before
        assert served_certificate(secured.port) == after
        health.Check(health_pb2.HealthCheckRequest(), timeout=TIMEOUT_S)
    assert ask(secured.port, picture, grpc.ssl_channel_credentials(authority.pem)) == ["1", "2"]


def test_a_half_written_pair_leaves_the_former_one_in_use(secured, authority, files, picture):
    before = first_certificate(files[0])
    cert, key = authority.issue()
    replace(files[0], cert)
    assert served_certificate(secured.port) == before
    assert ask(secured.port, picture, grpc.ssl_channel_credentials(authority.pem)) == ["1", "2"]
    replace(files[1], key)
    assert served_certificate(secured.port) == first_certificate(files[0])


def test_mutual_tls_lets_in_who_has_a_certificate_of_the_authority(
    tiny_t5, authority, files, tmp_path, monkeypatch, picture
):
    settings = {
        "model": str(tiny_t5),
        "tls_cert": str(files[0]),
        "tls_key": str(files[1]),
        "tls_client_ca": str(authority.file),
    }
    cert, key = authority.issue()
    other = Authority(tmp_path, "other")
    foreign_cert, foreign_key = other.issue()
    own = grpc.ssl_channel_credentials(authority.pem, key, cert)
    foreign = grpc.ssl_channel_credentials(authority.pem, foreign_key, foreign_cert)
    with hold_service(uses_with=settings) as service:
        service.engine.let(1000)
        assert ask(service.port, picture, own) == ["1", "2"]
        assert is_refused(service.port, picture, grpc.ssl_channel_credentials(authority.pem))
        assert is_refused(service.port, picture, foreign)
        assert is_refused(service.port, picture, None)
        replace(authority.file, authority.pem + other.pem)
        assert ask(service.port, picture, foreign) == ["1", "2"]


class SecuredService(Service):
    """Asked for its health over TLS."""

    def __init__(self, authority: Authority, **arguments: Any) -> None:
        super().__init__(**arguments)
        self._credentials = grpc.ssl_channel_credentials(authority.pem)

    def is_ready(self) -> bool:
        return serves(f"127.0.0.1:{self.port}", credentials=self._credentials)


def test_python_dash_m_serves_tls_to_the_stock_client(tmp_path, authority, files, two_cats):
    picture = tmp_path / "two-cats.jpg"
    picture.write_bytes(two_cats)
    with SecuredService(authority, log=tmp_path / "log", tls_cert=files[0], tls_key=files[1]) as service:
        client = subprocess.run(
            [sys.executable, "-c", STOCK_CLIENT, str(service.port), str(picture)],
            cwd=ROOT,
            env=os.environ | {"GRPC_DEFAULT_SSL_ROOTS_FILE_PATH": str(authority.file)},
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert client.stdout.splitlines() == ["two", "two"], client.stderr
        assert not Service(service.port).is_ready()  # plaintext
        authority.write_pair()
        assert served_certificate(service.port) == first_certificate(files[0])
        assert service.stop() == 0
    assert "TLS: the files have changed and are in use" in (tmp_path / "log").read_text()


@pytest.mark.parametrize("fault", ["no key is set", "another key"])
def test_bad_files_end_the_start_with_one_line_and_status_1(authority, files, tmp_path, tiny_t5, fault):
    cert, key = files
    settings = {"model": tiny_t5, "tls_cert": cert, "tls_key": key}
    message = "tls_cert and tls_key are set together"
    if fault == "no key is set":
        del settings["tls_key"]
    else:
        replace(key, Authority(tmp_path, "other").issue()[1])
        message = f"TLS: tls_key {key} does not fit tls_cert {cert}"
    finished = start_and_fail(**settings)
    (line,) = [line for line in finished.stderr.splitlines() if line.startswith("blip2: cannot start: ")]
    assert message in line
    assert "Traceback" not in finished.stderr
