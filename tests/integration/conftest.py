"""What the tests over a socket share."""

from collections.abc import Iterator

import grpc
import numpy as np
import pytest
from PIL import Image

from tests.integration.inprocess import HeldService
from tests.support.held_picture import HeldPicture


@pytest.fixture(scope="session")
def picture(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A small PNG, for services whose answers do not depend on it."""
    file = tmp_path_factory.mktemp("picture") / "picture.png"
    Image.fromarray(np.arange(32 * 32 * 3, dtype=np.uint8).reshape(32, 32, 3)).save(file)
    return file.read_bytes()


@pytest.fixture
def channel(held: HeldService) -> Iterator[grpc.Channel]:
    """To the service that the test's own module starts as `held`."""
    with grpc.insecure_channel(f"127.0.0.1:{held.port}") as channel:
        yield channel


@pytest.fixture
def held_picture(two_cats: bytes) -> Iterator[HeldPicture]:
    held = HeldPicture(two_cats)
    yield held
    held.close()
