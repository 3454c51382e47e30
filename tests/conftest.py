"""What the tests share: the demo checkpoint, its pictures, a running service, pictures on loopback HTTP."""

import os
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

# Read by jina, transformers and torch when they are imported. No test may reach out of this machine; and models as
# small as these run fastest on one thread, above all where several services share the cores.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ["JINA_OPTOUT_TELEMETRY"] = "1"
for name in [name for name in os.environ if name.startswith("BLIP2_")]:
    del os.environ[name]

from demo.service import CHECKPOINT, ROOT, Service  # noqa: E402
from tests.support.tiny import build_checkpoint  # noqa: E402

PICTURES = ROOT / "demo" / "pictures"


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Says in which order tests run, and with `pytest -n` which of them run in the same process.

    Threads of gRPC do not survive a fork: a process that has served over it makes children that hang. So tests that
    fork come first, all in one process. Those of a file share what they have started.
    """
    items.sort(key=lambda item: item.get_closest_marker("forks") is None)
    if config.pluginmanager.hasplugin("xdist"):
        for item in items:
            place = "forks" if item.get_closest_marker("forks") else str(item.path)
            item.add_marker(pytest.mark.xdist_group(place))


@pytest.fixture(scope="session")
def two_cats() -> bytes:
    """A JPEG with two cats and some shapes."""
    return (PICTURES / "two-cats.jpg").read_bytes()


@pytest.fixture(scope="session")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """`python -m executor` with the demo checkpoint, shared by all tests that only ask."""
    log = tmp_path_factory.mktemp("service") / "service.log"
    with Service(log=log, allowed_hosts="127.0.0.1") as running:
        yield running


@pytest.fixture(scope="session")
def tiny_t5(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_checkpoint(tmp_path_factory.mktemp("tiny") / "t5", "t5")


@pytest.fixture(scope="session")
def tiny_opt(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_checkpoint(tmp_path_factory.mktemp("tiny") / "opt", "opt")


@pytest.fixture
def demo_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Services started by this test load the demo checkpoint, and pictures from loopback."""
    monkeypatch.setenv("BLIP2_MODEL", str(CHECKPOINT))
    monkeypatch.setenv("BLIP2_ALLOWED_HOSTS", "127.0.0.1")


@pytest.fixture(scope="session")
def pictures_url() -> Iterator[str]:
    """`demo/pictures` served over HTTP on loopback: the URL of the folder."""

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(PICTURES)))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()
    thread.join()
