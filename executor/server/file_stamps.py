"""Whether files have changed since they were read. Knows the file system alone."""

import os
from pathlib import Path

Stamps = tuple[tuple[int, ...] | None, ...]


def stamps_of(files: list[Path]) -> Stamps:
    """Returns what changes where a file was written to, replaced, or reached through a link that was.

    A file that cannot be found is None.
    """
    return tuple(_stamp_of(file) for file in files)


def _stamp_of(file: Path) -> tuple[int, ...] | None:
    try:
        found = os.stat(file)
    except OSError:
        return None
    return found.st_mtime_ns, found.st_ctime_ns, found.st_size, found.st_ino, found.st_dev
