"""`python -m docs.site`: the documents as a site, in the folder site/, for a browser without a network.

The site has the folders of the repository: README is its first page, and every file that a document links to lies where
the link says. So one link works in both. A link that leads to nothing ends the build.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote

ROOT = Path(__file__).resolve().parent.parent
CONFIG = "zensical.toml"
PAGES = ("README.md", "CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md", "benchmarks/RESULTS.md", "docs/*.md")
_GATHERED = Path("build", "pages")
"""As `docs_dir` in the configuration says."""
_CODE = re.compile(r"^(```+).*?^\1|`[^`\n]+`", re.DOTALL | re.MULTILINE)
_LINK = re.compile(r"\]\(\s*<?([^()\s>]+)>?(?:\s+\"[^\"]*\")?\s*\)")
_ELSEWHERE = re.compile(r"[a-z][a-z0-9+.-]*:", re.IGNORECASE)


class BrokenLinkError(Exception):
    """A document links to a file that is not there."""


def pages(root: Path = ROOT) -> list[Path]:
    """The documents."""
    return [page for pattern in PAGES for page in sorted(root.glob(pattern))]


def links(text: str) -> Iterator[str]:
    """Where the links and pictures of a document lead, less those in code and those out of the repository."""
    for target in _LINK.findall(_CODE.sub("", text)):
        if not _ELSEWHERE.match(target):
            yield target


def target(page: Path, link: str) -> Path:
    """The file or folder that a link of a page leads to."""
    path = unquote(link.partition("#")[0])
    return (page.parent / path).resolve() if path else page


def gather(into: Path, root: Path = ROOT) -> None:
    """Copies the documents, and what they link to, into a folder.

    Raises:
        BrokenLinkError: a link leads to nothing, or out of the repository.
    """
    for page in pages(root):
        _copy(page, root, into)
        for link in links(page.read_text()):
            file = target(page, link)
            if not file.exists() or not file.is_relative_to(root):
                raise BrokenLinkError(f"{page.relative_to(root)} links to {link}, which is not there")
            _copy(file, root, into)


def _copy(file: Path, root: Path, into: Path) -> None:
    copy = into / file.relative_to(root)
    copy.parent.mkdir(parents=True, exist_ok=True)
    if file.is_dir():
        shutil.copytree(file, copy, dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__"))
    else:
        shutil.copyfile(file, copy)


def build(folder: Path = ROOT) -> int:
    """Builds the site into `folder`/site. Returns the exit status of the generator, which says what is wrong."""
    shutil.rmtree(folder / _GATHERED, ignore_errors=True)
    gather(folder / _GATHERED)
    if folder != ROOT:
        shutil.copyfile(ROOT / CONFIG, folder / CONFIG)
    zensical = Path(sys.executable).with_name("zensical")
    return subprocess.run([zensical, "build", "--strict", "--clean"], cwd=folder, check=False).returncode


if __name__ == "__main__":
    try:
        sys.exit(build())
    except BrokenLinkError as error:
        sys.exit(f"docs: {error}")
