"""An encoded picture -> the uint8 tensor that the model takes, exactly as transformers' image processor makes it.

Knows Pillow and its pitfalls. It must not know where the bytes come from. Runs in worker threads, so it changes no
global limit (`Image.MAX_IMAGE_PIXELS`) and no warnings while it works. Pillow releases the GIL while it decodes and
resizes.
"""

import struct
import warnings
import zlib
from collections.abc import Callable

import numpy as np
import torch
from PIL import (
    AvifImagePlugin,
    BmpImagePlugin,
    ExifTags,
    GifImagePlugin,
    Image,
    ImageFile,
    JpegImagePlugin,
    PngImagePlugin,
    TiffImagePlugin,
    WebPImagePlugin,
)

from executor.errors import DocumentError, ErrorCode
from executor.pictures.bombs import BombError, BoundedFile, check_scans, check_tiff
from executor.pictures.limits import ImageLimits

_Opener = Callable[[BoundedFile], ImageFile.ImageFile]

_OPENERS: dict[str, _Opener] = {
    "JPEG": JpegImagePlugin.JpegImageFile,
    "PNG": PngImagePlugin.PngImageFile,
    "WEBP": WebPImagePlugin.WebPImageFile,
    "GIF": GifImagePlugin.GifImageFile,
    "BMP": BmpImagePlugin.BmpImageFile,
    "TIFF": TiffImagePlugin.TiffImageFile,
    "AVIF": AvifImagePlugin.AvifImageFile,
}
"""The only decoders that are ever opened. Not through `Image.open`: that would try others, follow a JPEG's index of
further pictures, and warn about sizes by a limit of its own."""

FORMATS = tuple(name for name in _OPENERS if name != "AVIF" or AvifImagePlugin.SUPPORTED)
"""What can be decoded here: some builds of Pillow have no AVIF."""

# Pillow remarks on odd metadata. Python would print each text once and remember it for ever, and the texts hold numbers
# that strangers choose.
warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.")

_BROKEN = (
    *(OSError, SyntaxError, ValueError, TypeError, LookupError, EOFError, OverflowError, RuntimeError),
    *(struct.error, zlib.error),
)
"""What Pillow's decoders raise for broken files."""

_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""EXIF orientation -> what makes the picture upright."""


class Decoder:
    """Decodes and resizes pictures. Safe to use from many threads at once.

    Args:
        size: (height, width) in pixels of the tensors.
        resample: Pillow's filter for resizing.
        limits: of a picture's pixels and sides; whether EXIF orientation and fast decoding of JPEG are wanted.
    """

    def __init__(self, size: tuple[int, int], resample: int, limits: ImageLimits) -> None:
        self._size = size
        self._resample = Image.Resampling(resample)
        self._limits = limits

    def __call__(self, data: bytes) -> torch.Tensor:
        """Decodes and resizes the first frame of an encoded picture.

        Returns:
            uint8 tensor of shape (3, height, width), RGB, contiguous, on the CPU.

        Raises:
            DocumentError: `NOT_AN_IMAGE`, `TOO_MANY_PIXELS` or `CORRUPT_IMAGE`.
        """
        kind = picture_format(data)
        if kind is None:
            raise DocumentError(
                ErrorCode.NOT_AN_IMAGE,
                f"what was sent or fetched is not a picture; send one of {', '.join(FORMATS)}.",
            )
        try:
            if kind == "TIFF":
                check_tiff(data, self._limits.max_image_pixels)
            with _OPENERS[kind](BoundedFile(data)) as image:
                self._check_size(image)
                if image.info.get("progressive"):
                    check_scans(data, image.width * image.height)
                return self._tensor(image)
        except Image.DecompressionBombError:
            raise self._too_many_pixels() from None
        except BombError:
            raise DocumentError(
                ErrorCode.CORRUPT_IMAGE, "the picture's file is built like no real picture; save it anew."
            ) from None
        except _BROKEN:
            raise DocumentError(
                ErrorCode.CORRUPT_IMAGE, "the picture is damaged or truncated; send it again."
            ) from None

    def _tensor(self, image: ImageFile.ImageFile) -> torch.Tensor:
        height, width = self._size
        if self._limits.fast_jpeg_decode and isinstance(image, JpegImagePlugin.JpegImageFile):
            longest = 2 * max(height, width)  # twice the target, whichever way the picture is turned
            image.draft(None, (longest, longest))
        # Asked before the pixels are loaded, as the image processor does.
        transparent = "A" in image.getbands() or image.info.get("transparency") is not None
        upright = self._upright(image)
        if transparent:
            rgba = upright.convert("RGBA")
            upright = Image.alpha_composite(Image.new("RGBA", rgba.size, (255, 255, 255, 255)), rgba)
        rgb = upright if upright.mode == "RGB" else upright.convert("RGB")  # which would copy every pixel
        resized = rgb.resize((width, height), self._resample)
        return torch.from_numpy(np.asarray(resized).transpose(2, 0, 1).copy())

    def _upright(self, image: ImageFile.ImageFile) -> Image.Image:
        if not self._limits.exif_orientation:
            return image
        image.load()  # a TIFF is turned while it is loaded, and says so only then
        method = _UPRIGHT.get(_orientation(image))
        return image if method is None else image.transpose(method)

    def _check_size(self, image: Image.Image) -> None:
        if max(image.size) > self._limits.max_image_side:
            raise DocumentError(
                ErrorCode.TOO_MANY_PIXELS,
                f"the picture is over {self._limits.max_image_side} pixels wide or high (max_image_side); "
                "send a smaller one.",
            )
        if image.width * image.height > self._limits.max_image_pixels:
            raise self._too_many_pixels()

    def _too_many_pixels(self) -> DocumentError:
        return DocumentError(
            ErrorCode.TOO_MANY_PIXELS,
            f"the picture has more than {self._limits.max_image_pixels} pixels (max_image_pixels); send a smaller one.",
        )


def picture_format(data: bytes) -> str | None:
    """Tells the format that the first bytes announce: one of `FORMATS`, or None."""
    kind = None
    if data.startswith(b"\xff\xd8\xff"):
        kind = "JPEG"
    elif data.startswith(b"\x89PNG\r\n\x1a\n"):
        kind = "PNG"
    elif data.startswith(b"RIFF") and data[8:12] == b"WEBP":
        kind = "WEBP"
    elif data.startswith((b"GIF87a", b"GIF89a")):
        kind = "GIF"
    elif data.startswith(b"BM"):
        kind = "BMP"
    elif data.startswith((b"II*\0", b"MM\0*", b"II+\0")):
        kind = "TIFF"
    elif data[4:8] == b"ftyp" and data[8:12] in (b"avif", b"avis", b"mif1", b"msf1"):
        kind = "AVIF"
    return kind if kind in FORMATS else None


def _orientation(image: Image.Image) -> int:
    try:
        orientation = image.getexif().get(ExifTags.Base.Orientation)
    except _BROKEN:  # many programs write broken EXIF data around sound pictures
        return 1
    return orientation if isinstance(orientation, int) else 1
