"""Files that are cheap to send and expensive to open. Work is counted in reads, never in seconds."""

import io
import resource
import struct
import zlib

import pytest
from PIL import Image

from executor.errors import DocumentError, ErrorCode
from executor.pictures.bombs import MAX_READS, MAX_TIFF_VALUES, BombError, BoundedFile, check_tiff
from executor.pictures.decoding import Decoder
from executor.pictures.limits import ImageLimits
from tests.support.corpus import draw, encode, frames, jpeg_with, png_chunk, png_of, tiff_of

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")

LIMITS = ImageLimits()
MEGABYTES = 2**20


def code(data: bytes) -> ErrorCode | None:
    assert len(data) <= LIMITS.max_image_bytes
    try:
        Decoder((224, 224), Image.Resampling.BICUBIC, LIMITS)(data)
    except DocumentError as error:
        return error.code
    return None


def peak_memory() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


MILLION = 1_000_000
GIF = b"GIF89a" + struct.pack("<HHBBB", 1, 1, 0, 0, 0)
GIF_FRAME = b",\0\0\0\0\1\0\1\0\0\2\2D\1\0;"
BMP_RLE = b"BM" + struct.pack("<IHHI", 0, 0, 0, 1078)
BMP_RLE += struct.pack("<IiiHHIIiiII", 40, 7000, 7000, 1, 8, 1, 0, 0, 0, 256, 0) + bytes(1024)

BOMBS = {
    "JPEG of empty segments": lambda: jpeg_with(b"\xff\xee\0\2" * MILLION),
    "JPEG of fill bytes": lambda: jpeg_with(b"\xff" * MILLION),
    "PNG of empty chunks": lambda: png_of(1, 1, png_chunk(b"tEXt", b"a\0b") * MILLION),
    "PNG of empty data chunks": lambda: png_of(1, 1, png_chunk(b"IDAT", b"") * MILLION),
    "PNG text": lambda: png_of(1, 1, png_chunk(b"zTXt", b"k\0\0" + zlib.compress(bytes(MILLION))) * 100),
    "PNG colour profile": lambda: png_of(1, 1, png_chunk(b"iCCP", b"p\0\0" + zlib.compress(bytes(50 * MILLION)))),
    "PNG pixels that go on": lambda: png_of(1, 1, pixels=zlib.compress(bytes(100 * MILLION))),
    "GIF of empty comments": lambda: GIF + b"!\xfe\1a\0" * MILLION + GIF_FRAME,
    "GIF of nothing": lambda: GIF + bytes(MILLION) + GIF_FRAME,
    "BMP of empty runs": lambda: BMP_RLE + b"\1\0" * MILLION,
    "TIFF with a million strips": lambda: tiff_of({273: (4, MILLION, 200)}, bytes(100) + b"\10\0\0\0" * MILLION),
    "TIFF with a million short strips": lambda: tiff_of({273: (3, MILLION, 200)}, bytes(100) + b"\10\0" * MILLION),
    "TIFF with huge tiles": lambda: tiff_of(
        {259: (3, 1, 8), 322: (4, 1, 40000), 323: (4, 1, 40000), 324: (4, 1, 300), 325: (4, 1, 20)},
        bytes(200) + zlib.compress(bytes(1000)),
    ),
    "TIFF with overlapping tags": lambda: tiff_of({1000 + n: (7, MILLION, 8) for n in range(60000)}, bytes(MILLION)),
    "WebP canvas": lambda: webp_canvas(16000, 16000),
    "GIF screen": lambda: b"GIF89a" + struct.pack("<HHBBB", 65535, 65535, 0, 0, 0) + GIF_FRAME,
    "GIF frame larger than its screen": lambda: (
        GIF + b"," + struct.pack("<HHHHB", 0, 0, 65535, 65535, 0) + b"\2\2D\1\0;"
    ),
    "PNG header": lambda: png_of(2**31 - 1, 2**31 - 1, pixels=b""),
    "JPEG header": lambda: jpeg_with(b"").replace(b"\0\x08\0\x08", b"\xff\xff\xff\xff", 1),
    "progressive JPEG of many scans": lambda: many_scans(3000, 2000),
}


def webp_canvas(width: int, height: int) -> bytes:
    inner = encode(Image.new("RGB", (1, 1)), "WEBP", lossless=True)[12:]
    frame = bytes(12) + b"\1\0\0\0" + inner
    sides = struct.pack("<I", width - 1)[:3] + struct.pack("<I", height - 1)[:3]
    chunks = b"VP8X" + struct.pack("<I", 10) + b"\2\0\0\0" + sides + b"ANIM" + struct.pack("<I", 6) + bytes(6)
    chunks += b"ANMF" + struct.pack("<I", len(frame)) + frame + b"\0" * (len(frame) % 2)
    return b"RIFF" + struct.pack("<I", len(chunks) + 4) + b"WEBP" + chunks


def many_scans(side: int, scans: int) -> bytes:
    picture = encode(Image.new("L", (side, side)), "JPEG", progressive=True)
    last = picture[picture.rfind(b"\xff\xda") : -2]
    return picture[:-2] + last * scans + picture[-2:]


HARMLESS = {"PNG pixels that go on"}
"""What Pillow reads without harm, because it reads less than there is."""


@pytest.mark.parametrize("name", BOMBS)
def test_a_bomb_is_refused_before_it_takes_memory(name):
    data = BOMBS[name]()
    before = peak_memory()
    refused = code(data)
    assert refused in (ErrorCode.CORRUPT_IMAGE, ErrorCode.TOO_MANY_PIXELS) or name in HARMLESS
    assert peak_memory() - before < 150 * MEGABYTES


@pytest.mark.parametrize("encoding", ["GIF", "TIFF"])
def test_pictures_of_many_frames_are_read_as_one(encoding, monkeypatch):
    data = frames(encoding, 200)
    reads = 0

    def counting(self: BoundedFile, size: int | None = -1, /) -> bytes:
        nonlocal reads
        reads += 1
        return io.BytesIO.read(self, size)

    monkeypatch.setattr(BoundedFile, "read", counting)
    assert code(data) is None
    many, reads = reads, 0
    assert code(frames(encoding, 2)) is None
    assert many <= 2 * reads


def test_a_tiff_whose_frames_form_a_ring_ends():
    assert code(tiff_of({}, following=8)) is None


def test_reads_are_counted_up_to_the_limit():
    file = BoundedFile(bytes(MAX_READS))
    for _ in range(MAX_READS):
        file.read(1)
    with pytest.raises(BombError):
        file.read(1)


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("big", [False, True])
def test_values_of_a_tiff_are_counted_in_both_byte_orders_and_sizes(order, big):
    def tiff(count: int) -> bytes:
        mark = b"II" if order == "<" else b"MM"
        if big:
            head = mark + struct.pack(order + "HHHQ", 43, 8, 0, 16)
            return head + struct.pack(order + "QHHQQ", 1, 273, 4, count, 0)
        return mark + struct.pack(order + "HIHHHII", 42, 8, 1, 273, 4, count, 0)

    if big and order == ">":
        pytest.skip("not opened: Pillow does not know its byte order")
    check_tiff(tiff(MAX_TIFF_VALUES) + bytes(4 * MAX_TIFF_VALUES), 1)
    with pytest.raises(BombError):
        check_tiff(tiff(MAX_TIFF_VALUES + 1) + bytes(4 * MAX_TIFF_VALUES + 4), 1)
    with pytest.raises(BombError):
        check_tiff(tiff(1000) + bytes(3000), 1)


def test_large_sound_pictures_of_all_kinds_are_far_from_every_limit():
    picture = draw("RGB", (3000, 2000))
    for encoding, options in (
        ("JPEG", {"progressive": True, "quality": 95}),
        ("PNG", {"compress_level": 1}),
        ("TIFF", {}),
        ("TIFF", {"compression": "tiff_lzw", "strip_size": 3000}),
        ("GIF", {}),
        ("BMP", {}),
    ):
        assert code(encode(picture, encoding, **options)) is None
