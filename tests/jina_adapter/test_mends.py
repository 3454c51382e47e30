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
from executor.jina_adapter import mends
from executor.jina_adapter.contract import ServedExecutor, contract_of
from executor.jina_adapter.orchestration.keeper import drain_timeout_s


def run(program: str) -> None:
    subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=True, timeout=120)


def test_jina_is_mended_once_and_the_package_loaded_once_though_jina_loads_it_by_its_path():
    run("""
import sys
from jina.serve.runtimes.worker.request_handling import WorkerRequestHandler
from jina.importer import PathImporter
untouched = WorkerRequestHandler.stream
from executor import Blip2Executor
mended = WorkerRequestHandler.stream
assert untouched is not mended
PathImporter.add_modules("executor/__init__.py")
assert sys.modules["executor"].Blip2Executor is Blip2Executor
assert not [name for name in sys.modules if name.startswith("user_module.")]
assert WorkerRequestHandler.stream is WorkerRequestHandler.Call is mended
""")


@pytest.mark.parametrize("name", ["Blip2Executor", "Deployment", "Flow"])
def test_a_program_that_starts_the_service_has_the_mends_with_the_name_that_it_uses(name):
    run(f"""
from jina.orchestrate import pods
unkept = pods.run
from executor import {name}
assert pods.run is not unkept
""")


def test_importing_the_package_for_its_documents_loads_no_model_and_changes_nothing():
    run("""
import os, signal, sys
environment, handlers = dict(os.environ), [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]
import docarray  # which imports torch where that is installed
by_docarray = set(sys.modules)
from executor import ErrorCode, ImagePrompt, Response
assert ImagePrompt(prompt="x").prompt == "x"
assert dict(os.environ) == environment
assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)] == handlers
loaded = {name.partition(".")[0] for name in set(sys.modules) - by_docarray}
assert not loaded & {"jina", "torch", "transformers", "aiohttp", "PIL"}, loaded
ours = {name for name in sys.modules if name.startswith("executor.")}
assert ours == {"executor.errors", "executor.schemas", "executor.validation"}, ours
""")


def test_what_the_package_exports_is_what_it_says():
    import executor

    assert set(executor.__all__) <= set(dir(executor))
    assert all(getattr(executor, name) is not None for name in executor.__all__)
    with pytest.raises(AttributeError, match="no attribute 'Nothing'"):
        _ = executor.Nothing


def test_the_executor_keeps_the_contract(tiny_t5):
    executor = Blip2Executor(model=str(tiny_t5), device="cpu")
    try:
        assert isinstance(executor, ServedExecutor)
        assert contract_of(executor) is executor
    finally:
        executor.close()


def test_an_executor_of_somebody_else_keeps_no_contract():
    assert contract_of(SimpleNamespace(overload=lambda: None)) is None
    assert contract_of(None) is None


def test_a_jina_that_the_mends_were_not_tested_with_is_left_alone_and_does_not_serve(monkeypatch):
    monkeypatch.setenv("BLIP2_MODEL", str(CHECKPOINT))
    monkeypatch.setattr(jina, "__version__", "3.35.0")
    monkeypatch.delattr(jina, mends._APPLIED)
    mended = WorkerRequestHandler.stream
    mends.apply()
    assert WorkerRequestHandler.stream is mended
    assert not hasattr(jina, mends._APPLIED)
    with pytest.raises(StartupError, match=r"not tested with the installed 3\.35\.0; install jina==3\.34\.0"):
        Blip2Executor()


def test_the_tested_jina_is_the_one_that_is_installed_and_required():
    assert jina.__version__ == mends.TESTED
    assert f'"jina=={mends.TESTED}"' in (ROOT / "pyproject.toml").read_text()
    assert f"\njina=={mends.TESTED}\n" in (ROOT / "requirements.txt").read_text()


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
