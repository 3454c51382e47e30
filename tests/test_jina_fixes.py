"""When Jina is mended; what each mend does is shown over sockets in integration/test_streams.py."""

import os
import subprocess
import sys

import jina
import pytest
from jina.serve.runtimes.worker.request_handling import WorkerRequestHandler

from demo.service import CHECKPOINT, ROOT
from executor import Blip2Executor, jina_fixes
from executor.errors import StartupError


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
