"""Loading pictures against Pillow and transformers' own image processor."""

import asyncio
import base64
import io
import urllib.parse
from collections.abc import Coroutine, Iterator
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from packaging.version import Version
from PIL import Image
from transformers.models.blip.image_processing_pil_blip import BlipImageProcessorPil

from executor.errors import ErrorCode, RequestError
from executor.images import ImageLimits, ImageLoader

SIZE = (60, 50)
OLD_TRANSFORMERS = Version(transformers.__version__) < Version("5.23")
LIMITS = ImageLimits(
    max_image_bytes=200_000, max_image_pixels=500 * 500, fetch_timeout_s=5, max_redirects=2, max_fetches=4
)


@pytest.fixture
def loader() -> Iterator[ImageLoader]:
    loader = ImageLoader(SIZE, Image.Resampling.BICUBIC, LIMITS, threads=1)
    yield loader
    loader.close()


def run(coroutine: Coroutine[Any, Any, torch.Tensor]) -> torch.Tensor:
    return asyncio.run(coroutine)


def draw(mode: str = "RGB", size: tuple[int, int] = (90, 70)) -> Image.Image:
    noise = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 4), dtype=np.uint8)
    return Image.fromarray(noise, "RGBA").convert(mode)


def encode(picture: Image.Image, encoding: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, encoding)
    return buffer.getvalue()


def as_the_processor_resizes(data: bytes) -> torch.Tensor:
    processor = BlipImageProcessorPil(size={"height": SIZE[0], "width": SIZE[1]}, do_rescale=False, do_normalize=False)
    return processor(Image.open(io.BytesIO(data)), return_tensors="pt").pixel_values[0]


@pytest.mark.parametrize("encoding", ["PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF"])
@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "LA", "P", "1", "CMYK"])
def test_a_picture_is_resized_as_the_processor_does(loader, mode, encoding):
    try:
        data = encode(draw(mode), encoding)
    except OSError:
        pytest.skip(f"{encoding} has no mode {mode}")
    if OLD_TRANSFORMERS and is_transparent(data):
        pytest.skip("transformers before 5.23, the newest for Python 3.10, ignores transparency")
    pixels = run(loader.load(None, data))
    assert pixels.dtype is torch.uint8
    assert torch.equal(pixels.float(), as_the_processor_resizes(data).float())


def test_data_uris_are_read_base64_and_percent_encoded(loader):
    data = encode(draw())
    expected = run(loader.load(None, data))
    base64_uri = "data:image/png;base64," + base64.b64encode(data).decode()
    percent_uri = "data:image/png," + urllib.parse.quote_from_bytes(data)
    assert torch.equal(run(loader.load(base64_uri)), expected)
    assert torch.equal(run(loader.load(percent_uri)), expected)


def is_transparent(data: bytes) -> bool:
    picture = Image.open(io.BytesIO(data))
    picture.load()
    return "A" in picture.getbands() or "transparency" in picture.info


def refusal(loader: ImageLoader, reference: str | None, data: bytes | None = None) -> ErrorCode:
    with pytest.raises(RequestError) as refused:
        run(loader.load(reference, data))
    return refused.value.code


@pytest.mark.parametrize("reference", [None, "", "  "])
def test_no_picture_is_an_error(loader, reference):
    assert refusal(loader, reference) is ErrorCode.NO_IMAGE


@pytest.mark.parametrize(
    "reference", ["/etc/passwd", "file:///etc/passwd", "ftp://a.example/x.png", "cat.png", "s3://b/k"]
)
def test_other_schemes_and_paths_are_refused(loader, reference):
    assert refusal(loader, reference) is ErrorCode.UNSUPPORTED_SCHEME


@pytest.mark.parametrize("uri", ["data:image/png;base64", "data:image/png;base64,@@@", "data:image/png;base64,AAAA"])
def test_a_data_uri_without_a_picture_is_not_an_image(loader, uri):
    assert refusal(loader, uri) is ErrorCode.NOT_AN_IMAGE


def test_what_is_no_picture_is_not_an_image(loader):
    assert refusal(loader, None, b"<html>not found</html>") is ErrorCode.NOT_AN_IMAGE
    assert refusal(loader, None, b"") is ErrorCode.NOT_AN_IMAGE


@pytest.mark.parametrize("encoding", ["PNG", "JPEG"])
def test_a_truncated_picture_is_refused_and_not_half_grey(loader, encoding):
    data = encode(draw(), encoding)
    assert refusal(loader, None, data[: len(data) * 2 // 3]) is ErrorCode.CORRUPT_IMAGE


def test_pictures_over_a_limit_are_refused(loader):
    assert refusal(loader, None, encode(draw(size=(510, 510)))) is ErrorCode.IMAGE_TOO_LARGE
    blank = encode(Image.new("1", (1000, 1000)))
    assert len(blank) < LIMITS.max_image_bytes
    assert refusal(loader, None, blank) is ErrorCode.TOO_MANY_PIXELS


def test_a_url_is_fetched(loader, pictures_url, two_cats):
    expected = run(loader.load(None, two_cats))
    assert torch.equal(run(loader.load(f"{pictures_url}/two-cats.jpg?size=large")), expected)


def test_a_url_that_is_not_there_is_not_found(loader, pictures_url):
    assert refusal(loader, f"{pictures_url}/three-cats.jpg") is ErrorCode.IMAGE_NOT_FOUND


def test_a_server_that_is_not_there_is_a_failed_fetch(loader):
    assert refusal(loader, "http://127.0.0.1:1/cat.jpg") is ErrorCode.FETCH_FAILED
