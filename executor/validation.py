"""Says in one line what is wrong with input: of clients, and of whoever configures the service.

Knows pydantic's findings; knows nothing of the settings, options and documents that they are about.
"""

import difflib
import os
import re
from collections.abc import Collection
from typing import Any
from urllib.parse import urlsplit

from pydantic import ValidationError

_MOST_FINDINGS = 5
_ORIGIN = re.compile(r"https?://[A-Za-z0-9.:\[\]_-]+/?")


def describe_to_client(error: ValidationError) -> str:
    """Says what is wrong with a document or an option, without the client's own values."""
    findings = []
    for finding in error.errors(include_input=False, include_url=False):
        name = ".".join(str(part) for part in finding["loc"])
        if finding["type"] == "extra_forbidden":
            findings.append(f"there is no option {name[:40]!a}")
        elif name:
            findings.append(f"'{name}': {_lower_first(finding['msg'])}")
        else:
            findings.append(_lower_first(finding["msg"].removeprefix("Value error, ")))
    return "; ".join(findings[:_MOST_FINDINGS])


def describe_setting(finding: Any, prefix: str, secret: Collection[str]) -> str:
    """Says what is wrong with the value of a setting.

    Args:
        finding: one of `errors()` of pydantic's ValidationError.
        prefix: of environment variables.
        secret: settings whose values are not repeated.
    """
    message = finding["msg"].removeprefix("Value error, ")
    if not finding["loc"]:
        return f"settings that do not go together: {message}"
    name = ".".join(str(part) for part in finding["loc"])
    variable = f"{prefix}{name.upper()}"
    source = f" (from {variable})" if variable in os.environ else ""
    value = "" if finding["loc"][0] in secret else f" is {finding['input']!r}"
    return f"setting '{name}'{source}{value}: {message}"


def describe_unknown(name: str, what: str, known: list[str]) -> str:
    """Says that a name is none of the known ones, and which one it may have meant.

    Args:
        what: it was meant to be, with its name.
    """
    return f"unknown {what}{nearest(name, known)}"


def nearest(name: str, known: list[str]) -> str:
    """Hints at the known name that `name` may have meant, or lists them all."""
    matches = difflib.get_close_matches(name, known, n=1)
    return f", did you mean '{matches[0]}'?" if matches else f"; known are: {', '.join(known)}"


def is_origin(url: str) -> bool:
    """Tells whether a URL names a scheme, a host and perhaps a port, and nothing else."""
    try:
        return bool(_ORIGIN.fullmatch(url) and urlsplit(url).hostname and urlsplit(url).port != 0)
    except ValueError:  # no port, or a malformed address
        return False


def _lower_first(text: str) -> str:
    return text[:1].lower() + text[1:]
