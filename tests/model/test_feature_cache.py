"""The cache of image features, with pictures that are numbers."""

import pytest
import torch

from executor.model.feature_cache import FeatureCache, content_key

ROW_BYTES = 4 * 6


class Encoder:
    """A row of features for a key is its bytes' sum; remembers what it was asked."""

    def __init__(self) -> None:
        self.calls: list[list[bytes]] = []

    def __call__(self, keys: list[bytes]) -> torch.Tensor:
        self.calls.append(keys)
        return torch.stack([row(key) for key in keys])


def row(key: bytes) -> torch.Tensor:
    return torch.full((2, 3), float(sum(key)))


@pytest.fixture
def encoder() -> Encoder:
    return Encoder()


def get(cache: FeatureCache, encoder: Encoder, keys: str) -> None:
    asked = [key.encode() for key in keys]
    assert torch.equal(cache.get(asked, encoder), torch.stack([row(key) for key in asked]))


def test_a_picture_is_encoded_once_within_a_batch_and_across_batches(encoder):
    cache = FeatureCache(1_000_000)
    get(cache, encoder, "abab")
    get(cache, encoder, "cab")
    get(cache, encoder, "cc")
    assert encoder.calls == [[b"a", b"b"], [b"c"]]
    assert (cache.hits, cache.misses) == (2 + 2 + 2, 3)


def test_the_least_recently_used_leaves_first_and_the_capacity_holds(encoder):
    cache = FeatureCache(2 * ROW_BYTES)
    for keys in ("a", "b", "a", "c", "a", "b"):
        get(cache, encoder, keys)
    assert encoder.calls == [[b"a"], [b"b"], [b"c"], [b"b"]]


def test_a_batch_larger_than_the_cache_gets_all_its_rows(encoder):
    cache = FeatureCache(2 * ROW_BYTES)
    get(cache, encoder, "ab")
    get(cache, encoder, "cdaeb")
    get(cache, encoder, "eb")
    assert encoder.calls == [[b"a", b"b"], [b"c", b"d", b"e"], [b"b"]]


@pytest.mark.parametrize("capacity_bytes", [0, ROW_BYTES - 1])
def test_without_room_nothing_is_kept_but_a_batch_still_encodes_a_picture_once(encoder, capacity_bytes):
    cache = FeatureCache(capacity_bytes)
    get(cache, encoder, "aa")
    get(cache, encoder, "a")
    assert encoder.calls == [[b"a"], [b"a"]]


def test_what_is_cleared_is_encoded_again(encoder):
    cache = FeatureCache(ROW_BYTES)
    get(cache, encoder, "a")
    cache.clear()
    get(cache, encoder, "a")
    get(cache, encoder, "a")
    assert encoder.calls == [[b"a"], [b"a"]]


def test_a_kept_row_does_not_keep_its_batch_in_memory():
    cache = FeatureCache(ROW_BYTES)
    batch = torch.stack([row(b"a"), row(b"b")])
    cache.get([b"a", b"b"], lambda keys: batch)
    batch.zero_()
    assert torch.equal(cache.get([b"b"], Encoder())[0], row(b"b"))


def test_an_encoder_that_fails_leaves_the_cache_as_it_was(encoder):
    cache = FeatureCache(1_000_000)

    def fail(keys: list[bytes]) -> torch.Tensor:
        raise torch.OutOfMemoryError

    with pytest.raises(torch.OutOfMemoryError):
        cache.get([b"a"], fail)
    get(cache, encoder, "a")
    assert (cache.hits, cache.misses) == (0, 1)


def test_a_key_is_the_pixels_content():
    pixels = torch.arange(3 * 4 * 5).to(torch.uint8).view(3, 4, 5)
    other = pixels.clone()
    other[2, 3, 4] += 1
    assert content_key(pixels) == content_key(pixels.clone()) != content_key(other)
    assert (
        content_key(pixels.transpose(1, 2)) == content_key(pixels.transpose(1, 2).contiguous()) != content_key(pixels)
    )
