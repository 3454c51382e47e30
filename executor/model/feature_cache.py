"""Pictures encoded once: an LRU of image features, by content of the pixels.

Encoding is most of the work of a question (533 of 668 GFLOP for ViT-g with Flan-T5-XL), and many questions are asked of
the same picture. Knows tensors. It must not know the model. It belongs to the thread that owns the device, so it has no
lock.
"""

import hashlib
from collections import OrderedDict
from collections.abc import Callable, Sequence

import torch


def content_key(pixels: torch.Tensor) -> bytes:
    """Hashes a picture. Keys are equal for equal pictures, and for practical purposes only for those.

    Args:
        pixels: uint8 tensor of shape (3, height, width) on the CPU; all pictures of a service have one shape.

    Returns:
        32 bytes.
    """
    return hashlib.blake2b(pixels.numpy().tobytes(), digest_size=32).digest()


class FeatureCache:
    """Keeps the features of the pictures that were asked about last, bit for bit as they were encoded, where they were.

    So they have the language model's own precision: half of it on CUDA unless `dtype` says otherwise (128 KiB for a
    picture of 32 x 2048), and float32 on a CPU, where an answer from the cache is to be the same as one without.

    Args:
        capacity_bytes: most bytes kept; 0 keeps nothing.

    Attributes:
        hits: questions whose picture had not to be encoded: in the cache, or twice in one batch.
        misses: pictures encoded.
    """

    def __init__(self, capacity_bytes: int) -> None:
        self._capacity_bytes = capacity_bytes
        self._kept: OrderedDict[bytes, torch.Tensor] = OrderedDict()  # the least recently used first
        self._bytes = 0
        self.hits = 0
        self.misses = 0

    def get(self, keys: Sequence[bytes], encode: Callable[[list[bytes]], torch.Tensor]) -> torch.Tensor:
        """Gives the features of each picture, and has those encoded that are not kept.

        Args:
            keys: `content_key` of each picture, at least one; the same one may be there many times.
            encode: takes the distinct keys that are not kept, returns a tensor with one row for each.

        Returns:
            Tensor with one row for each key, in their order.
        """
        rows: dict[bytes, torch.Tensor] = {}
        for key in keys:
            if key in self._kept:
                self._kept.move_to_end(key)
                rows[key] = self._kept[key]
        missing = [key for key in dict.fromkeys(keys) if key not in rows]
        if missing:
            encoded = encode(missing)
            rows.update(zip(missing, encoded, strict=True))
            for key in missing:
                self._keep(key, rows[key])
        self.misses += len(missing)
        self.hits += len(keys) - len(missing)
        return encoded if missing == list(keys) else torch.stack([rows[key] for key in keys])

    def clear(self) -> None:
        """Frees everything kept."""
        self._kept.clear()
        self._bytes = 0

    def _keep(self, key: bytes, features: torch.Tensor) -> None:
        if features.nbytes > self._capacity_bytes:
            return
        while self._bytes + features.nbytes > self._capacity_bytes:
            self._bytes -= self._kept.popitem(last=False)[1].nbytes
        self._kept[key] = features.clone()  # a view would keep its whole batch alive
        self._bytes += features.nbytes
