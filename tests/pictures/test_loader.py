"""The loader as a whole: all accepted forms, one error per cause, nothing twice, nothing left behind."""

import asyncio
import base64
import gc
import threading
import urllib.parse
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import torch
from PIL import Image

from executor.errors import DocumentError, ErrorCode
from executor.pictures.loader import ImageLimits, ImageLoader
from tests.support.corpus import draw, encode, png_of
from tests.support.hostile import Request, Server, coroutine_name, response, serving, until

PNG = encode(draw("RGB", (90, 70)), "PNG")
OTHER = encode(draw("RGB", (90, 70), seed=1), "PNG")


def loader(size: tuple[int, int] = (60, 50), **limits: Any) -> ImageLoader:
    configured = ImageLimits(**{"allowed_hosts": ("127.0.0.1",), "fetch_timeout_s": 20.0, **limits})
    return ImageLoader(size, Image.Resampling.BICUBIC, configured, threads=2)


def loading(test: Callable[[ImageLoader], Awaitable[Any]], **limits: Any) -> Any:
    async def run() -> Any:
        images = loader(**limits)
        try:
            return await test(images)
        finally:
            images.close()

    return asyncio.run(run())


def outcome(reference: str | None, data: bytes | None = None, **limits: Any) -> torch.Tensor | ErrorCode:
    async def test(images: ImageLoader) -> torch.Tensor | ErrorCode:
        try:
            return await images.load(reference, data)
        except DocumentError as error:
            return error.code

    return loading(test, **limits)


# Forms


def test_every_accepted_form_gives_the_same_tensor(tmp_path):
    (tmp_path / "cat").write_bytes(PNG)

    async def test(images: ImageLoader) -> None:
        async with serving(PNG) as server:
            expected = await images.load(None, PNG)
            assert expected.dtype is torch.uint8
            assert expected.shape == (3, 60, 50)
            for reference in (
                f"{server.url}/image.php?id=1",
                f"  {server.url}/cat.txt#fragment\n",
                f"HTTP://127.0.0.1:{server.port}/",
                "data:image/png;base64," + base64.b64encode(PNG).decode(),
                "Data:text/html," + urllib.parse.quote_from_bytes(PNG),
                str(tmp_path / "cat"),
                (tmp_path / "cat").as_uri(),
            ):
                assert torch.equal(await images.load(reference), expected)
            assert torch.equal(await images.load("http://192.168.0.1/never-read", PNG), expected)

    loading(test, allowed_local_dirs=(str(tmp_path),))


@pytest.mark.parametrize("reference", [None, "", "  \n"])
def test_no_picture_is_an_error(reference):
    assert outcome(reference) is ErrorCode.NO_IMAGE


@pytest.mark.parametrize(
    "reference",
    [
        *("/etc/passwd", "file:///etc/passwd", "cat.png", "C:\\cat.png", "//a.example/x.png", "http", "\0"),
        *("ftp://a.example/x.png", "s3://b/k", "gopher://a/", "javascript:alert(1)", "blob:http://a.example/x"),
    ],
)
def test_other_schemes_and_paths_are_refused(reference):
    assert outcome(reference) is ErrorCode.UNSUPPORTED_SCHEME


def test_empty_bytes_are_not_an_image():
    assert outcome(None, b"") is ErrorCode.NOT_AN_IMAGE
    assert outcome("data:,") is ErrorCode.NOT_AN_IMAGE


@pytest.mark.parametrize(
    "url",
    [
        "http:cat.png",
        "http://[::1]@",
        "http://[::1",
        "http://[::1se64,]/",
        "http://[v1.a:80]/",
        "http://",
        "http:///x",
        "http://a.example:99999/",
        "http://" + "a" * 20_000,
    ],
)
def test_malformed_urls_are_invalid(url):
    assert outcome(url) is ErrorCode.INVALID_URL


# Limits


def test_bytes_are_limited_in_every_form(tmp_path):
    (tmp_path / "cat").write_bytes(PNG)

    async def test(images: ImageLoader) -> None:
        async with serving(PNG) as server:
            for reference, data in (
                (None, PNG),
                (f"{server.url}/", None),
                ("data:;base64," + base64.b64encode(PNG).decode(), None),
                ("data:," + urllib.parse.quote_from_bytes(PNG), None),
                (str(tmp_path / "cat"), None),
            ):
                with pytest.raises(DocumentError, match=r"IMAGE_TOO_LARGE: .*max_image_bytes"):
                    await images.load(reference, data)

    loading(test, max_image_bytes=len(PNG) - 1, allowed_local_dirs=(str(tmp_path),))
    assert isinstance(outcome(None, PNG, max_image_bytes=len(PNG)), torch.Tensor)


def test_pixels_are_limited_in_every_form():
    assert outcome(None, png_of(3000, 3000), max_image_pixels=8_999_999) is ErrorCode.TOO_MANY_PIXELS
    assert isinstance(outcome(None, png_of(1, 1)), torch.Tensor)


# Once per request


def test_the_same_reference_is_fetched_and_decoded_once_per_request(monkeypatch):
    async def test(images: ImageLoader) -> None:
        decoded: list[int] = []
        decoder = images._decoder

        def counting(data: bytes) -> torch.Tensor:
            decoded.append(len(data))
            return decoder(data)

        monkeypatch.setattr(images, "_decoder", counting)
        async with serving(PNG) as server:
            for _ in range(2):
                async with images.request() as request:
                    url = f"{server.url}/cat"
                    tensors = await asyncio.gather(
                        *(request.load(url) for _ in range(5)), *(request.load(None, bytes(OTHER)) for _ in range(5))
                    )
                    assert all(torch.equal(tensor, tensors[0]) for tensor in tensors[:5])
                    assert not torch.equal(tensors[0], tensors[5])
            assert len(server.requests) == 2
            assert sorted(decoded) == sorted([len(PNG), len(OTHER)] * 2)

    loading(test)


def test_a_long_request_keeps_only_its_last_pictures(monkeypatch):
    monkeypatch.setattr("executor.pictures.loader._MOST_KEPT", 3)

    async def test(images: ImageLoader) -> None:
        decoded: list[bytes] = []
        decoder = images._decoder

        def noting(data: bytes) -> torch.Tensor:
            decoded.append(data)
            return decoder(data)

        monkeypatch.setattr(images, "_decoder", noting)
        pictures = [PNG + bytes([number]) for number in range(10)]  # what follows a PNG's end is not read
        async with images.request() as request:
            for picture in pictures:
                await request.load(None, picture)
                await request.load(None, picture)
                assert len(request._loading) <= 3
            assert decoded == pictures
            await request.load(None, pictures[0])
            assert decoded == [*pictures, pictures[0]]

    loading(test)


def test_a_reference_that_fails_fails_for_each_of_its_documents():
    async def test(images: ImageLoader) -> None:
        async with serving(b"no picture") as server, images.request() as request:
            outcomes = await asyncio.gather(
                *(request.load(f"{server.url}/cat") for _ in range(3)), request.load(None, PNG), return_exceptions=True
            )
            assert [str(error).partition(":")[0] for error in outcomes[:3]] == ["NOT_AN_IMAGE"] * 3
            assert isinstance(outcomes[3], torch.Tensor)
            assert len(server.requests) == 1

    loading(test)


def test_bytes_and_a_reference_of_the_same_text_are_two_pictures():
    async def test(images: ImageLoader) -> None:
        uri = "data:;base64," + base64.b64encode(PNG).decode()
        async with images.request() as request:
            assert isinstance(await request.load(uri), torch.Tensor)
            with pytest.raises(DocumentError, match="NOT_AN_IMAGE"):
                await request.load(None, uri.encode())

    loading(test)


# Cancellation and ends


async def hanging(request: Request, writer: asyncio.StreamWriter) -> None:
    if request.target == "/hang":
        await asyncio.Event().wait()
    writer.write(response(PNG))


def test_one_document_that_is_cancelled_leaves_the_others_their_picture():
    async def test(images: ImageLoader) -> None:
        released = asyncio.Event()

        async def later(request: Request, writer: asyncio.StreamWriter) -> None:
            await released.wait()
            writer.write(response(PNG))

        async with serving(later) as server, images.request() as request:
            one, other = (asyncio.create_task(request.load(server.url)) for _ in range(2))
            await until(lambda: server.requests)
            one.cancel()
            with pytest.raises(asyncio.CancelledError):
                await one
            released.set()
            assert isinstance(await other, torch.Tensor)

    loading(test)


def test_a_request_that_is_cancelled_ends_its_fetches_and_gives_their_places_back():
    async def whole(images: ImageLoader, server: Server) -> None:
        async with images.request() as request:
            await asyncio.gather(*(request.load(f"{server.url}/hang") for _ in range(3)), request.load(server.url))

    async def test(images: ImageLoader) -> None:
        async with serving(hanging) as server:
            before = asyncio.all_tasks()
            for _ in range(5):
                task = asyncio.create_task(whole(images, server))
                server.requests.clear()
                await until(lambda: server.requests)
                task.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await task
            assert isinstance(await images.load(server.url), torch.Tensor)
            left = {coroutine_name(task) for task in asyncio.all_tasks() - before}
            assert left <= {"Server.serve", "_keep_open"}

    loading(test, max_fetches=2)


def test_after_close_every_form_is_refused_as_overloaded():
    async def test(images: ImageLoader) -> None:
        images.close()
        for reference, data in ((None, PNG), ("http://127.0.0.1:1/", None), ("data:,x", None)):
            with pytest.raises(DocumentError, match="OVERLOADED"):
                await images.load(reference, data)

    loading(test)


def test_close_is_quiet_and_complete_even_if_the_loop_ends_at_once(recwarn, caplog):
    async def test(images: ImageLoader) -> None:
        async with serving(PNG) as server:
            await asyncio.gather(*(images.load(f"{server.url}/{number}") for number in range(4)))
            images.close()

    loading(test)
    gc.collect()
    told = [str(warning.message) for warning in recwarn] + [record.message for record in caplog.records]
    assert [line for line in told if "never awaited" in line or "nclosed" in line or "destroyed" in line] == []
    for thread in threading.enumerate():
        if thread.name.startswith(("decode", "resolve")):
            thread.join(20)
            assert not thread.is_alive()


def test_a_loader_that_never_loaded_closes_without_an_event_loop():
    loader().close()


def test_settings_of_places_that_cannot_be_used_are_named():
    with pytest.raises(ValueError, match=r"'10\.0\.0\.1/8'"):
        loader(allowed_hosts=("10.0.0.1/8",))
    with pytest.raises(ValueError, match="'relative'"):
        loader(allowed_local_dirs=("relative",))
