"""The first seconds of `python -m executor`, in which its libraries are imported."""

import os
import signal
import sys
from collections.abc import Callable
from types import FrameType

ENDING = (signal.SIGINT, signal.SIGTERM)


def is_program() -> bool:
    """Whether this is the first import of `python -m executor`, and not one by a program of another name."""
    # Python says `-m` there until it has found the module, for which it imports the package.
    return sys.argv[:1] == ["-m"] and sys.orig_argv[-len(sys.argv)] in ("executor", "-mexecutor")


def exit_on_signals(status: Callable[[int], int] = lambda number: 128 + number) -> None:
    """SIGTERM and SIGINT end the process at once and without a word.

    Without a handler the kernel drops SIGTERM for process 1 of a container.

    Args:
        status: with which, of the signal's number.
    """

    def end(number: int, frame: FrameType | None) -> None:
        os._exit(status(number))

    for number in ENDING:
        signal.signal(number, end)


def import_jina() -> None:
    """It makes a directory for its cache: where it cannot, the process ends with a line that says so."""
    try:
        import jina  # noqa: F401
    except OSError as error:
        sys.exit(f"blip2: cannot start: {error.filename} cannot be made ({error.strerror}); set HOME to a writable one")
