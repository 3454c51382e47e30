"""When Jina is mended; what each mend does is shown over sockets in integration/test_streams.py."""

import os
import signal
import subprocess
import sys
import urllib.request
from types import SimpleNamespace

import jina
import pytest
from jina.orchestrate.orchestrator import BaseOrchestrator
from jina.serve.runtimes import asyncio as runtimes
from jina.serve.runtimes.worker.request_handling import WorkerRequestHandler

from demo.service import CHECKPOINT, ROOT
from executor import Blip2Executor
from executor.errors import StartupError
from executor.jina_adapter import mends as jina_fixes
from executor.jina_adapter.orchestration.keeper import drain_timeout_s


def test_jina_is_mended_once_though_the_package_is_loaded_twice():
    program = """
import sys
from jina.serve.runtimes.worker.request_handling import WorkerRequestHandler
from jina.importer import PathImporter
untouched = WorkerRequestHandler.stream
import executor
mended = WorkerRequestHandler.stream
PathImporter.add_modules("executor/__init__.py")
assert sys.modules["user_module"] is not executor and "user_module.jina_fixes" in sys.modules
assert untouched is not mended
assert WorkerRequestHandler.stream is WorkerRequestHandler.Call is mended
"""
    subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=True, timeout=120)


def test_a_jina_that_the_mends_were_not_tested_with_is_left_alone_and_does_not_serve(monkeypatch):
    monkeypatch.setenv("BLIP2_MODEL", str(CHECKPOINT))
    monkeypatch.setattr(jina, "__version__", "3.35.0")
    monkeypatch.delattr(jina, jina_fixes._APPLIED)
    mended = WorkerRequestHandler.stream
    jina_fixes.apply()
    assert WorkerRequestHandler.stream is mended
    assert not hasattr(jina, jina_fixes._APPLIED)
    with pytest.raises(StartupError, match=r"not tested with the installed 3\.35\.0; install jina==3\.34\.0"):
        Blip2Executor()


def test_the_tested_jina_is_the_one_that_is_installed_and_required():
    assert jina.__version__ == jina_fixes.TESTED
    assert f'"jina=={jina_fixes.TESTED}"' in (ROOT / "pyproject.toml").read_text()
    assert f"\njina=={jina_fixes.TESTED}\n" in (ROOT / "requirements.txt").read_text()


def test_messages_leave_no_trace_in_the_environment(monkeypatch):
    from jina.proto.serializer import DataRequestProto
    from jina.types.request.data import DataRequest

    for name in ("JINA_GRPC_SEND_BYTES", "JINA_GRPC_RECV_BYTES"):
        monkeypatch.delenv(name, raising=False)
    request = DataRequest()
    request.header.exec_endpoint = "/vqa"
    sent = DataRequestProto.SerializeToString(request)
    received = DataRequestProto.FromString(sent)
    assert DataRequestProto.SerializeToString(received) == sent
    assert received.header.exec_endpoint == "/vqa"
    assert not [name for name in os.environ if name.startswith("JINA_GRPC_")]


def test_a_segfault_is_no_request_to_end():
    assert signal.SIGSEGV not in runtimes.HANDLED_SIGNALS
    assert signal.SIGTERM in runtimes.HANDLED_SIGNALS


def test_nobody_is_asked_for_the_public_address_of_the_machine(monkeypatch):
    asked = []
    monkeypatch.setattr(urllib.request, "urlopen", lambda request, **_: asked.append(request))
    assert BaseOrchestrator().address_public is None
    assert not asked


def test_the_drain_timeout_of_a_process_without_an_executor_is_that_of_its_executor(monkeypatch):
    assert drain_timeout_s() == 30
    with_options = SimpleNamespace(env=None, uses_with={"drain_timeout_s": 7})
    assert drain_timeout_s(with_options) == 7
    monkeypatch.setenv("BLIP2_DRAIN_TIMEOUT_S", "5")
    assert drain_timeout_s(with_options) == 5
    assert drain_timeout_s(SimpleNamespace(env={"BLIP2_DRAIN_TIMEOUT_S": "3"}, uses_with=None)) == 3
