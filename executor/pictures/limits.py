"""What one picture may cost and where it may come from."""

from dataclasses import dataclass


@dataclass(frozen=True)
class ImageLimits:
    """The settings of `executor.settings.Settings` that concern pictures, under the same names."""

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
