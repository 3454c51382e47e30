"""An image reference -> the uint8 tensor that the model takes.

Knows where pictures come from and what a client may not do; knows nothing of the model beyond the size and the filter
it wants, and nothing of Jina. DocArray's own loading is not used: it opens local files and has no limits.
"""

import asyncio
import base64
import binascii
import io
import os
import warnings
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from urllib.parse import unquote_to_bytes

import aiohttp
import numpy as np
import torch
from PIL import Image, UnidentifiedImageError

from .errors import ErrorCode, RequestError

_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_CHUNK_BYTES = 64 * 1024


@dataclass(frozen=True)
class ImageLimits:
    """What one picture may cost. The names are those of `Settings`."""

    max_image_bytes: int
    max_image_pixels: int
    fetch_timeout_s: float
    max_redirects: int
    max_fetches: int


class ImageLoader:
    """Loads pictures as the checkpoint's image processor would, resized but not yet normalised.

    Args:
        size: (height, width) in pixels of the tensors.
        resample: Pillow's filter for resizing.
        limits: what one picture may cost.
        threads: threads that decode and resize; 0 is one per core.
    """

    def __init__(self, size: tuple[int, int], resample: int, limits: ImageLimits, threads: int = 0) -> None:
        self._size = size
        self._resample = Image.Resampling(resample)
        self._limits = limits
        self._pool = ThreadPoolExecutor(threads or os.cpu_count() or 1, thread_name_prefix="decode")
        self._session: aiohttp.ClientSession | None = None
        self._fetches = asyncio.Semaphore(limits.max_fetches)

    async def load(self, reference: str | None, data: bytes | None = None) -> torch.Tensor:
        """The picture as a uint8 tensor of shape (3, height, width).

        Args:
            reference: `http(s)://` URL or `data:` URI; not read where there is `data`.
            data: an encoded picture.

        Raises:
            RequestError: with the code of the cause.
        """
        if data is None:
            data = await self._read(reference)
        self._check_bytes(len(data))
        return await asyncio.get_running_loop().run_in_executor(self._pool, self._decode, data)

    def close(self) -> None:
        """Frees threads and connections. To be called in the event loop that loaded, where there was one."""
        self._pool.shutdown(wait=False, cancel_futures=True)
        if self._session is not None and self._session.connector is not None:
            self._session.connector.close()

    async def _read(self, reference: str | None) -> bytes:
        if reference is None or not reference.strip():
            raise RequestError(
                ErrorCode.NO_IMAGE, "the document has no picture; set 'img' to a URL or data: URI, or set 'img_bytes'."
            )
        reference = reference.strip()
        scheme = reference.partition(":")[0].lower()
        if scheme == "data":
            return self._read_data_uri(reference)
        if scheme in ("http", "https"):
            async with self._fetches:
                return await self._fetch(reference)
        raise RequestError(
            ErrorCode.UNSUPPORTED_SCHEME,
            "'img' must be an http(s):// URL or a data: URI; or send the bytes in 'img_bytes'.",
        )

    def _read_data_uri(self, uri: str) -> bytes:
        header, comma, payload = uri.partition(",")
        if not comma:
            raise RequestError(ErrorCode.NOT_AN_IMAGE, "the data: URI has no comma; write data:image/png;base64,...")
        if not header.lower().rstrip().endswith(";base64"):
            return unquote_to_bytes(payload)
        self._check_bytes(len(payload) * 3 // 4 - 2)
        try:
            return base64.b64decode(unquote_to_bytes(payload), validate=True)
        except binascii.Error:
            raise RequestError(ErrorCode.NOT_AN_IMAGE, "the data: URI is not valid base64.") from None

    async def _fetch(self, url: str) -> bytes:
        if self._session is None:
            self._session = aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar(), trust_env=False)
        timeout = aiohttp.ClientTimeout(total=self._limits.fetch_timeout_s)
        try:
            async with self._session.get(url, timeout=timeout, max_redirects=self._limits.max_redirects) as reply:
                if reply.status in (404, 410):
                    raise RequestError(ErrorCode.IMAGE_NOT_FOUND, f"the image URL answers {reply.status}; check it.")
                if reply.status != 200:
                    raise RequestError(
                        ErrorCode.FETCH_FAILED, f"the image URL answers {reply.status}; try again later."
                    )
                chunks = bytearray()
                async for chunk in reply.content.iter_chunked(_CHUNK_BYTES):
                    chunks += chunk
                    self._check_bytes(len(chunks))
                return bytes(chunks)
        except asyncio.TimeoutError:
            raise RequestError(
                ErrorCode.FETCH_TIMED_OUT,
                f"the image was not there within {self._limits.fetch_timeout_s:g} s (fetch_timeout_s); try later.",
            ) from None
        except (aiohttp.ClientError, ValueError):
            raise RequestError(ErrorCode.FETCH_FAILED, "the image URL cannot be fetched; check it.") from None

    def _check_bytes(self, count: int) -> None:
        if count > self._limits.max_image_bytes:
            raise RequestError(
                ErrorCode.IMAGE_TOO_LARGE,
                f"the picture has over {self._limits.max_image_bytes} bytes (max_image_bytes); send a smaller one.",
            )

    def _decode(self, data: bytes) -> torch.Tensor:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", Image.DecompressionBombWarning)
                image = Image.open(io.BytesIO(data))
        except UnidentifiedImageError:
            raise RequestError(
                ErrorCode.NOT_AN_IMAGE, "what was sent or fetched is not a picture in a known format; send JPEG or PNG."
            ) from None
        with image:
            if image.width * image.height > self._limits.max_image_pixels:
                raise RequestError(
                    ErrorCode.TOO_MANY_PIXELS,
                    f"the picture has more than {self._limits.max_image_pixels} pixels (max_image_pixels); "
                    "send a smaller one.",
                )
            try:
                upright = _on_white(image)
            except (OSError, SyntaxError, ValueError):
                raise RequestError(
                    ErrorCode.CORRUPT_IMAGE, "the picture is damaged or truncated; send it again."
                ) from None
        height, width = self._size
        pixels = np.asarray(upright.resize((width, height), self._resample))
        return torch.from_numpy(pixels.transpose(2, 0, 1).copy())


def _on_white(image: Image.Image) -> Image.Image:
    """As RGB, transparency on white: what transformers' `convert_to_rgb` does."""
    image.load()
    if "A" in image.getbands() or image.info.get("transparency") is not None:
        rgba = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", rgba.size, (255, 255, 255)), rgba).convert("RGB")
    return image.convert("RGB")
