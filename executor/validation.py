"""What pydantic finds wrong, for the eyes of clients."""

from pydantic import ValidationError

_MOST = 5


def explain(error: ValidationError) -> str:
    """pydantic's findings in one line, without the client's own values."""
    findings = []
    for finding in error.errors(include_input=False, include_url=False):
        name = ".".join(str(part) for part in finding["loc"])
        if finding["type"] == "extra_forbidden":
            findings.append(f"there is no option {name[:40]!a}")
        elif name:
            findings.append(f"'{name}': {_lower_first(finding['msg'])}")
        else:
            findings.append(_lower_first(finding["msg"].removeprefix("Value error, ")))
    return "; ".join(findings[:_MOST])


def _lower_first(text: str) -> str:
    return text[:1].lower() + text[1:]
