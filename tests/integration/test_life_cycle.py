"""The process of `python -m executor` from its start to its end, whatever ends it."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
from docarray import DocList
from grpc_health.v1 import health_pb2, health_pb2_grpc
from jina.proto import jina_pb2, jina_pb2_grpc
from jina.types.request.data import DataRequest

from demo.service import SERVE, Service
from executor import ImagePrompt
from tests.integration.inprocess import TIMEOUT_S, as_request
from tests.support.threads import signal_other_thread

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
QUESTION = "Question: how many cats are there? Answer:"
DOCUMENTS = 100


class Unready(Service):
    """Does not wait until it is ready."""

    def wait_until_ready(self) -> None:
        pass

    def wait_for_port(self) -> int | None:
        """The first status that health tells."""
        told: list[int | None] = []

        def is_told() -> bool:
            told.append(health(self.port))
            return told[-1] is not None

        self.wait_until(is_told)
        return told[-1]


def health(port: int) -> int | None:
    with grpc.insecure_channel(f"127.0.0.1:{port}", [("grpc.use_local_subchannel_pool", 1)]) as channel:
        try:
            return int(health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=5).status)
        except grpc.RpcError:
            return None


def is_open(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def request(picture: bytes) -> DataRequest:
    return as_request(DocList[ImagePrompt]([ImagePrompt(img_bytes=picture, prompt=QUESTION)]))


def stream(channel: grpc.Channel, picture: bytes, documents: int) -> Iterator[DataRequest]:
    """A call with one document in each request."""
    call = jina_pb2_grpc.JinaRPCStub(channel).Call(iter([request(picture)] * documents), timeout=TIMEOUT_S)
    return iter(call)


def answer(reply: DataRequest) -> str:
    proto = reply.proto_with_data
    assert proto.header.status.code == jina_pb2.StatusProto.SUCCESS
    return str(proto.data.docs.docs[0].data["answer"].text)


def test_health_says_not_serving_until_the_model_is_there_and_then_it_answers(tmp_path, two_cats):
    with Unready(log=tmp_path / "log") as service:
        assert service.wait_for_port() == NOT_SERVING
        assert not service.is_ready()
        service.wait_until(service.is_ready)
        with grpc.insecure_channel(f"127.0.0.1:{service.port}") as channel:
            assert answer(next(stream(channel, two_cats, 1))) == "two"


@pytest.mark.parametrize("library", ["", "torch", "cygrpc"])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_while_libraries_are_imported_ends_at_once_without_a_word(tmp_path, number, library):
    """Process 1 of a container gets no signal that it has no handler for."""
    with Unready(log=tmp_path / "log") as service:
        service.wait_until(lambda: handles(service.process.pid, signal.SIGTERM))
        # Jina sets a handler of its own before it imports gRPC; transformers comes much later.
        service.wait_until(lambda: library in Path(f"/proc/{service.process.pid}/maps").read_text())
        assert not is_open(service.port)
        service.process.send_signal(number)
        assert service.process.wait(TIMEOUT_S) == 128 + number
    assert (tmp_path / "log").read_text() == ""


def handles(process: int, number: signal.Signals) -> bool:
    """Whether a process has a handler for a signal, or ignores it."""
    fields = dict(line.split(":\t") for line in Path(f"/proc/{process}/status").read_text().splitlines())
    return bool((int(fields["SigCgt"], 16) | int(fields["SigIgn"], 16)) >> (number - 1) & 1)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_while_the_model_is_loaded_ends_at_once(tmp_path, number):
    with Unready(log=tmp_path / "log") as service:
        assert service.wait_for_port() == NOT_SERVING
        service.process.send_signal(number)
        assert service.process.wait(TIMEOUT_S) == 0
        assert not is_open(service.port)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_drains_and_the_exit_status_is_0(tmp_path, two_cats, number):
    with Service(log=tmp_path / "log") as service, grpc.insecure_channel(f"127.0.0.1:{service.port}") as channel:
        replies = stream(channel, two_cats, DOCUMENTS)
        assert answer(next(replies)) == "two"
        service.process.send_signal(number)
        assert [answer(reply) for reply in replies] == ["two"] * (DOCUMENTS - 1)
        assert service.process.wait(TIMEOUT_S) == 0
        assert not is_open(service.port)


def test_a_signal_that_the_kernel_gives_another_thread_ends_an_idle_service(tmp_path):
    with Service(log=tmp_path / "log") as service:
        signal_other_thread(service.process.pid, signal.SIGTERM)
        assert service.process.wait(TIMEOUT_S) == 0


def test_a_second_signal_ends_at_once(tmp_path, two_cats):
    with Service(log=tmp_path / "log") as service, grpc.insecure_channel(f"127.0.0.1:{service.port}") as channel:
        watched = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest(), timeout=TIMEOUT_S)
        assert next(watched).status == SERVING
        replies = stream(channel, two_cats, 20_000)
        assert answer(next(replies)) == "two"
        service.process.send_signal(signal.SIGTERM)
        assert next(watched).status == NOT_SERVING
        service.process.send_signal(signal.SIGTERM)
        assert service.process.wait(TIMEOUT_S) == 128 + signal.SIGTERM
        with pytest.raises(grpc.RpcError):
            list(replies)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV, signal.SIGABRT])
def test_a_process_that_is_killed_is_gone_with_its_port_and_its_status(tmp_path, number):
    with Service(log=tmp_path / "log") as service:
        service.process.send_signal(number)
        assert service.process.wait(TIMEOUT_S) == -number
        assert not is_open(service.port)
    if number == signal.SIGSEGV:
        assert "Fatal Python error: Segmentation fault" in (tmp_path / "log").read_text()


def test_as_process_1_of_a_container(tmp_path, two_cats):
    """The kernel gives process 1 of a PID namespace only the signals that it has handlers for."""
    unshare = [shutil.which("unshare") or "", "--pid", "--fork", "--mount-proc", "--kill-child"]
    if not unshare[0] or subprocess.run([*unshare, "true"], check=False, capture_output=True).returncode:
        pytest.skip("this machine does not let its user make a PID namespace (unshare)")
    with (
        Service(log=tmp_path / "log", command=[*unshare, *SERVE]) as service,
        grpc.insecure_channel(f"127.0.0.1:{service.port}") as channel,
    ):
        replies = stream(channel, two_cats, DOCUMENTS)
        assert answer(next(replies)) == "two"
        os.kill(only_child(service.process.pid), signal.SIGTERM)
        assert [answer(reply) for reply in replies] == ["two"] * (DOCUMENTS - 1)
        assert service.process.wait(TIMEOUT_S) == 0


def only_child(parent: int) -> int:
    (child,) = Path(f"/proc/{parent}/task/{parent}/children").read_text().split()
    return int(child)
