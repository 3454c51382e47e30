"""`python -m executor prepare`: a copy of a checkpoint that is quick to load and tells when it is damaged.

Weights have the dtype in which the service would hold them, so that a float32 checkpoint is read and converted once and
not at each start. The copy appears whole, under its final name, or not at all. Knows files. It must not know
command lines, nor how a checkpoint is served.
"""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError

from executor.checkpoints import checksums
from executor.checkpoints.loading import DTYPES, Checkpoint, load
from executor.errors import StartupError

SHARD_BYTES = 2_000_000_000
"""Most bytes of a file of weights: small enough for every file system, and checked one in each thread at start."""


def prepare(model: str, output: Path, revision: str = "main", dtype: str = "float16") -> None:
    """Writes a copy of a checkpoint in one dtype, with `checksums.json`, and nothing that serving does not need.

    Needs memory for the weights in `dtype`, and for one shard of the original.

    Args:
        model: hub id or local directory.
        output: directory that does not exist or is empty, in one that exists.
        revision: branch, tag or commit of a hub checkpoint.
        dtype: `float16`, `bfloat16` or `float32`; in float16 the modules that transformers protects stay float32.

    Raises:
        StartupError: the output cannot be written, the dtype is none or too narrow, or the checkpoint is not there,
            damaged, incomplete or not BLIP-2. Then nothing is left behind.
    """
    if dtype not in DTYPES:
        raise StartupError(f"dtype '{dtype}' is none of {', '.join(DTYPES)}")
    # Not through a link: the copy takes the place of what it leads to.
    output = output.resolve()
    with _writing(output):
        _check_place(output)
    checkpoint = load(model, revision, device="cpu", dtype=dtype)
    _check_numbers(checkpoint, model, dtype)
    # One deeper, because a temporary directory is for its owner alone and the copy is for who serves it.
    with (
        _writing(output),
        tempfile.TemporaryDirectory(prefix=f".{output.name}.", dir=output.parent) as temporary,
    ):
        copy = Path(temporary, output.name)
        copy.mkdir()
        _write(checkpoint, copy, dtype)
        copy.rename(output)


@contextmanager
def _writing(output: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, SafetensorError, ValueError) as error:  # transformers has ValueError for what it would not write
        raise StartupError(f"{output} cannot be written: {' '.join(str(error).split())}") from error


def _check_place(output: Path) -> None:
    if not output.parent.is_dir():
        raise StartupError(f"{output} cannot be written: there is no directory {output.parent}")
    if output.is_mount():
        raise StartupError(f"{output} is a mount point, which cannot be replaced; name a directory below it")
    if output.exists() and not output.is_dir():
        raise StartupError(f"{output} exists and is no directory; choose another")
    if output.exists() and any(output.iterdir()):
        raise StartupError(f"{output} exists and is not empty; choose another, or remove it first")
    if not os.access(output.parent, os.W_OK | os.X_OK):
        raise StartupError(f"{output} cannot be written: {output.parent} is not for this user to write to")


def _check_numbers(checkpoint: Checkpoint, model: str, dtype: str) -> None:
    for name, weight in checkpoint.model.state_dict().items():
        # The extremes: NaN is both of them where there is any. `isfinite` of every number takes 40 times as long.
        if weight.is_floating_point() and not all(extreme.isfinite() for extreme in torch.aminmax(weight)):
            raise StartupError(
                f"model '{model}' has weights that are not finite in {dtype}, the first in {name}; choose another dtype"
            )


def _write(checkpoint: Checkpoint, copy: Path, dtype: str) -> None:
    checkpoint.model.save_pretrained(copy, max_shard_size=SHARD_BYTES)
    # transformers writes the dtype of the first weight, which is a protected one.
    config: Any = checkpoint.model.config
    config.dtype = DTYPES[dtype]
    config.save_pretrained(copy)
    checkpoint.processor.save_pretrained(copy)
    # safetensors makes files for their owner alone. Whoever may read the folder may read what is in it.
    readable = copy.stat().st_mode & 0o666
    for file in copy.iterdir():
        file.chmod(readable)
    checksums.write(copy)
