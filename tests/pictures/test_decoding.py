"""Decoding against transformers' own image processor, bit for bit, and against files made to break it."""

import io
import itertools
import threading
import warnings
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageFile, ImageOps
from transformers.models.blip.image_processing_pil_blip import BlipImageProcessorPil

from executor.errors import DocumentError, ErrorCode
from executor.model.vision import normalised_levels
from executor.pictures.decoding import FORMATS, Decoder, picture_format
from executor.pictures.limits import PILLOW_MAX_PIXELS, ImageLimits
from tests.support.corpus import MODES, draw, encode, frames, pictures, with_orientation

PROCESSOR = BlipImageProcessorPil(size={"height": 224, "width": 224})
LEVELS = normalised_levels(PROCESSOR)


def decoder(**limits: Any) -> Decoder:
    return Decoder((224, 224), Image.Resampling.BICUBIC, ImageLimits(**limits))


def normalised(pixels: torch.Tensor) -> torch.Tensor:
    """As the model does on its device."""
    return LEVELS[torch.arange(3).view(3, 1, 1), pixels.to(torch.int64)]


def as_the_processor(picture: Image.Image) -> torch.Tensor:
    return PROCESSOR(images=picture, return_tensors="pt").pixel_values[0]


def error_of(data: bytes, **limits: Any) -> DocumentError:
    with pytest.raises(DocumentError) as refused:
        decoder(**limits)(data)
    return refused.value


# Exactness


@pytest.mark.parametrize("orientation", [True, False])
def test_every_mode_in_every_format_is_bit_for_bit_what_the_processor_makes(orientation):
    decode = decoder(exif_orientation=orientation)
    seen = set()
    for name, data in pictures():
        with Image.open(io.BytesIO(data)) as picture:
            seen.add((picture.format, picture.mode))
            expected = as_the_processor(picture)
        pixels = decode(data)
        assert pixels.dtype is torch.uint8
        assert pixels.shape == (3, 224, 224)
        assert pixels.is_contiguous()
        assert torch.equal(normalised(pixels), expected), name
    # What Pillow opens from the corpus, so that none of it is missing by accident.
    assert {kind for kind, _ in seen} == set(FORMATS)
    assert {mode for _, mode in seen} == {*MODES}, seen


@pytest.mark.parametrize("encoding", ["JPEG", "PNG", "WEBP", "TIFF", "AVIF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_rotated_pictures_are_the_processors_with_exif_orientation_off(encoding, orientation):
    data = with_orientation(encoding, orientation)
    with Image.open(io.BytesIO(data)) as picture:
        assert torch.equal(normalised(decoder(exif_orientation=False)(data)), as_the_processor(picture))


@pytest.mark.parametrize("encoding", ["JPEG", "PNG", "WEBP", "TIFF", "AVIF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_rotated_pictures_are_turned_upright_by_default(encoding, orientation):
    data = with_orientation(encoding, orientation)
    with Image.open(io.BytesIO(data)) as picture:
        picture.load()
        upright = ImageOps.exif_transpose(picture)
        assert upright.size == ((90, 60) if orientation < 5 else (60, 90))
        assert torch.equal(normalised(decoder()(data)), as_the_processor(upright))


def test_orientation_in_xmp_counts_too():
    xmp = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf tiff:Orientation="6"/></x:xmpmeta>'
    data = encode(draw("RGB", (90, 60)), "JPEG", xmp=xmp)
    with Image.open(io.BytesIO(data)) as picture:
        expected = as_the_processor(picture.transpose(Image.Transpose.ROTATE_270))
    assert torch.equal(normalised(decoder()(data)), expected)


@pytest.mark.parametrize(
    "exif", [b"Exif\0\0garbage", b"Exif\0\0II*\0\xff\xff\xff\xff", b"Exif\0\0MM\0*\0\0\0\x08\xff\xff"]
)
def test_broken_exif_data_leaves_the_picture_as_it_is(exif):
    picture = draw("RGB", (90, 60))
    assert torch.equal(decoder()(encode(picture, "JPEG", exif=exif)), decoder()(encode(picture, "JPEG")))


@pytest.mark.parametrize("encoding", ["GIF", "TIFF", "WEBP", "PNG", "AVIF", "MPO"])
def test_of_several_frames_the_first_counts(encoding):
    data = frames(encoding)
    with Image.open(io.BytesIO(data)) as picture:
        picture.seek(2)
        picture.seek(0)
        assert torch.equal(normalised(decoder()(data)), as_the_processor(picture))


def test_transparency_is_seen_on_white():
    assert decoder()(encode(Image.new("RGBA", (5, 5), (0, 0, 0, 0)), "PNG")).unique().tolist() == [255]


def test_fast_decoding_of_large_jpegs_is_close_and_leaves_everything_else_exact():
    rough = np.random.default_rng(0).integers(0, 256, (30, 40, 3), dtype=np.uint8)
    photo = Image.fromarray(rough).resize((4000, 3000), Image.Resampling.BICUBIC)
    fast, exact = decoder(fast_jpeg_decode=True), decoder()
    data = encode(photo, "JPEG", quality=90)
    difference = (fast(data).int() - exact(data).int()).abs()
    assert 0 < difference.max() <= 3
    small = photo.resize((640, 480))
    for encoding in ("JPEG", "PNG"):
        assert torch.equal(fast(encode(small, encoding)), exact(encode(small, encoding)))


# Limits


def test_limits_on_pixels_and_sides_hold_exactly():
    picture = encode(Image.new("1", (100, 50)), "PNG")
    decoder(max_image_pixels=5000, max_image_side=100)(picture)
    for limits, setting in (
        ({"max_image_pixels": 4999}, "max_image_pixels"),
        ({"max_image_side": 99}, "max_image_side"),
    ):
        error = error_of(picture, **limits)
        assert error.code is ErrorCode.TOO_MANY_PIXELS
        assert setting in str(error)


@pytest.mark.parametrize("encoding", FORMATS)
def test_too_many_pixels_are_refused_before_they_are_decoded(encoding, monkeypatch):
    data = encode(Image.new("RGB", (200, 100)), encoding)
    monkeypatch.setattr(ImageFile.ImageFile, "load", None)
    assert error_of(data, max_image_pixels=100).code is ErrorCode.TOO_MANY_PIXELS


def test_the_limit_is_the_services_own_and_not_pillows(monkeypatch):
    data = encode(Image.new("1", (3000, 3000)), "PNG")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        decoder()(data)


def test_nothing_global_in_pillow_is_changed():
    assert Image.MAX_IMAGE_PIXELS == PILLOW_MAX_PIXELS // 2
    assert not ImageFile.LOAD_TRUNCATED_IMAGES


# Broken files


@pytest.mark.parametrize("encoding", FORMATS)
@pytest.mark.parametrize("kept", [0.2, 0.5, 0.9, 0.97])
def test_truncated_files_are_refused_and_not_half_grey(encoding, kept):
    data = encode(draw("RGB", (200, 150)), encoding)
    assert error_of(data[: int(len(data) * kept)]).code is ErrorCode.CORRUPT_IMAGE


@pytest.mark.parametrize("encoding", ["JPEG", "PNG"])
def test_truncated_interlaced_files_are_refused(encoding):
    data = encode(draw("RGB", (200, 150)), encoding, progressive=True, interlace=1)
    assert error_of(data[: len(data) * 9 // 10]).code is ErrorCode.CORRUPT_IMAGE


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\0",
        b"<html>not found</html>",
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n",
        b"8BPS\0\1" + bytes(30),
        b"%PDF-1.4\n",
        b"P6 1 1 255 abc",
        b"<svg xmlns='http://www.w3.org/2000/svg'/>",
        b"\0\0\1\0\1\0" + bytes(40),
        b"MM\0+" + bytes(40),
        b"RIFF\0\0\0\0WAVE",
        b"\0\0\0\x20ftypheic" + bytes(40),
    ],
)
def test_other_formats_are_never_opened(data):
    assert picture_format(data) is None
    error = error_of(data)
    assert error.code is ErrorCode.NOT_AN_IMAGE
    assert "JPEG, PNG" in str(error)


def test_formats_that_pillow_writes_and_the_service_does_not_read_are_refused():
    for encoding in ("PPM", "TGA", "PCX", "ICO", "EPS", "PDF", "DDS", "SGI", "IM", "JPEG2000"):
        assert error_of(encode(Image.new("RGB", (16, 16)), encoding)).code is ErrorCode.NOT_AN_IMAGE


@pytest.mark.parametrize("encoding", FORMATS)
def test_a_header_alone_is_a_corrupt_picture(encoding):
    data = encode(draw("RGB", (20, 20)), encoding)
    assert error_of(data[:16]).code is ErrorCode.CORRUPT_IMAGE


# Threads


def test_many_threads_make_what_one_makes():
    corpus = [data for _, data in itertools.islice(pictures(), 0, None, 25)]
    decode = decoder()
    alone = [decode(data) for data in corpus]
    start = threading.Barrier(4)

    def everything() -> list[torch.Tensor]:
        start.wait()
        return [decode(data) for data in corpus]

    with ThreadPoolExecutor(4) as pool:
        for together in [future.result() for future in [pool.submit(everything) for _ in range(4)]]:
            assert all(torch.equal(one, other) for one, other in zip(alone, together, strict=True))
