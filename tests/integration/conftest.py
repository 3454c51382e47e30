"""What the tests over a socket share."""

import numpy as np
import pytest
from PIL import Image


@pytest.fixture(scope="session")
def picture(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A small PNG, for services whose answers do not depend on it."""
    file = tmp_path_factory.mktemp("picture") / "picture.png"
    Image.fromarray(np.arange(32 * 32 * 3, dtype=np.uint8).reshape(32, 32, 3)).save(file)
    return file.read_bytes()
