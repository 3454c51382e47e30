"""Pictures in every mode and format that the service reads, made here from a seed."""

import functools
import io
import random
import struct
import zlib
from collections.abc import Iterator
from typing import Any

import numpy as np
from PIL import Image

MODES = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "I;16", "F")
SIZES = ((97, 61), (224, 224), (1, 1), (3, 640), (641, 2), (300, 500))

_VARIANTS: dict[str, tuple[dict[str, Any], ...]] = {
    "JPEG": ({}, {"quality": 30, "progressive": True}, {"subsampling": 0, "optimize": True}),
    "PNG": ({}, {"compress_level": 0}, {"transparency": 7}),
    "WEBP": ({}, {"lossless": True}),
    "GIF": ({}, {"interlace": 0}, {"transparency": 3}),
    "BMP": ({},),
    "TIFF": ({}, {"compression": "tiff_lzw"}, {"compression": "tiff_adobe_deflate"}, {"compression": "jpeg"}),
    "AVIF": ({"speed": 10}, {"speed": 10, "subsampling": "4:4:4"}),
}


def draw(mode: str, size: tuple[int, int], seed: int = 0) -> Image.Image:
    """Noise on a gradient, in one of `MODES`."""
    random_numbers = np.random.default_rng(seed)
    width, height = size
    ramp = np.linspace(0, 200, width * height, dtype=np.float32).reshape(height, width, 1)
    levels = (ramp + random_numbers.integers(0, 56, (height, width, 4))).astype(np.uint8)
    if mode == "F":
        return Image.fromarray(levels[..., 0].astype(np.float32) * 1.7 - 60)
    if mode == "I;16":
        return Image.fromarray(levels[..., 0].astype(np.uint16) * 3)
    if mode in ("P", "PA"):
        palette = Image.fromarray(levels, "RGBA").convert("RGB").convert("P", palette=Image.Palette.ADAPTIVE)
        if mode == "PA":
            palette = palette.convert("PA")
            palette.putalpha(Image.fromarray(levels[..., 3]))
        return palette
    return Image.fromarray(levels, "RGBA").convert(mode)


@functools.cache
def pictures() -> tuple[tuple[str, bytes], ...]:
    """(what it is, encoded picture), for every combination of mode, format and variant that Pillow can write."""
    return tuple(_pictures())


def _pictures() -> Iterator[tuple[str, bytes]]:
    for mode in MODES:
        for number, size in enumerate(SIZES):
            picture = draw(mode, size, number)
            for encoding, variants in _VARIANTS.items():
                for variant, options in enumerate(variants):
                    if options.get("compression") == "jpeg" and mode not in ("L", "RGB", "CMYK"):
                        continue  # Pillow 12 breaks its memory over it
                    buffer = io.BytesIO()
                    try:
                        picture.save(buffer, encoding, **options)
                    except (OSError, ValueError, KeyError, TypeError, SystemError, struct.error):
                        continue  # a combination that the format does not have
                    yield f"{encoding}-{variant} {mode} {size[0]}x{size[1]}", buffer.getvalue()


def with_orientation(encoding: str, orientation: int, size: tuple[int, int] = (90, 60)) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    buffer = io.BytesIO()
    draw("RGB", size).save(buffer, encoding, exif=exif)
    return buffer.getvalue()


def frames(encoding: str, count: int = 3) -> bytes:
    """An animation; each frame is another picture."""
    pages = [draw("RGB", (60, 40), seed) for seed in range(count)]
    buffer = io.BytesIO()
    pages[0].save(buffer, encoding, save_all=True, append_images=pages[1:])
    return buffer.getvalue()


def encode(picture: Image.Image, encoding: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, encoding, **options)
    return buffer.getvalue()


# Files that nobody's program writes


def png_chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png_of(width: int, height: int, *chunks: bytes, pixels: bytes | None = None) -> bytes:
    """A PNG of black RGB pixels with further chunks before them."""
    header = png_chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    body = zlib.compress(bytes((3 * width + 1) * height)) if pixels is None else pixels
    tail = png_chunk(b"IDAT", body) + png_chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(chunks) + tail


def tiff_of(tags: dict[int, tuple[int, int, int]], after: bytes = b"", following: int = 0) -> bytes:
    """A little-endian TIFF of 1x1 grey pixels. Tags: number -> (type, count, value or place)."""
    usual = {256: (4, 1, 1), 257: (4, 1, 1), 258: (3, 1, 8), 259: (3, 1, 1), 262: (3, 1, 1)}
    usual |= {273: (4, 1, 8), 277: (3, 1, 1), 278: (4, 1, 1), 279: (4, 1, 1)}
    entries = sorted((usual | tags).items())
    directory = b"".join(struct.pack("<HHII", tag, *value) for tag, value in entries)
    head = struct.pack("<2sHIH", b"II", 42, 8, len(entries))
    return head + directory + struct.pack("<I", following) + after


def jpeg_with(segments: bytes) -> bytes:
    """A small JPEG with these bytes after its first marker."""
    plain = encode(Image.new("RGB", (8, 8)), "JPEG")
    return plain[:2] + segments + plain[2:]


def noise(count: int, seed: int) -> bytes:
    return random.Random(seed).randbytes(count)
