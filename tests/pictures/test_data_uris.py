"""`data:` URIs against their definition."""

import base64
import urllib.parse

import pytest
from hypothesis import given
from hypothesis import strategies as st

from executor.errors import DocumentError, ErrorCode
from executor.pictures import data_uris

LIMIT = 300_000


@given(st.binary(max_size=2000), st.sampled_from(["", "image/png", "text/html;charset=utf-8", "image/png;a=b"]))
def test_any_bytes_come_back_from_both_encodings(data, media_type):
    assert data_uris.decode(f"data:{media_type};base64,{base64.b64encode(data).decode()}", LIMIT) == data
    assert data_uris.decode(f"data:{media_type},{urllib.parse.quote_from_bytes(data)}", LIMIT) == data


@pytest.mark.parametrize("size", [65_534, 65_535, 65_536, 131_072, 200_001])
def test_escapes_are_read_wherever_they_lie(size):
    data = bytes(size)
    assert data_uris.decode("data:," + "%00" * size, LIMIT) == data
    assert data_uris.decode("data:,x" + "%00" * size, LIMIT) == b"x" + data
    assert data_uris.decode("data:;base64," + urllib.parse.quote(base64.b64encode(data)), LIMIT) == data


@pytest.mark.parametrize(
    "uri",
    [
        "data:image/png;base64,aGk=",
        "DATA:IMAGE/PNG;BASE64,aGk=",
        "data:;base64,aGk",
        "data:;base64,a G\nk=\r\n",
        "data:image/png; base64,aGk%3D",
        "data:,hi",
        "data:,%68i",
    ],
)
def test_what_browsers_forgive_is_forgiven(uri):
    assert data_uris.decode(uri, LIMIT) == b"hi"


@pytest.mark.parametrize(
    "uri", ["data:", "data:image/png;base64", "data:;base64,@@@@", "data:;base64,a", "data:;base64,ä"]
)
def test_malformed_uris_are_refused(uri):
    with pytest.raises(DocumentError) as refused:
        data_uris.decode(uri, LIMIT)
    assert refused.value.code is ErrorCode.NOT_AN_IMAGE


def test_decoding_stops_a_little_over_the_limit():
    assert len(data_uris.decode("data:," + "%41" * 1_000_000, 1000)) == 1001
    assert len(data_uris.decode("data:;base64," + "QUJD" * 1_000_000, 1000)) == 1001
    assert data_uris.decode("data:;base64," + base64.b64encode(bytes(1000)).decode(), 1000) == bytes(1000)


@given(st.text(max_size=300))
def test_any_text_is_bytes_or_a_refusal(text):
    try:
        assert isinstance(data_uris.decode("data:" + text, 100), bytes)
    except DocumentError as error:
        if error.code is not ErrorCode.NOT_AN_IMAGE:
            raise
