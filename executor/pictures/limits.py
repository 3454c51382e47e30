"""What one picture may cost and where it may come from.

Knows the numbers, and the error of a picture with too many bytes. It must not know where settings come from, nor what
costs the time and memory that they bound.
"""

from dataclasses import dataclass

from executor.errors import DocumentError, ErrorCode

PILLOW_MAX_PIXELS = 178_956_970
"""Beyond it, some of Pillow's decoders refuse by themselves (twice its `Image.MAX_IMAGE_PIXELS`)."""


@dataclass(frozen=True)
class ImageLimits:
    """Holds the settings of `executor.settings.Settings` that concern pictures, under the same names.

    Attributes:
        max_image_bytes: most bytes of an encoded picture.
        max_image_pixels: most pixels of a picture.
        max_image_side: most pixels of its width and of its height.
        fetch_timeout_s: seconds for a picture's fetch, redirects and waiting for a slot included.
        max_redirects: most redirects that one fetch follows.
        max_fetches: most pictures fetched at the same time.
        max_fetches_per_host: most of them from one host and port.
        allowed_hosts: hosts beside the public ones, as `addresses.AllowedHost.parse` reads them.
        allowed_local_dirs: absolute paths of directories below which local pictures may be read.
        exif_orientation: whether pictures are turned upright as their EXIF data says.
        fast_jpeg_decode: whether large JPEGs are decoded at a reduced size.
        user_agent: the value of HTTP's `User-Agent`.
    """

    max_image_bytes: int = 20_000_000
    max_image_pixels: int = 50_000_000
    max_image_side: int = 32_768
    fetch_timeout_s: float = 10.0
    max_redirects: int = 5
    max_fetches: int = 32
    max_fetches_per_host: int = 8
    allowed_hosts: tuple[str, ...] = ()
    allowed_local_dirs: tuple[str, ...] = ()
    exif_orientation: bool = True
    fast_jpeg_decode: bool = False
    user_agent: str = "blip2-executor"

    def too_many_bytes(self) -> DocumentError:
        """Makes the error `IMAGE_TOO_LARGE` of a picture of more than `max_image_bytes`."""
        return DocumentError(
            ErrorCode.IMAGE_TOO_LARGE,
            f"the picture has over {self.max_image_bytes} bytes (max_image_bytes); send a smaller one.",
        )
