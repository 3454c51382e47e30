"""Signals that a process is given on a thread of its that is not the main one, as the kernel may choose."""

import ctypes
from pathlib import Path
from signal import Signals


def signal_other_thread(process: int, number: Signals) -> None:
    """Signals the last of a process's threads, which has more than one."""
    *others, thread = sorted(int(path.name) for path in Path(f"/proc/{process}/task").iterdir())
    assert others
    assert thread != process
    if ctypes.CDLL(None, use_errno=True).tgkill(process, thread, number):
        raise OSError(ctypes.get_errno(), "tgkill")
