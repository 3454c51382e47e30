"""A short property-based fuzz of bytes and references. FUZZ_EXAMPLES=100000 makes it a long one."""

import os
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings, target
from hypothesis import strategies as st

from tests.fuzz.subjects import decode, load, seeds

EXAMPLES = int(os.environ.get("FUZZ_EXAMPLES", "300"))
fuzzed = settings(
    max_examples=EXAMPLES,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.function_scoped_fixture],
)

MAGICS = [
    b"\xff\xd8\xff",
    b"\x89PNG\r\n\x1a\n",
    b"GIF89a",
    b"BM",
    b"II*\0",
    b"MM\0*",
    b"II+\0",
    b"RIFF\0\0\0\0WEBPVP8X",
]
INTERESTING = [0, 1, 2, 4, 8, 127, 128, 255]


@st.composite
def mutated_pictures(draw: Callable[..., Any]) -> bytes:
    data = bytearray(draw(st.sampled_from(seeds())))
    for _ in range(draw(st.integers(1, 6))):
        place = draw(st.integers(0, min(len(data), draw(st.sampled_from([40, 400, len(data)])))))
        match draw(st.integers(0, 5)):
            case 0:
                data[place : place + 1] = bytes([draw(st.sampled_from(INTERESTING))])
            case 1:
                data[place : place + 4] = draw(
                    st.sampled_from([b"\0" * 4, b"\xff" * 4, b"\x7f\xff\xff\xff", b"\1\0\0\0"])
                )
            case 2:
                del data[place:]
            case 3:
                data[place:place] = draw(st.binary(max_size=20))
            case 4:
                del data[place : place + draw(st.integers(1, 50))]
            case _:
                other = draw(st.sampled_from(seeds()))
                start = draw(st.integers(0, len(other)))
                data[place : place + 100] = other[start : start + 100]
    return bytes(data)


@fuzzed
@given(mutated_pictures())
def test_damaged_pictures_are_read_or_refused(data):
    target(float(decode(data) == "ok"))


@fuzzed
@given(st.sampled_from(MAGICS), st.binary(max_size=500))
def test_any_bytes_behind_a_known_beginning_are_read_or_refused(magic, rest):
    decode(magic + rest)


@fuzzed
@given(st.binary(max_size=500))
def test_any_bytes_are_read_or_refused(data):
    decode(data)


SCHEMES = [
    "http://",
    "https://",
    "http:",
    "HTTP://",
    "data:",
    "data:;base64,",
    "file://",
    "file:",
    "ftp://",
    "/",
    "//",
    "",
]
PARTS = [
    "a.example",
    "127.0.0.1",
    "[::1]",
    "0x7f.1",
    "@",
    ":",
    "80",
    "/",
    "?",
    "#",
    "%",
    "%2e",
    "..",
    "\\",
    "\0",
    "xn--",
]
PARTS += ["[", "]", "64:ff9b::1", "%25eth0", " ", "\r\n", "\u3002", "\uff11", "\ud800", "8.8.8.8", "AAAA", "=", "&"]


@fuzzed
@given(st.sampled_from(SCHEMES), st.lists(st.one_of(st.sampled_from(PARTS), st.text(max_size=8)), max_size=12))
def test_any_reference_is_loaded_or_refused(tmp_path_factory, scheme, parts):
    load(scheme + "".join(parts), _directory(tmp_path_factory))


_made: list[str] = []


def _directory(factory: pytest.TempPathFactory) -> str:
    if not _made:
        _made.append(str(factory.mktemp("pictures-of-the-fuzz")))
    return _made[0]
