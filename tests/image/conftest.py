"""The images, built once for all tests that run them; and a container that most of them share."""

from __future__ import annotations

import io
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from demo.service import CHECKPOINT
from tests.image.building import IMAGE, IMAGE_WITH_CHECKPOINT, base_image, build
from tests.image.podman import Container

MODEL = (f"--volume={CHECKPOINT}:/models/demo:ro", "--env=BLIP2_MODEL=/models/demo")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Only who asks for them (`-m image`) gets these tests: they need root, tools and minutes."""
    if "image" not in config.getoption("markexpr"):
        left_out = [item for item in items if item.get_closest_marker("image")]
        items[:] = [item for item in items if item not in left_out]
        config.hook.pytest_deselected(items=left_out)


@pytest.fixture(scope="session")
def base() -> str:
    return base_image()


@pytest.fixture(scope="session")
def image(base: str) -> str:
    """The CPU variant."""
    build(IMAGE, base)
    return IMAGE


@pytest.fixture(scope="session")
def image_with_checkpoint(image: str, base: str) -> str:
    """The same with the demo checkpoint baked in."""
    build(IMAGE_WITH_CHECKPOINT, base, CHECKPOINT="demo/checkpoint")
    return IMAGE_WITH_CHECKPOINT


@pytest.fixture(scope="session")
def host_port(tmp_path_factory: pytest.TempPathFactory, two_cats: bytes) -> Iterator[int]:
    """A port of this machine, open to its containers, with `two-cats.webp` over HTTP."""
    folder = tmp_path_factory.mktemp("served")
    Image.open(io.BytesIO(two_cats)).save(Path(folder, "two-cats.webp"), quality=95)

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("0.0.0.0", 0), partial(Quiet, directory=str(folder)))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server.server_port
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture(scope="session")
def container(image: str, host_port: int, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Container]:
    """The CPU variant with the demo checkpoint mounted, shared by the tests that only ask."""
    models = tmp_path_factory.mktemp("models")
    models.chmod(0o777)
    (models / "demo").mkdir()  # where the checkpoint is mounted
    allowed = f"--env=BLIP2_ALLOWED_HOSTS=host.containers.internal:{host_port}"
    with Container(image, f"--volume={models}:/models", *MODEL, allowed) as running:
        yield running
