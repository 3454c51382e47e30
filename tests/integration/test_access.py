"""Who is let in, what those hear who are not, and what is never told, over a real socket."""

import json
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
from docarray import DocList
from grpc_health.v1 import health_pb2, health_pb2_grpc
from jina import Client
from jina.excepts import BadServerFlow
from jina.proto import jina_pb2_grpc

from demo.service import ROOT, SERVE, Service
from executor import ImagePrompt, Response
from tests.integration.inprocess import TIMEOUT_S, HeldService, as_request, hold_service, numbered
from tests.support.logged import unwrapped
from tests.support.raw_calls import STREAM, UNARY, outcome
from tests.support.starting import start_and_fail

TOKEN, ROTATED, NEW = "configured-token-1234", "token-of-the-file-1234", "new-token-of-file-1234"
SERVED = [
    UNARY,
    STREAM,
    "/jina.JinaDataRequestRPC/process_data",
    "/jina.JinaDiscoverEndpointsRPC/endpoint_discovery",
    "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
]
TAKES_NOTHING = SERVED[-2:]
CLOSED = [
    "/jina.JinaSingleDocumentRequestRPC/stream_doc",
    "/jina.JinaExecutorSnapshot/snapshot",
    "/jina.JinaExecutorSnapshotProgress/snapshot_status",
    "/jina.JinaExecutorRestore/restore",
    "/jina.JinaExecutorRestoreProgress/restore_status",
    "/jina.JinaInfoRPC/_status",
    "/no.such.Service/method",
]


def bearer(token: str) -> tuple[tuple[str, str], ...]:
    return (("authorization", f"Bearer {token}"),)


@pytest.fixture(scope="module")
def file(tmp_path_factory) -> Path:
    file = tmp_path_factory.mktemp("tokens") / "tokens"
    file.write_text(ROTATED)
    return file


@pytest.fixture(scope="module")
def guarded(tiny_t5, file) -> Iterator[HeldService]:
    settings = {"model": str(tiny_t5), "auth_tokens": [TOKEN], "auth_tokens_file": str(file)}
    with hold_service(uses_with=settings) as service:
        service.engine.let(1000)
        yield service


@pytest.fixture
def channel(guarded) -> Iterator[grpc.Channel]:
    with grpc.insecure_channel(f"127.0.0.1:{guarded.port}") as channel:
        yield channel


@pytest.mark.parametrize("method", SERVED + CLOSED)
def test_without_a_valid_token_every_method_is_unauthenticated(channel, method):
    for metadata in (
        (),
        bearer("wrong-token-1234567"),
        bearer(TOKEN[:-1]),
        bearer(""),
        (("authorization", TOKEN),),
        (("authorization", f"Basic {TOKEN}"),),
        (("token", TOKEN),),
    ):
        code, told = outcome(channel, method, b"", metadata=metadata)
        assert code is grpc.StatusCode.UNAUTHENTICATED
        assert told == "there is no valid token; send it as metadata 'authorization: Bearer ...'."


@pytest.mark.parametrize("method", SERVED)
def test_with_a_valid_token_what_is_served_can_be_called(channel, method):
    code, _ = outcome(channel, method, b"", metadata=bearer(TOKEN))
    assert code is (grpc.StatusCode.OK if method in TAKES_NOTHING else grpc.StatusCode.INVALID_ARGUMENT)


@pytest.mark.parametrize("method", CLOSED)
def test_snapshots_single_documents_and_the_state_of_the_machine_are_not_served(channel, method):
    assert outcome(channel, method, b"", metadata=bearer(TOKEN))[0] is grpc.StatusCode.UNIMPLEMENTED


def test_reflection_lists_what_is_served_and_no_more(channel):
    from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

    request = reflection_pb2.ServerReflectionRequest(list_services="")
    stub = reflection_pb2_grpc.ServerReflectionStub(channel)
    (reply,) = stub.ServerReflectionInfo(iter([request]), metadata=bearer(TOKEN))
    listed = {service.name for service in reply.list_services_response.service}
    assert listed == {method.split("/")[1] for method in SERVED}


def test_a_call_that_is_refused_has_its_id_too(channel):
    call = channel.stream_stream(UNARY)(iter([b""]), timeout=TIMEOUT_S, metadata=(("x-request-id", "refused"),))
    with pytest.raises(grpc.RpcError):
        list(call)
    assert call.code() is grpc.StatusCode.UNAUTHENTICATED
    assert dict(call.trailing_metadata())["x-request-id"] == "refused"


def test_who_is_refused_and_does_not_stop_sending_is_not_waited_for(channel):
    sent = threading.Event()

    def endless() -> Iterator[bytes]:
        yield b"x"
        sent.wait(TIMEOUT_S)

    call = channel.stream_stream(STREAM)(endless(), timeout=TIMEOUT_S)
    assert call.code() is grpc.StatusCode.UNAUTHENTICATED
    sent.set()


def test_health_stays_open(channel):
    health = health_pb2_grpc.HealthStub(channel)
    request = health_pb2.HealthCheckRequest()
    assert health.Check(request).status == health_pb2.HealthCheckResponse.SERVING
    watch = health.Watch(request)
    assert next(watch).status == health_pb2.HealthCheckResponse.SERVING
    watch.cancel()


@pytest.mark.parametrize("stream", [False, True], ids=["unary", "stream"])
@pytest.mark.parametrize("token", [TOKEN, ROTATED])
def test_the_stock_client_sends_a_token_as_metadata(guarded, picture, stream, token):
    answers = Client(port=guarded.port).post(
        "/vqa",
        inputs=numbered(picture, 1, 2, 3),
        return_type=DocList[Response],
        request_size=1,
        results_in_order=True,
        stream=stream,
        metadata=bearer(token),
    )
    assert sorted(response.answer for response in answers) == ["1", "2", "3"]


@pytest.mark.parametrize("documents", [1, 30])
@pytest.mark.parametrize("stream", [False, True], ids=["unary", "stream"])
def test_the_stock_client_without_a_token_is_told_why_although_it_is_still_sending(guarded, picture, stream, documents):
    computed = len(guarded.engine.batches)
    with pytest.raises(BadServerFlow, match="UNAUTHENTICATED there is no valid token"):
        Client(port=guarded.port).post(
            "/vqa",
            inputs=numbered(picture, *range(documents)),
            return_type=DocList[Response],
            request_size=1,
            stream=stream,
        )
    assert len(guarded.engine.batches) == computed


def test_tokens_rotate_while_calls_go_on(channel, file):
    file.write_text(f"{ROTATED}\n{NEW}\n")
    for token in (TOKEN, ROTATED, NEW):
        assert discover(channel, token) is grpc.StatusCode.OK
    file.write_text(f"{NEW}\n")
    assert discover(channel, ROTATED) is grpc.StatusCode.UNAUTHENTICATED
    assert discover(channel, NEW) is grpc.StatusCode.OK
    file.write_text(ROTATED)


def discover(channel: grpc.Channel, token: str) -> grpc.StatusCode:
    return outcome(channel, "/jina.JinaDiscoverEndpointsRPC/endpoint_discovery", b"", metadata=bearer(token))[0]


def test_no_token_is_in_what_the_executor_shows_of_itself(guarded, channel):
    executor = guarded.executor
    from google.protobuf import empty_pb2

    endpoints = jina_pb2_grpc.JinaDiscoverEndpointsRPCStub(channel).endpoint_discovery(
        empty_pb2.Empty(), metadata=bearer(TOKEN)
    )
    for shown in (
        executor,
        executor.settings,
        executor.metas,
        executor.runtime_args,
        executor.server_policy,
        endpoints,
    ):
        assert TOKEN not in repr(shown)
        assert TOKEN not in str(shown)


def test_no_token_is_in_the_most_talkative_log_or_in_any_reply(tmp_path, monkeypatch, two_cats):
    monkeypatch.setenv("JINA_LOG_LEVEL", "DEBUG")
    log, file = tmp_path / "log", tmp_path / "tokens"
    file.write_text(ROTATED)
    replies = []
    with (
        Service(log=log, auth_tokens=f"{TOKEN},{NEW}", auth_tokens_file=file) as service,
        grpc.insecure_channel(f"127.0.0.1:{service.port}") as channel,
    ):
        prompt = ImagePrompt(img_bytes=two_cats, prompt="how many cats are there?")
        for stream in (False, True):
            answered = Client(port=service.port).post(
                "/", inputs=prompt, return_type=DocList[Response], stream=stream, metadata=bearer(TOKEN)
            )
            assert answered[0].answer == "two"
        file.write_text("short-secret")
        for method in SERVED + CLOSED:
            for token in (TOKEN, ROTATED, NEW + "-wrong"):
                for message in (b"", b"\xff garbage", as_request(DocList[ImagePrompt]([prompt])).buffer or b"x"):
                    replies.append(outcome(channel, method, message, metadata=bearer(token)))
    told = unwrapped(log.read_text() + json.dumps([details for _, details in replies])).replace(" ", "")
    assert "recvaprocess_datarequest" in told  # it is the most talkative
    assert "theformertokensstayvalid" in told
    assert not re.search(f"{TOKEN}|{ROTATED}|{NEW}|short-secret", told)


@pytest.mark.parametrize(
    "broken", [f'[{TOKEN}, "x', f"{TOKEN}: : x", f"[{TOKEN}, short]"], ids=["quote", "colon", "short"]
)
def test_a_configuration_with_a_fault_beside_a_token_does_not_tell_it(tmp_path, broken):
    config = tmp_path / "config.yml"
    text = (ROOT / "config.yml").read_text().replace("executor/__init__.py", str(ROOT / "executor" / "__init__.py"))
    config.write_text(text.replace("auth_tokens: []", f"auth_tokens: {broken}"))
    finished = start_and_fail("--config", str(config))
    assert "blip2: cannot start: " in finished.stderr
    assert TOKEN not in finished.stderr + finished.stdout


@pytest.mark.skipif(shutil.which("strace") is None, reason="strace is not installed")
def test_the_service_connects_to_nothing_but_loopback(tmp_path, monkeypatch, two_cats):
    trace = tmp_path / "trace"
    strace = ["strace", "-f", "-qq", "--seccomp-bpf", "-e", "trace=connect,sendto,sendmsg,sendmmsg", "-o", str(trace)]
    control = "import socket; socket.socket(type=socket.SOCK_DGRAM).connect(('192.0.2.1', 9))"  # sends nothing
    usable = subprocess.run([*strace, sys.executable, "-c", control], check=False, capture_output=True, text=True)
    if usable.returncode:
        pytest.skip(f"strace may not trace here: {usable.stderr.strip()}")
    assert len(addresses_outside(trace)) == 1
    monkeypatch.delenv("JINA_OPTOUT_TELEMETRY")  # the service sets it itself
    with Service(log=tmp_path / "log", command=[*strace, *SERVE]) as service:
        prompt = ImagePrompt(img_bytes=two_cats, prompt="how many cats are there?")
        assert Client(port=service.port).post("/", inputs=prompt, return_type=DocList[Response])[0].answer == "two"
        assert service.stop() == 0
    assert addresses_outside(trace) == []


def addresses_outside(trace: Path) -> list[str]:
    """Lines of the trace with an internet address that is not loopback's."""
    addressed = [line for line in trace.read_text().splitlines() if "AF_INET" in line]
    return [line for line in addressed if not re.search(r'"(127\.\d+\.\d+\.\d+|::1|::ffff:127\.[\d.]+)"', line)]
