"""Local pictures, only below the directories that the operator allows.

Knows the file system. It must not know what is in the files. Every path is a client's, so none is trusted: it is
resolved, checked, and then walked from the allowed directory without following a single link. So what is opened is what
was checked, whatever is moved meanwhile.
"""

import os
import stat
from collections.abc import Iterable
from pathlib import Path
from urllib.parse import unquote, urlsplit

from executor.errors import DocumentError, ErrorCode

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC


class LocalFiles:
    """Reads regular files below the given directories.

    Args:
        directories: absolute paths of existing directories; links in them are resolved now.

    Raises:
        ValueError: an entry is not an absolute path of a directory.
    """

    def __init__(self, directories: Iterable[str]) -> None:
        self._roots = tuple(_root(directory) for directory in directories)

    def __bool__(self) -> bool:
        return bool(self._roots)

    def read(self, reference: str, max_bytes: int) -> bytes:
        """Reads the first `max_bytes` + 1 bytes of a file: one too many tells that it is too large.

        Args:
            reference: absolute path or `file://` URL.
            max_bytes: most bytes of a file that is not too large.

        Raises:
            DocumentError: `FILE_NOT_ALLOWED` for everything outside of the directories, whether it exists or not, and
                for what is not a regular file; `IMAGE_NOT_FOUND` where one of them has no such file.
        """
        try:
            path = Path(os.path.realpath(_path(reference)))
            for root in self._roots:
                if path.is_relative_to(root):
                    return _read_below(root, path.relative_to(root).parts, max_bytes)
        except FileNotFoundError:
            raise DocumentError(ErrorCode.IMAGE_NOT_FOUND, "there is no such file; check the path.") from None
        except (OSError, ValueError):
            pass  # no permission, a link or a directory by now, or no path at all: answered as below
        raise DocumentError(
            ErrorCode.FILE_NOT_ALLOWED,
            "this is not a file below allowed_local_dirs; send the picture in 'img_bytes' or use a URL.",
        )


def is_local(reference: str) -> bool:
    """Tells whether a reference means a local file: it is an absolute path or a `file:` URL."""
    return reference.startswith("/") or reference[:5].lower() == "file:"


def _root(directory: str) -> Path:
    if not os.path.isabs(directory) or not os.path.isdir(directory):
        raise ValueError(f"'{directory}' is not the absolute path of a directory")
    return Path(os.path.realpath(directory))


def _path(reference: str) -> str:
    if reference.startswith("/"):
        return reference
    url = urlsplit(reference)
    if url.netloc.lower() not in ("", "localhost") or not url.path.startswith("/"):
        raise ValueError("a file on another machine")
    return unquote(url.path, errors="strict")


def _read_below(root: Path, parts: tuple[str, ...], max_bytes: int) -> bytes:
    if not parts:
        raise IsADirectoryError
    directory = os.open(root, _DIRECTORY)
    try:
        for part in parts[:-1]:
            deeper = os.open(part, _DIRECTORY, dir_fd=directory)
            os.close(directory)
            directory = deeper
        file = os.open(parts[-1], _FILE, dir_fd=directory)
    finally:
        os.close(directory)
    if not stat.S_ISREG(os.fstat(file).st_mode):
        os.close(file)
        raise ValueError("not a regular file")
    with open(file, "rb") as opened:
        return opened.read(max_bytes + 1)
