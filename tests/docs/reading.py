"""What the tests of the documents read in them: sections, tables, code."""

from __future__ import annotations

import re
from typing import NamedTuple

from demo.service import ROOT
from docs.generate import documents

README = (ROOT / "README.md").read_text()
TEXTS = {str(page.relative_to(ROOT)): page.read_text() for page in (*documents(), ROOT / "CONTRIBUTING.md")}
"""Every document that tells how things are now, by its path."""

_BLOCK = re.compile(r"(?:<!-- (\w+) -->\n)?```(\w*)\n(.*?)```", re.DOTALL)
_SPAN = re.compile(r"`([^`\n]+)`")


class Block(NamedTuple):
    """A block of code, and the name in the marker above it."""

    name: str | None
    language: str
    text: str


def page(name: str) -> str:
    """The text of a page in docs/."""
    return TEXTS[f"docs/{name}.md"]


def blocks(text: str) -> list[Block]:
    """The blocks of code of a document."""
    return [Block(name or None, language, code) for name, language, code in _BLOCK.findall(text)]


def commands(text: str) -> list[str]:
    """What a document says to type: lines of its blocks, and pieces of code in its sentences."""
    lines = [line for block in blocks(text) if block.language == "bash" for line in block.text.splitlines()]
    return [*lines, *_SPAN.findall(_BLOCK.sub("", text))]


def table(text: str, begin: str) -> list[list[str]]:
    """The cells of the first table after `begin`, less its head."""
    after = text.split(begin, 1)[1]
    lines = after[after.index("\n|") :].split("\n\n", 1)[0].strip().splitlines()
    rows = [line for line in lines[2:] if line.startswith("|")]
    return [[cell.strip() for cell in row.strip("|").split("|")] for row in rows]


def plain(cell: str) -> str:
    """A cell without the marks of code."""
    return cell.strip("`")
