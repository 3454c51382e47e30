"""Who handles SIGTERM and SIGINT, in each phase of each kind of process.

| process | phase | SIGTERM | SIGINT | by | |---|---|---|---|---| | `python -m executor` | libraries are imported | ends
at once, 128 + number | the same | `end_at_once`, `keeping_handlers` | | | the port is held, the model is loaded | ends
at once, 0 | the same | `end_at_once` | | | it serves | drains, then 0 | the same | `drain_on_signals` | | | it drains |
ends at once, 128 + number | the same | `end_at_once` | | `python -m executor prepare` | always | cleans up, 128 +
number | the same | `exit_on_signals` | | worker or gateway of a Deployment or Flow | the model is loaded | ends at once
| ignored | `end_while_loading` | | | it serves | drains | ignored | `drain_on_sigterm` | | keeper of such a process |
always | ends that process | ignored | `wake_on_sigterm` | | program that opens a Deployment or Flow | always | its own
| its own | Python |

The program's Ctrl-C reaches all processes of its terminal at once. Workers, gateways and keepers ignore it: the program
closes them in the order in which they can finish their work.

Knows signals; knows nothing of servers, of the model or of Jina. Imports no library, so that handlers are there before
libraries are imported.
"""

import asyncio
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

ENDING = (signal.SIGINT, signal.SIGTERM)


def end_at_once(status: Callable[[int], int] = lambda number: 128 + number) -> None:
    """Has SIGTERM and SIGINT end the process at once and without a word.

    Without a handler the kernel drops SIGTERM for process 1 of a container.

    Args:
        status: makes the exit status of the signal's number.
    """

    def end(number: int, frame: FrameType | None) -> None:
        os._exit(status(number))

    for number in ENDING:
        signal.signal(number, end)


@contextmanager
def keeping_handlers() -> Iterator[None]:
    """Keeps what is imported within from setting handlers: importing Jina sets Python's own for SIGINT."""
    set_handler = signal.signal
    signal.signal = lambda number, handler: signal.getsignal(number)  # type: ignore[assignment]
    try:
        yield
    finally:
        signal.signal = set_handler


def drain_on_signals(loop: asyncio.AbstractEventLoop, drain: Callable[[], None]) -> None:
    """Has the first SIGTERM or SIGINT call `drain`, in the event loop, and the next one end the process at once."""

    def begin() -> None:
        end_at_once()
        drain()

    # Not `signal.signal`: its handler waits for the loop's thread to wake, which a signal that another thread was given
    # does not do.
    for number in ENDING:
        loop.add_signal_handler(number, begin)


def exit_on_signals() -> None:
    """Has SIGTERM and SIGINT raise SystemExit with 128 + number, so that what is open is cleaned up."""
    for number in ENDING:
        signal.signal(number, lambda received, frame: sys.exit(128 + received))


def end_while_loading(loop: asyncio.AbstractEventLoop) -> None:
    """Has SIGTERM end a worker or a gateway at once, as the kernel does, and SIGINT do nothing."""
    for number in ENDING:
        loop.remove_signal_handler(number)
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def drain_on_sigterm(loop: asyncio.AbstractEventLoop, drain: Callable[[], None]) -> None:
    """Has SIGTERM call `drain`, in the event loop of a worker or a gateway that serves."""
    loop.add_signal_handler(signal.SIGTERM, drain)


def wake_on_sigterm() -> int:
    """Has SIGTERM write into a pipe, and SIGINT do nothing. Returns the end of the pipe to wait for.

    The pipe and not the handler ends a wait: a handler waits for the main thread to wake, which a signal that another
    thread was given does not do.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda number, frame: None)
    told, tell = os.pipe()
    os.set_blocking(tell, False)
    signal.set_wakeup_fd(tell)
    return told


def forget_wake_on_sigterm() -> None:
    """Undoes `wake_on_sigterm` in a process that was forked from the one which called it."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.set_wakeup_fd(-1)
