"""Files that are cheap to send and expensive to open, beyond what their width and height say.

Knows the formats that can be abused so. It must not know which decoder opens which file. Every number is far above what
real pictures need and was set by what Pillow 12 and 13 do with files of 20 MB: minutes of work and gigabytes of memory
without these checks, seconds and some ten megabytes with them.
"""

import io
import struct

MAX_READS = 500_000
"""Reads in one file. A JPEG made of empty segments, a PNG of empty chunks, a GIF of empty blocks takes millions."""

MAX_SCANNED_PIXELS = 4_000_000_000
"""Scans of a progressive JPEG x pixels: about four seconds. A scan of 60 bytes goes through the whole picture."""

MAX_TIFF_VALUES = 2**18
"""Numbers in a TIFF's first directory, such as the places of its strips: Pillow makes an object of each."""

_INTEGER_BYTES = {1: 1, 3: 2, 4: 4, 13: 4, 16: 8}
"""TIFF's unsigned integer types -> bytes of one value."""
_VALUE_BYTES = _INTEGER_BYTES | {2: 1, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 17: 8, 18: 8}
_TEXT_TYPES = (1, 2, 6, 7)
"""Types whose values Pillow keeps as bytes."""
_TILE_SIDES = (322, 323)


class BombError(Exception):
    """Says that a file costs more than any real picture does.

    It is no OSError: plugins of Pillow carry on after those.
    """


class BoundedFile(io.BytesIO):
    """Holds a file in memory, and refuses to be read in too many pieces."""

    _reads = 0

    def read(self, size: int | None = -1, /) -> bytes:
        """Reads as `io.BytesIO` does.

        Raises:
            BombError: it was read `MAX_READS` times before.
        """
        self._reads += 1
        if self._reads > MAX_READS:
            raise BombError
        return super().read(size)


def check_scans(data: bytes, pixels: int) -> None:
    """Refuses a progressive JPEG of too many scans. Counts what looks like a scan, so it never counts too few.

    Args:
        data: the encoded picture.
        pixels: its width x its height.

    Raises:
        BombError: scans x pixels are above `MAX_SCANNED_PIXELS`.
    """
    if data.count(b"\xff\xda") * pixels > MAX_SCANNED_PIXELS:
        raise BombError


def check_tiff(data: bytes, max_pixels: int) -> None:
    """Refuses a TIFF whose first directory has too many values, values that overlap, or tiles larger than a picture.

    Args:
        data: a file that starts with `II*\\0`, `MM\\0*` or `II+\\0` (BigTIFF).
        max_pixels: most pixels of one tile.

    Raises:
        BombError: more values than `MAX_TIFF_VALUES`, more bytes of them than the file has, or the tiles.
        ValueError: the directory is broken.
    """
    order = "<" if data.startswith(b"II") else ">"
    big = data[2] == 43
    start, entry, inline = ("Q", "HHQ", 12) if big else ("I", "HHI", 8)
    try:
        (offset,) = struct.unpack_from(order + start, data, 8 if big else 4)
        (entries,) = struct.unpack_from(order + ("Q" if big else "H"), data, offset)
        offset += 8 if big else 2
        values = total = 0
        sides = dict.fromkeys(_TILE_SIDES, 1)
        for _ in range(entries):
            tag, kind, count = struct.unpack_from(order + entry, data, offset)
            values += 1 if kind in _TEXT_TYPES else count
            total += count * _VALUE_BYTES.get(kind, 0)
            if values > MAX_TIFF_VALUES or total > len(data):
                raise BombError
            if tag in sides:
                where = offset + inline
                width = _INTEGER_BYTES[kind]
                side = int.from_bytes(data[where : where + width], "little" if order == "<" else "big")
                sides[tag] = max(sides[tag], side)
            offset += 20 if big else 12
    except (struct.error, KeyError, OverflowError) as error:
        raise ValueError("the directory is broken") from error
    if sides[322] * sides[323] > max_pixels:
        raise BombError
