"""What is wrong with a setting, and how it is said."""

import difflib
import os
import re
from typing import Any
from urllib.parse import urlsplit

_SECRET = ("auth_tokens", "otlp_endpoint")
"""Their values are not repeated: an address may have a password in it."""
_ORIGIN = re.compile(r"https?://[A-Za-z0-9.:\[\]_-]+/?")


def nearest(name: str, known: list[str]) -> str:
    """A hint at the known name that `name` may have meant, or nothing."""
    matches = difflib.get_close_matches(name, known, n=1)
    return f", did you mean '{matches[0]}'?" if matches else f"; known are: {', '.join(known)}"


def unknown_name(name: str, what: str, known: list[str]) -> str:
    """Of a name that is none of the known ones.

    Args:
        what: it was meant to be, with its name.
    """
    return f"unknown {what}{nearest(name, known)}"


def invalid(finding: Any, prefix: str) -> str:
    """Of a value.

    Args:
        finding: one of `errors()` of pydantic's ValidationError.
        prefix: of environment variables.
    """
    message = finding["msg"].removeprefix("Value error, ")
    if not finding["loc"]:
        return f"settings that do not go together: {message}"
    name = ".".join(str(part) for part in finding["loc"])
    variable = f"{prefix}{name.upper()}"
    source = f" (from {variable})" if variable in os.environ else ""
    value = "" if finding["loc"][0] in _SECRET else f" is {finding['input']!r}"
    return f"setting '{name}'{source}{value}: {message}"


def is_origin(url: str) -> bool:
    """Whether it names a scheme, a host and perhaps a port, and nothing else."""
    try:
        return bool(_ORIGIN.fullmatch(url) and urlsplit(url).hostname and urlsplit(url).port != 0)
    except ValueError:  # no port, or a malformed address
        return False
