"""What Jina's log says, as one line: on a screen it is wrapped, with the time at the end of a line where it has
changed."""

import re

_TIME = re.compile(r"\[\d\d/\d\d/\d\d \d\d:\d\d:\d\d\]")


def unwrapped(log: str) -> str:
    """The words of a log, with one space between two of them."""
    return " ".join(_TIME.sub(" ", log).split())
