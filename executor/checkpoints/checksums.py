"""`checksums.json`: what every file of a checkpoint directory was when it was written.

Knows files. It must not know what is in them. It finds what a copy or a disk has damaged. It does not find a file that
somebody has changed together with its checksum.
"""

import hashlib
import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from executor import cores
from executor.errors import StartupError

FILE_NAME = "checksums.json"
READ_BY_TRANSFORMERS = (".json", ".safetensors", ".bin")
"""Suffixes of a checkpoint's files."""

_BLOCK_BYTES = 2**20


def write(folder: Path) -> None:
    """Writes the sizes, in bytes, and the sha256 of all files of a folder into its `checksums.json`.

    Raises:
        OSError: a file cannot be read, or `checksums.json` not be written.
    """
    files = sorted(file for file in folder.iterdir() if file.is_file() and file.name != FILE_NAME)
    listed = {
        file.name: {"bytes": file.stat().st_size, "sha256": digest}
        for file, digest in zip(files, _digests(files), strict=True)
    }
    Path(folder, FILE_NAME).write_text(json.dumps({"files": listed}, indent=2) + "\n")


def verify(folder: Path) -> None:
    """Checks every file of a folder against its `checksums.json`. Does nothing where there is none.

    Raises:
        StartupError: a file differs, is missing, cannot be read, or would be read although it is not listed. The
            message names it.
    """
    if not Path(folder, FILE_NAME).is_file():
        return
    try:
        _compare(folder, _read(folder))
    except OSError as error:
        raise StartupError(f"checkpoint '{folder}' cannot be read: {error}") from error


def _compare(folder: Path, listed: dict[str, dict[str, Any]]) -> None:
    # What needs no reading first: most copies that fail were broken off, and hashing the rest takes seconds.
    for name, expected in listed.items():
        file = Path(folder, name)
        if not file.is_file():
            raise _different(folder, name, "is missing")
        if (size := file.stat().st_size) != expected["bytes"]:
            raise _different(folder, name, f"has {size} bytes instead of {expected['bytes']}")
    for file in sorted(folder.iterdir()):
        # transformers prefers some names to others: one more file could be read instead of a listed one.
        if file.suffix in READ_BY_TRANSFORMERS and file.name not in {*listed, FILE_NAME}:
            raise _different(folder, file.name, f"is not in {FILE_NAME}")
    digests = _digests([Path(folder, name) for name in listed])
    for (name, expected), digest in zip(listed.items(), digests, strict=True):
        if digest != expected["sha256"]:
            raise _different(folder, name, f"is not what it was when {FILE_NAME} was written (its sha256 differs)")


def _read(folder: Path) -> dict[str, dict[str, Any]]:
    try:
        listed: dict[str, dict[str, Any]] = json.loads(Path(folder, FILE_NAME).read_text())["files"]
        return {name: {"bytes": int(file["bytes"]), "sha256": str(file["sha256"])} for name, file in listed.items()}
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise _different(folder, FILE_NAME, f"cannot be read ({error})") from error


def _different(folder: Path, name: str, how: str) -> StartupError:
    return StartupError(f"checkpoint '{folder}' is damaged: {name} {how}; copy or prepare it again")


def _digests(files: list[Path]) -> list[str]:
    """Hashes in threads: hashing lets go of Python's lock, so that each core has a file of its own."""
    with ThreadPoolExecutor(cores.available(), thread_name_prefix="checksums") as threads:
        return list(threads.map(_sha256, files))


def _sha256(file: Path) -> str:
    digest = hashlib.sha256()
    block = memoryview(bytearray(_BLOCK_BYTES))
    with file.open("rb", buffering=0) as stream:
        while size := stream.readinto(block):
            digest.update(block[:size])
    return digest.hexdigest()
