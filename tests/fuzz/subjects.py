"""What is fuzzed, and what must never happen: an exception other than a `DocumentError` with a code of theirs."""

import asyncio
import functools
import warnings

import torch
from PIL import Image

from executor.errors import DocumentError, ErrorCode
from executor.pictures.decoding import Decoder
from executor.pictures.limits import ImageLimits
from executor.pictures.loader import ImageLoader
from tests.support.corpus import encode, frames, pictures, with_orientation
from tests.support.hostile import Internet

warnings.simplefilter("ignore")

DECODING = {ErrorCode.NOT_AN_IMAGE, ErrorCode.CORRUPT_IMAGE, ErrorCode.TOO_MANY_PIXELS, ErrorCode.IMAGE_TOO_LARGE}
REFERENCES = DECODING | {
    ErrorCode.NO_IMAGE,
    ErrorCode.UNSUPPORTED_SCHEME,
    ErrorCode.INVALID_URL,
    ErrorCode.ADDRESS_NOT_ALLOWED,
    ErrorCode.FILE_NOT_ALLOWED,
    ErrorCode.IMAGE_NOT_FOUND,
    ErrorCode.FETCH_FAILED,
}

LIMITS = ImageLimits(max_image_pixels=250_000, max_image_side=4096)
_decode = Decoder((224, 224), Image.Resampling.BICUBIC, LIMITS)
_decode_fast = Decoder((32, 16), Image.Resampling.BILINEAR, ImageLimits(**{**vars(LIMITS), "fast_jpeg_decode": True}))


@functools.cache
def seeds() -> tuple[bytes, ...]:
    """Small sound pictures of every format, mode and variant."""
    small = [data for _, data in pictures() if len(data) < 20_000]
    small += [with_orientation(encoding, 6, (9, 6)) for encoding in ("JPEG", "PNG", "WEBP", "TIFF", "AVIF")]
    small += [frames(encoding) for encoding in ("GIF", "TIFF", "WEBP", "PNG", "AVIF")]
    small += [encode(Image.new("RGB", (8, 8)), "JPEG", xmp=b'<x tiff:Orientation="3"/>', comment=b"c", dpi=(9, 9))]
    return tuple(small)


def decode(data: bytes) -> str:
    """Decodes in two ways. Returns how it ended: `ok` or a code."""
    ends = []
    for decoder in (_decode, _decode_fast):
        try:
            pixels = decoder(data)
            assert pixels.dtype is torch.uint8
            ends.append("ok")
        except DocumentError as error:
            if error.code not in DECODING:
                raise
            ends.append(error.code.value)
    return ends[0]


def load(reference: str, local_dir: str) -> str:
    """Loads a reference with no network behind it: names resolve to a loopback address, or to none."""

    async def run() -> str:
        internet = Internet()
        internet.names["a.example"] = [["127.0.0.1"]]
        limits = ImageLimits(**{**vars(LIMITS), "allowed_local_dirs": (local_dir,), "fetch_timeout_s": 20.0})
        loader = ImageLoader((32, 16), Image.Resampling.BILINEAR, limits, 1, internet.lookup)
        # A fuzzed address may be public: nothing is ever connected to.
        loader._fetcher._socket = _no_socket  # type: ignore[assignment, method-assign]
        try:
            await loader.load(reference)
            return "ok"
        except DocumentError as error:
            if error.code not in REFERENCES or local_dir in str(error):
                raise
            return error.code.value
        finally:
            loader.close()

    return asyncio.run(run())


def _no_socket(address: object) -> None:
    raise OSError("no network here")
