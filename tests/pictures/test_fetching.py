"""Fetching pictures from hostile servers: real sockets on loopback, names and addresses of the tests' own."""

import asyncio
import gzip
import http
import ssl
import zlib
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import trustme

from executor.errors import DocumentError, ErrorCode
from executor.pictures.addresses import AddressPolicy
from executor.pictures.fetching import Fetcher
from executor.pictures.limits import ImageLimits
from tests.support.hostile import (
    PUBLIC,
    PUBLIC_6,
    Answer,
    Internet,
    Request,
    png,
    raw,
    redirect,
    respond,
    response,
    serving,
    until,
)

BODY = png()


@pytest.fixture
def internet(monkeypatch: pytest.MonkeyPatch) -> Internet:
    return Internet(monkeypatch)


def fetcher(internet: Internet | None = None, **limits: Any) -> Fetcher:
    configured = ImageLimits(**{"fetch_timeout_s": 20.0, "max_image_bytes": 1_000_000, **limits})
    return Fetcher(AddressPolicy(configured.allowed_hosts), configured, internet.lookup if internet else None)


async def fetch(client: Fetcher, url: str) -> bytes:
    async with client.fetched(url) as body:
        return body


async def error_of(client: Fetcher, url: str) -> DocumentError:
    with pytest.raises(DocumentError) as refused:
        await fetch(client, url)
    return refused.value


def run(test: Callable[[], Awaitable[None]]) -> None:
    async def all_of_it() -> None:
        await test()

    asyncio.run(all_of_it())


def answered(answer: Answer | bytes, **limits: Any) -> bytes | ErrorCode:
    """What comes of fetching a picture from a server that answers like this."""

    async def test() -> bytes | ErrorCode:
        client = fetcher(allowed_hosts=("127.0.0.1",), **limits)
        async with serving(answer) as server:
            try:
                return await fetch(client, f"{server.url}/cat.png")
            except DocumentError as error:
                return error.code if "127.0.0.1" not in str(error) else ErrorCode.INTERNAL
            finally:
                client.close()

    return asyncio.run(test())


# What is fetched


def test_a_public_name_is_fetched_without_any_setting(internet):
    async def test():
        internet.names["pictures.example"] = [[PUBLIC]]
        async with serving(BODY) as server:
            internet.servers[PUBLIC] = server
            client = fetcher(internet)
            assert await fetch(client, "http://pictures.example/a?b=%2F&c") == BODY
            assert internet.connections == [(PUBLIC, 80)]
            assert server.requests[0].target == "/a?b=%2F&c"
            assert server.requests[0].headers["host"] == "pictures.example"

    run(test)


def test_public_addresses_are_fetched_as_ipv4_and_ipv6_literals(internet):
    async def test():
        async with serving(BODY) as server:
            internet.servers.update({PUBLIC: server, PUBLIC_6: server})
            client = fetcher(internet)
            assert await fetch(client, f"http://{PUBLIC}/a") == BODY
            assert await fetch(client, f"http://[{PUBLIC_6}]/a") == BODY
            assert internet.connections == [(PUBLIC, 80), (PUBLIC_6, 80)]
            assert internet.lookups == []

    run(test)


def test_connections_are_reused():
    async def test():
        async with serving(BODY) as server:
            client = fetcher(allowed_hosts=("127.0.0.1",))
            for _ in range(5):
                assert await fetch(client, f"{server.url}/a") == BODY
            assert server.connections == 1

    run(test)


def test_idle_connections_to_many_hosts_do_not_pile_up(internet):
    async def test():
        async with serving(BODY) as server:
            internet.servers[PUBLIC] = server
            client = fetcher(internet, max_fetches=4)
            for number in range(30):
                internet.names[f"n{number}.example"] = [[PUBLIC]]
                assert await fetch(client, f"http://n{number}.example/") == BODY
            assert server.connections == 30
            assert server.most_open_connections <= 3 * 4

    run(test)


def test_a_request_tells_nothing_about_the_machine(internet, monkeypatch):
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")

    async def test():
        cookies = respond(b"", "302 Found", {"Location": "http://b.example/b", "Set-Cookie": "a=b; Path=/"})
        async with serving(cookies) as first, serving(BODY) as second:
            internet.names = {"a.example": [[PUBLIC]], "b.example": [["8.8.8.8"]]}
            internet.servers = {PUBLIC: first, "8.8.8.8": second}
            client = fetcher(internet, user_agent="pictures/1.0")
            for _ in range(2):
                assert await fetch(client, "http://a.example/a") == BODY
            for request in first.requests + second.requests:
                assert request.method == "GET"
                assert set(request.headers) - {""} == {"host", "user-agent", "accept", "accept-encoding"}
                assert request.headers["user-agent"] == "pictures/1.0"
                assert request.headers["accept-encoding"] == "identity"

    run(test)


# Where connections go


@pytest.mark.parametrize(
    "addresses",
    [
        ["127.0.0.1"],
        ["169.254.169.254"],
        ["10.0.0.1"],
        ["100.64.0.1"],
        ["::1"],
        ["fe80::1"],
        ["fd00::1"],
        ["::ffff:127.0.0.1"],
        ["64:ff9b::7f00:1"],
        ["2002:7f00:1::"],
        ["0.0.0.0"],
        ["224.0.0.1"],
        ["fe80::1%1"],
        [PUBLIC, "127.0.0.1"],
        [PUBLIC_6, "::1", PUBLIC],
    ],
)
def test_a_name_with_an_internal_address_is_never_connected_to(internet, addresses):
    async def test():
        internet.names["rebound.example"] = [addresses]
        error = await error_of(fetcher(internet), "http://rebound.example/a")
        assert error.code is ErrorCode.ADDRESS_NOT_ALLOWED
        assert not any(address in str(error) for address in addresses)
        assert internet.connections == []

    run(test)


def test_the_connection_goes_to_the_address_that_was_checked(internet):
    async def test():
        internet.names["rebinding.example"] = [[PUBLIC], ["127.0.0.1"]]
        closing = raw(response(BODY, headers={"Connection": "close"}), close=True)
        async with serving(closing) as public, serving(BODY) as internal:
            internet.servers.update({PUBLIC: public, "127.0.0.1": internal})
            client = fetcher(internet)
            assert await fetch(client, "http://rebinding.example/a") == BODY
            assert internet.lookups == ["rebinding.example"]
            assert internet.connections == [(PUBLIC, 80)]
            error = await error_of(client, "http://rebinding.example/a")
            assert error.code is ErrorCode.ADDRESS_NOT_ALLOWED
            assert internal.connections == 0

    run(test)


def test_names_are_resolved_by_the_system_by_default():
    async def test():
        async with serving(BODY) as server:
            url = f"http://localhost:{server.port}/"
            assert await fetch(fetcher(allowed_hosts=("localhost",)), url) == BODY
            assert await fetch(fetcher(allowed_hosts=("127.0.0.1", "::1")), url) == BODY
            assert (await error_of(fetcher(), url)).code is ErrorCode.ADDRESS_NOT_ALLOWED
            assert server.connections == 2

    run(test)


@pytest.mark.parametrize(
    ("location", "code"),
    [
        ("http://127.0.0.1/", ErrorCode.ADDRESS_NOT_ALLOWED),
        ("http://internal.example/", ErrorCode.ADDRESS_NOT_ALLOWED),
        ("//169.254.169.254/latest/meta-data/", ErrorCode.ADDRESS_NOT_ALLOWED),
        ("http://0x7f.1/", ErrorCode.ADDRESS_NOT_ALLOWED),
        ("http://public.example:22/", ErrorCode.ADDRESS_NOT_ALLOWED),
        ("http://user:secret@public.example/", ErrorCode.INVALID_URL),
        ("file:///etc/passwd", ErrorCode.UNSUPPORTED_SCHEME),
        ("ftp://public.example/", ErrorCode.UNSUPPORTED_SCHEME),
        ("gopher://public.example/", ErrorCode.UNSUPPORTED_SCHEME),
        ("data:image/png;base64,AAAA", ErrorCode.UNSUPPORTED_SCHEME),
        ("http://[::1", ErrorCode.FETCH_REFUSED),
        ("http://[::1]@", ErrorCode.FETCH_REFUSED),
        ("", ErrorCode.FETCH_REFUSED),
    ],
)
def test_every_redirect_is_checked_like_the_first_address(internet, location, code):
    async def test():
        internet.names = {"public.example": [[PUBLIC]], "internal.example": [["10.1.2.3"]]}
        async with serving(redirect(location)) as server:
            internet.servers[PUBLIC] = server
            error = await error_of(fetcher(internet), "http://public.example/")
            assert error.code is code
            assert internet.connections == [(PUBLIC, 80)]
            assert "secret" not in str(error)

    run(test)


def test_allowed_hosts_hold_after_a_redirect_and_for_nothing_else(internet):
    async def test():
        internet.names["public.example"] = [[PUBLIC]]
        async with serving(BODY) as allowed, serving(BODY) as other:
            for server, expected in ((allowed, None), (other, ErrorCode.ADDRESS_NOT_ALLOWED)):
                client = fetcher(internet, allowed_hosts=(f"127.0.0.1:{allowed.port}",))
                async with serving(redirect(f"{server.url}/cat.png")) as redirecting:
                    internet.servers[PUBLIC] = redirecting
                    if expected is None:
                        assert await fetch(client, "http://public.example/") == BODY
                    else:
                        assert (await error_of(client, "http://public.example/")).code is expected
            assert other.connections == 0

    run(test)


@pytest.mark.parametrize("status", ["301 Moved", "302 Found", "303 See Other", "307 Temporary", "308 Permanent"])
def test_redirects_are_followed_up_to_the_limit(status):
    async def hops(request: Request, writer: asyncio.StreamWriter) -> None:
        left = int(request.target.rpartition("/")[2])
        writer.write(response(BODY) if left == 0 else response(b"x", status, {"Location": f"./{left - 1}"}))

    async def test():
        async with serving(hops) as server:
            client = fetcher(allowed_hosts=("127.0.0.1",), max_redirects=3)
            assert await fetch(client, f"{server.url}/a/3") == BODY
            assert (await error_of(client, f"{server.url}/a/4")).code is ErrorCode.TOO_MANY_REDIRECTS

    run(test)


# Sizes


def test_a_body_of_exactly_the_limit_is_fetched_and_one_byte_more_is_not():
    assert answered(b"x" * 5000, max_image_bytes=5000) == b"x" * 5000
    assert answered(b"x" * 5001, max_image_bytes=5000) is ErrorCode.IMAGE_TOO_LARGE


def test_a_body_is_counted_while_it_comes_whatever_its_announced_length():
    sent = 0

    async def endless(request: Request, writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        while True:
            writer.write(b"10000\r\n" + b"x" * 65536 + b"\r\n")
            await writer.drain()
            sent += 65536

    assert answered(endless, max_image_bytes=100_000) is ErrorCode.IMAGE_TOO_LARGE
    assert sent < 20_000_000


def test_an_announced_length_over_the_limit_is_refused_without_reading():
    huge = raw(b"HTTP/1.1 200 OK\r\nContent-Length: 99999999999\r\n\r\n")
    assert answered(huge) is ErrorCode.IMAGE_TOO_LARGE


@pytest.mark.parametrize("encoding", ["gzip", "x-gzip", "deflate", "GZIP", "identity"])
def test_compressed_bodies_are_read(encoding):
    compressed = {"deflate": zlib.compress(BODY), "identity": BODY}.get(encoding.lower(), gzip.compress(BODY))
    assert answered(respond(compressed, headers={"Content-Encoding": encoding})) == BODY


def test_several_gzip_members_are_one_body():
    both = gzip.compress(BODY[:100]) + gzip.compress(BODY[100:])
    assert answered(respond(both, headers={"Content-Encoding": "gzip"})) == BODY


@pytest.mark.parametrize("compress", [gzip.compress, zlib.compress])
def test_a_compression_bomb_stops_at_the_limit(compress):
    bomb = compress(b"\0" * 200_000_000)
    assert len(bomb) < 1_000_000
    encoding = "gzip" if compress is gzip.compress else "deflate"
    assert answered(respond(bomb, headers={"Content-Encoding": encoding})) is ErrorCode.IMAGE_TOO_LARGE


def test_empty_gzip_members_count_too():
    members = gzip.compress(b"") * 60_000
    assert answered(respond(members, headers={"Content-Encoding": "gzip"})) is ErrorCode.IMAGE_TOO_LARGE


@pytest.mark.parametrize("encoding", ["br", "zstd", "compress", "gzip, gzip", "nonsense"])
def test_other_content_encodings_are_refused(encoding):
    assert answered(respond(BODY, headers={"Content-Encoding": encoding})) is ErrorCode.FETCH_REFUSED


@pytest.mark.parametrize("body", [b"not gzip at all", gzip.compress(BODY)[:-20]])
def test_damaged_compression_is_a_failed_fetch(body):
    assert answered(respond(body, headers={"Content-Encoding": "gzip"})) is ErrorCode.FETCH_FAILED


# Time and numbers


async def never(request: Request, writer: asyncio.StreamWriter) -> None:
    await asyncio.Event().wait()


async def drip_head(request: Request, writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\n")
    while True:
        writer.write(b"X: y\r\n")
        await writer.drain()
        await asyncio.sleep(0.02)


async def drip_body(request: Request, writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n")
    while True:
        writer.write(b"x")
        await writer.drain()
        await asyncio.sleep(0.02)


async def informing(request: Request, writer: asyncio.StreamWriter) -> None:
    while True:
        writer.write(b"HTTP/1.1 103 Early Hints\r\n\r\n")
        await writer.drain()
        await asyncio.sleep(0.02)


async def redirecting_slowly(request: Request, writer: asyncio.StreamWriter) -> None:
    await asyncio.sleep(0.05)
    writer.write(response(b"", "302 Found", {"Location": request.target + "x"}))


@pytest.mark.parametrize("answer", [never, drip_head, drip_body, informing, redirecting_slowly])
def test_no_server_can_stretch_the_deadline(answer):
    outcome = answered(answer, fetch_timeout_s=0.4, max_redirects=20)
    # Endless headers run into the parser's own limit on a quick machine.
    assert outcome is ErrorCode.FETCH_TIMED_OUT or (answer is drip_head and outcome is ErrorCode.FETCH_FAILED)


def test_the_deadline_covers_the_lookup_of_the_name():
    async def hanging(host: str, port: int) -> list[str]:
        await asyncio.Event().wait()
        return []

    async def test():
        limits = ImageLimits(fetch_timeout_s=0.1)
        error = await error_of(Fetcher(AddressPolicy(), limits, hanging), "http://slow.example/")
        assert error.code is ErrorCode.FETCH_TIMED_OUT
        assert "0.1 s" in str(error)
        assert "fetch_timeout_s" in str(error)

    run(test)


def test_the_deadline_covers_waiting_for_a_place():
    async def test():
        looked_up: list[str] = []
        leave = asyncio.Event()

        async def staying(host: str, port: int) -> list[str]:
            """The first fetch holds its place beyond its own deadline, so that nobody else gets it."""
            looked_up.append(host)
            try:
                await asyncio.Event().wait()
            finally:
                if host == "holder.example":
                    await leave.wait()
            return []

        client = Fetcher(AddressPolicy(), ImageLimits(max_fetches=1, fetch_timeout_s=0.3), staying)
        holder = asyncio.create_task(error_of(client, "http://holder.example/"))
        await until(lambda: looked_up)
        errors = await asyncio.gather(*(error_of(client, f"http://waiting{n}.example/") for n in range(2)))
        leave.set()
        assert {error.code for error in (*errors, await holder)} == {ErrorCode.FETCH_TIMED_OUT}
        assert looked_up == ["holder.example"]

    run(test)


def counting_answers(released: asyncio.Event) -> Answer:
    async def answer(request: Request, writer: asyncio.StreamWriter) -> None:
        await released.wait()
        writer.write(response(BODY))

    return answer


@pytest.mark.parametrize(("limits", "expected"), [({"max_fetches": 3}, 3), ({"max_fetches_per_host": 2}, 2)])
def test_fetches_at_the_same_time_are_bounded(limits, expected):
    async def test():
        released = asyncio.Event()
        async with serving(counting_answers(released)) as server:
            client = fetcher(allowed_hosts=("127.0.0.1",), **limits)
            fetches = [asyncio.create_task(fetch(client, f"{server.url}/{n}")) for n in range(10)]
            await until(lambda: len(server.requests) >= expected)
            for _ in range(200):
                await asyncio.sleep(0)
            assert len(server.requests) == expected
            released.set()
            assert await asyncio.gather(*fetches) == [BODY] * 10
            assert server.most_open_connections == expected

    run(test)


def test_a_busy_host_does_not_keep_others_waiting():
    async def test():
        released = asyncio.Event()
        async with serving(counting_answers(released)) as busy, serving(BODY) as quick:
            client = fetcher(allowed_hosts=("127.0.0.1",), max_fetches=3, max_fetches_per_host=2)
            waiting = [asyncio.create_task(fetch(client, f"{busy.url}/{n}")) for n in range(10)]
            await until(lambda: len(busy.requests) >= 2)
            assert await fetch(client, f"{quick.url}/") == BODY
            assert not any(task.done() for task in waiting)
            released.set()
            await asyncio.gather(*waiting)

    run(test)


def test_bodies_in_memory_are_bounded_until_their_users_are_done_with_them():
    async def test():
        async with serving(BODY) as server:
            client = fetcher(allowed_hosts=("127.0.0.1",), max_fetches=2)
            async with client.fetched(f"{server.url}/1"), client.fetched(f"{server.url}/2"):
                third = asyncio.create_task(fetch(client, f"{server.url}/3"))
                await until(lambda: len(server.requests) >= 3)
                for _ in range(200):
                    await asyncio.sleep(0)
                assert not third.done()
            assert await third == BODY

    run(test)


# Failures


@pytest.mark.parametrize(
    ("status", "code"),
    [
        (200, None),
        (204, ErrorCode.FETCH_REFUSED),
        (206, ErrorCode.FETCH_REFUSED),
        (300, ErrorCode.FETCH_REFUSED),
        (304, ErrorCode.FETCH_REFUSED),
        (400, ErrorCode.FETCH_REFUSED),
        (401, ErrorCode.FETCH_REFUSED),
        (403, ErrorCode.FETCH_REFUSED),
        (404, ErrorCode.IMAGE_NOT_FOUND),
        (408, ErrorCode.FETCH_FAILED),
        (410, ErrorCode.IMAGE_NOT_FOUND),
        (429, ErrorCode.FETCH_FAILED),
        (500, ErrorCode.FETCH_FAILED),
        (503, ErrorCode.FETCH_FAILED),
        (599, ErrorCode.FETCH_FAILED),
    ],
)
def test_the_status_decides_between_wrong_and_later(status, code):
    reason = http.HTTPStatus(status).phrase if status != 599 else "Odd"
    body = b"" if status in (204, 304) else b"a secret of the server"
    outcome = answered(respond(body, f"{status} {reason}"))
    assert outcome == body if code is None else outcome is code


def test_the_body_of_an_error_never_reaches_the_client():
    async def test():
        async with serving(respond(b"internal secret", "500 internal secret")) as server:
            error = await error_of(fetcher(allowed_hosts=("127.0.0.1",)), f"{server.url}/")
            assert "secret" not in str(error)

    run(test)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"garbage\r\n\r\n",
        b"HTTP/1.1 999999 x\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: -5\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nabcdef",
        b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\ntoo short",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nab",
        b"HTTP/1.1 200 OK\r\nX: " + b"y" * 100_000 + b"\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 100_000 + b"\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: h2c\r\n\r\n",
        b"HTTP/1.1 302 Found\r\n\r\n",
        b"HTTP/1.1 302 Found\r\nLocation: \xff\xfe://\x80\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00",
        bytes(range(256)) * 50,
    ],
)
def test_broken_answers_are_errors_of_the_fetch(data):
    assert answered(raw(data, close=True)) in (
        ErrorCode.FETCH_FAILED,
        ErrorCode.FETCH_REFUSED,
        ErrorCode.TOO_MANY_REDIRECTS,
    )


def test_a_server_that_is_not_there_and_an_unknown_name_are_failed_fetches(internet):
    async def test():
        client = fetcher(internet, allowed_hosts=("127.0.0.1",))
        for url in ("http://127.0.0.1:1/", "http://unknown.example/"):
            assert (await error_of(client, url)).code is ErrorCode.FETCH_FAILED

    run(test)


def test_certificates_are_verified(internet, tmp_path):
    authority = trustme.CA()
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("localhost").configure_cert(context)

    async def test():
        listener = await asyncio.start_server(lambda r, w: None, "127.0.0.1", 0, ssl=context)
        port = listener.sockets[0].getsockname()[1]
        error = await error_of(fetcher(allowed_hosts=("localhost",)), f"https://localhost:{port}/")
        assert error.code is ErrorCode.FETCH_FAILED
        listener.close()

    run(test)


# Ends


def test_a_cancelled_fetch_gives_its_place_back():
    async def test():
        released = asyncio.Event()
        async with serving(counting_answers(released)) as server:
            client = fetcher(allowed_hosts=("127.0.0.1",), max_fetches=1)
            task = asyncio.create_task(fetch(client, f"{server.url}/1"))
            await until(lambda: server.requests)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            released.set()
            assert await fetch(client, f"{server.url}/2") == BODY

    run(test)


def test_who_waits_for_a_place_when_the_service_stops_is_told_so():
    async def test():
        async with serving(never) as server:
            client = fetcher(allowed_hosts=("127.0.0.1",), max_fetches=1)
            fetches = [asyncio.create_task(error_of(client, f"{server.url}/{n}")) for n in range(2)]
            await until(lambda: server.requests)
            client.close()
            codes = [error.code for error in await asyncio.gather(*fetches)]
            assert codes == [ErrorCode.FETCH_FAILED, ErrorCode.OVERLOADED]
            assert len(server.requests) == 1

    run(test)


def test_closing_needs_no_await_and_leaves_nothing_behind(recwarn):
    async def test():
        async with serving(BODY) as server:
            client = fetcher(allowed_hosts=("127.0.0.1",))
            await fetch(client, f"{server.url}/1")
            client.close()
            await until(lambda: not server.open_connections)
            assert (await error_of(client, f"{server.url}/2")).code is ErrorCode.OVERLOADED
            assert server.connections == 1

    asyncio.run(test(), debug=True)
    assert [str(warning.message) for warning in recwarn if "lose" in str(warning.message)] == []
