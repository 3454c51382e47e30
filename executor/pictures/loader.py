"""An image reference -> the uint8 tensor that the model takes.

Ties the parts together: where the bytes come from (`fetching`, `data_uris`, `local_files`) and what becomes of them
(`decoding`). It must not know Jina, nor of the model more than the size and the filter that it wants. DocArray's own
loading is not used: it opens local files and has no limits.
"""

import asyncio
import contextvars
import os
import sys
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager

import torch

from executor import cores
from executor.errors import DocumentError, ErrorCode, shutting_down
from executor.pictures import data_uris
from executor.pictures.addresses import AddressPolicy
from executor.pictures.decoding import Decoder
from executor.pictures.fetching import Fetcher
from executor.pictures.limits import ImageLimits
from executor.pictures.local_files import LocalFiles, is_local
from executor.pictures.resolving import Lookup
from executor.telemetry.observer import SILENT, Observer, Source

__all__ = ["ImageLimits", "ImageLoader", "RequestImages"]

_LONGEST_URL = 16_384

_MOST_KEPT = 64
"""Pictures of one request that are kept for its later documents: 10 MB at 224 x 224 pixels."""

_NICENESS = 5
"""Of the threads that decode. Where cores are few, they would hold up the one that feeds the device."""


class ImageLoader:
    """Loads pictures as the checkpoint's image processor would, resized but not yet normalised.

    Everything runs in one event loop, and nothing blocks it: pictures are fetched asynchronously, and decoded and
    resized in threads. In memory at a time are the encoded bytes of at most `max_fetches` fetched pictures beside
    those that came with requests, and the pixels of at most `threads` pictures.

    Args:
        size: (height, width) in pixels of the tensors.
        resample: Pillow's filter for resizing.
        limits: what one picture may cost and where it may come from.
        threads: threads that decode and resize; 0 is one per core that this process may use.
        lookup: replaces the system's name resolution.
        observer: told of pictures, fetches and decoding.

    Raises:
        ValueError: an entry of `allowed_hosts` or `allowed_local_dirs` cannot be used.
    """

    def __init__(
        self,
        size: tuple[int, int],
        resample: int,
        limits: ImageLimits,
        threads: int = 0,
        lookup: Lookup | None = None,
        observer: Observer = SILENT,
    ) -> None:
        self._observer = observer
        self._loading = 0
        self._limits = limits
        self._decoder = Decoder(size, resample, limits)
        self._files = LocalFiles(limits.allowed_local_dirs)
        self._fetcher = Fetcher(AddressPolicy(limits.allowed_hosts), limits, lookup, observer)
        self._pool = ThreadPoolExecutor(
            threads or cores.available(), thread_name_prefix="decode", initializer=_let_others_go_first
        )
        self._closed = False

    @property
    def loading(self) -> int:
        """Counts the pictures that are being fetched and decoded, or wait for it. May be read on any thread."""
        return self._loading

    async def load(self, reference: str | None, data: bytes | None = None) -> torch.Tensor:
        """Loads one picture.

        Args:
            reference: `http(s)://` URL, `data:` URI, or a local file where allowed; not read where there is `data`.
            data: an encoded picture.

        Returns:
            uint8 tensor of shape (3, height, width) on the CPU.

        Raises:
            DocumentError: `NO_IMAGE`, `UNSUPPORTED_SCHEME`, `INVALID_URL` or `IMAGE_TOO_LARGE`; those of
                `Fetcher.fetched`, `LocalFiles.read`, `data_uris.decode` and `Decoder`; `OVERLOADED` once it is closed.
        """
        if data is not None:
            encoded = data
            with self._counted(Source.BYTES):
                return await self._in_thread(lambda: self._decode(encoded))
        if reference is None or not reference.strip():
            raise DocumentError(
                ErrorCode.NO_IMAGE, "the document has no picture; set 'img' to a URL or data: URI, or set 'img_bytes'."
            )
        text = reference.strip()
        scheme = text[:8].partition(":")[0].lower()
        if scheme == "data":
            with self._counted(Source.DATA):
                return await self._in_thread(lambda: self._decode(data_uris.decode(text, self._limits.max_image_bytes)))
        if scheme in ("http", "https"):
            with self._counted(Source.URL):
                return await self._load_url(text)
        if self._files and is_local(text):
            with self._counted(Source.FILE):
                return await self._in_thread(lambda: self._decode(self._files.read(text, self._limits.max_image_bytes)))
        raise DocumentError(
            ErrorCode.UNSUPPORTED_SCHEME,
            "'img' must be an http(s):// URL or a data: URI; or send the bytes in 'img_bytes'.",
        )

    @asynccontextmanager
    async def request(self) -> AsyncIterator["RequestImages"]:
        """Opens the pictures of one request, within which each is loaded once.

        What still loads at the end of the context is cancelled.
        """
        images = RequestImages(self)
        try:
            yield images
        finally:
            await images.cancel()

    def close(self) -> None:
        """Frees threads and connections. Runs in the event loop that loaded, where there was one."""
        self._closed = True
        self._pool.shutdown(wait=False)
        self._fetcher.close()

    @contextmanager
    def _counted(self, source: Source) -> Iterator[None]:
        self._observer.picture_asked(source)
        self._loading += 1
        try:
            yield
        finally:
            self._loading -= 1

    async def _load_url(self, url: str) -> torch.Tensor:
        if len(url) > _LONGEST_URL:
            raise DocumentError(
                ErrorCode.INVALID_URL, f"the image URL has over {_LONGEST_URL} characters; send a shorter one."
            )
        async with self._fetcher.fetched(url) as data:
            return await self._in_thread(lambda: self._decode(data))

    def _decode(self, data: bytes) -> torch.Tensor:
        if len(data) > self._limits.max_image_bytes:
            raise self._limits.too_many_bytes()
        with self._observer.decoding():
            return self._decoder(data)

    async def _in_thread(self, work: Callable[[], torch.Tensor]) -> torch.Tensor:
        if self._closed:
            raise shutting_down()
        context = contextvars.copy_context()
        return await asyncio.get_running_loop().run_in_executor(self._pool, context.run, work)


class RequestImages:
    """Loads the pictures of one request: the same reference or the same bytes are fetched and decoded once.

    Of a long request only the pictures that were loaded last are kept, `_MOST_KEPT` of them. To keep all would take
    150 kB for each document, at 224 x 224 pixels.

    Args:
        loader: loads each picture.
    """

    def __init__(self, loader: ImageLoader) -> None:
        self._loader = loader
        self._loading: dict[str | bytes | None, asyncio.Task[torch.Tensor]] = {}

    async def load(self, reference: str | None, data: bytes | None = None) -> torch.Tensor:
        """Loads one picture as `ImageLoader.load` does, with the same arguments and errors.

        Documents with the same picture get the same tensor, or the same error.
        """
        key = reference if data is None else data
        if key not in self._loading:
            self._forget_one()
            self._loading[key] = asyncio.create_task(self._loader.load(reference, data))
        # Shielded: one document that is cancelled leaves the others their picture.
        return await asyncio.shield(self._loading[key])

    def _forget_one(self) -> None:
        if len(self._loading) >= _MOST_KEPT:
            for key, task in self._loading.items():
                if task.done():
                    del self._loading[key]
                    break

    async def cancel(self) -> None:
        """Cancels what still loads, and waits for its end."""
        for task in self._loading.values():
            task.cancel()
        await asyncio.gather(*self._loading.values(), return_exceptions=True)


def _let_others_go_first() -> None:
    """Lowers the priority of the calling thread; only Linux has one for each thread."""
    if sys.platform == "linux":
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _NICENESS)
