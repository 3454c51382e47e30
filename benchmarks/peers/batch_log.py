"""A line for each batch that a server computed: when it was done, and of how many documents.

Written by the servers, read by the benchmark. Standard library only: it runs in every server's environment.
"""

import os
import time
from pathlib import Path

VARIABLE = "PEER_BATCH_LOG"


class BatchLog:
    """Appends to the file that `PEER_BATCH_LOG` names."""

    def __init__(self) -> None:
        self._file = open(os.environ[VARIABLE], "a", buffering=1)  # noqa: SIM115 - open as long as the server lives

    def write(self, size: int) -> None:
        """Notes that a batch of `size` documents has just been computed."""
        self._file.write(f"{time.time():.6f} {size}\n")


def mean_size(log: Path, start: float, end: float) -> float | None:
    """Documents per batch between two times (seconds since the epoch); None where there was no batch."""
    sizes = []
    for line in log.read_text().splitlines():
        done, size = line.split()
        if start <= float(done) <= end:
            sizes.append(int(size))
    return sum(sizes) / len(sizes) if sizes else None
