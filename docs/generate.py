"""`python -m docs.generate`: writes what the code knows into the documents, where their markers say so.

Tables stand between `<!-- NAME table: begin -->` and `<!-- NAME table: end -->`, programs in the Python block behind
`<!-- NAME -->`. `--check` writes nothing and fails where a document is not as it would be written.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from pydantic.fields import FieldInfo

from executor.questions.options import GenerationOptions
from executor.questions.presets import PRESETS
from executor.settings import Settings

ROOT = Path(__file__).resolve().parent.parent
PROGRAMS = {
    "article": "article.py",
    "server": "article_server.py",
    "client": "article_client.py",
    "ask": "ask.py",
    "many": "ask.py",
    "retry": "ask_again.py",
    "gateway": "deployment.py",
    "gpus": "gpus.py",
    "hosts": "hosts.py",
}
"""The file in examples/ that a document shows behind the marker of this name."""

_COMMON = (
    "model",
    "device",
    "dtype",
    "preset",
    "quantization",
    "allowed_hosts",
    "max_image_bytes",
    "max_queue",
    "auth_tokens_file",
    "metrics_port",
)
"""Those that most people look for first."""

_TABLE = re.compile(r"(<!-- (\w+) table: begin -->\n).*?(<!-- \2 table: end -->)", re.DOTALL)
_PROGRAM = re.compile(r"(<!-- (\w+) -->\n```python\n).*?(```\n)", re.DOTALL)
_GROUP = re.compile(r"  # (.+)")
_KEY = re.compile(r"  (\w+):")


def documents() -> list[Path]:
    """README and the pages."""
    return [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def filled(text: str) -> str:
    """A document's text with its tables and programs as they are now."""
    text = _TABLE.sub(lambda match: f"{match[1]}{_TABLES[match[2]]()}\n{match[3]}", text)
    return _PROGRAM.sub(lambda match: match[1] + (ROOT / "examples" / PROGRAMS[match[2]]).read_text() + match[3], text)


def groups(config: str) -> list[tuple[str, list[str]]]:
    """The settings as config.yml groups them: the comment above each group, and the names in it."""
    found: list[tuple[str, list[str]]] = []
    for line in config.partition("\nwith:\n")[2].partition("\ndynamic_batching:")[0].splitlines():
        if group := _GROUP.match(line):
            found.append((group[1], []))
        elif key := _KEY.match(line):
            found[-1][1].append(key[1])
    return found


def _all_settings() -> str:
    parts = []
    for comment, names in groups((ROOT / "config.yml").read_text()):
        title, _, remark = comment.partition(". ")
        parts += [f"## {title}", *([f"{remark}."] if remark else [])]
        parts.append(_table(("setting", "default", "values", "meaning"), (_setting(name) for name in names)))
    return "\n" + "\n\n".join(parts) + "\n"


def _common_settings() -> str:
    return _table(
        ("setting", "default", "meaning"),
        ((name, default, meaning) for name, default, _, meaning in map(_setting, _COMMON)),
    )


def _setting(name: str) -> tuple[str, str, str, str]:
    field = Settings.model_fields[name]
    return f"`{name}`", _shown(field.default), _values(field), _meaning(field)


def _options() -> str:
    return _table(
        ("option", "default", "values", "meaning"),
        (
            (f"`{name}`", _shown(field.default), _values(field), _meaning(field))
            for name, field in GenerationOptions.model_fields.items()
        ),
    )


def _presets() -> str:
    rows = []
    for name, preset in PRESETS.items():
        changed = [
            f"`{option}={value}`"
            for option, value in preset.options.model_dump().items()
            if value != GenerationOptions.model_fields[option].default
        ]
        rows.append((f"`{name}`", f"`{preset.prompt_template}`", ", ".join(changed) or "the defaults above"))
    return _table(("preset", "a bare question is put into", "options"), rows)


_TABLES: dict[str, Callable[[], str]] = {
    "settings": _all_settings,
    "common": _common_settings,
    "options": _options,
    "presets": _presets,
}


def _table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    return "\n".join([_row(head), "|" + "---|" * len(head), *map(_row, rows)])


def _row(cells: tuple[str, ...]) -> str:
    return f"| {' | '.join(cells)} |"


def _shown(default: object) -> str:
    return "none" if default in (None, ()) else f"`{default}`"


def _meaning(field: FieldInfo) -> str:
    if not field.description:
        raise ValueError(f"no description: {field}")
    return field.description


def _values(field: FieldInfo) -> str:
    """What may be chosen, as far as the type and its bounds say."""
    kinds = set(_kinds(field.annotation))
    choices = [f"`{choice}`" for kind in kinds if get_origin(kind) is Literal for choice in get_args(kind)]
    if choices:
        return ", ".join(choices)
    if bool in kinds:
        return "`True`, `False`"
    if kinds & {int, float}:
        return _range(field)
    if tuple in {get_origin(kind) for kind in kinds}:
        return "list of texts"
    return "path" if Path in kinds else "text"


def _range(field: FieldInfo) -> str:
    bounds: dict[str, Any] = {}
    for bound in field.metadata:
        for name in ("ge", "gt", "le", "lt"):
            if hasattr(bound, name):
                bounds[name] = getattr(bound, name)
    low = _number(bounds["ge"]) if "ge" in bounds else f"above {_number(bounds['gt'])}"
    if "le" in bounds:
        return f"{low} to {_number(bounds['le'])}"
    if "lt" in bounds:
        return f"{low} to {_number(bounds['lt'] - 1)}"
    return f"{low} or more"


def _number(value: float) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _kinds(annotation: Any) -> Iterator[Any]:
    """The types in `Annotated[type, ...] | None`, without None."""
    if hasattr(annotation, "__metadata__"):
        yield from _kinds(annotation.__origin__)
    elif get_origin(annotation) in (Literal, tuple) or not get_args(annotation):
        if annotation is not type(None):
            yield annotation
    else:
        for kind in get_args(annotation):
            yield from _kinds(kind)


def main() -> int:
    """Exit status 1 where `--check` finds a document that is not up to date."""
    parser = argparse.ArgumentParser(description="Writes what the code knows into the documents.")
    parser.add_argument("--check", action="store_true", help="write nothing; fail where something would be written")
    options = parser.parse_args()
    stale = [page for page in documents() if page.read_text() != filled(page.read_text())]
    for page in stale:
        if options.check:
            print(f"{page.relative_to(ROOT)} is not up to date: run `make docs`", file=sys.stderr)
        else:
            page.write_text(filled(page.read_text()))
            print(f"{page.relative_to(ROOT)} written")
    return 1 if options.check and stale else 0


if __name__ == "__main__":
    sys.exit(main())
