"""Links lead somewhere: in the repository as its host shows it, and in the site."""

import re
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

import pytest

from docs.site import ROOT, BrokenLinkError, build, gather, links, pages, target

PAGES = {str(page.relative_to(ROOT)): page for page in pages()}


def anchors(text: str) -> set[str]:
    """What a repository's host makes of the headings of a document."""
    without_code = re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE)
    found: set[str] = set()
    for heading in re.findall(r"^#+ (.+)$", without_code, re.MULTILINE):
        shown = re.sub(r"\[([^\]]+)\]\([^)]*\)", r"\1", heading)
        slug = re.sub(r"[^\w\- ]", "", shown.lower()).strip().replace(" ", "-")
        number = 1
        while (name := slug if number == 1 else f"{slug}-{number - 1}") in found:
            number += 1
        found.add(name)
    return found


@pytest.mark.parametrize("path", PAGES)
def test_every_link_leads_to_a_file(path):
    for link in links(PAGES[path].read_text()):
        assert target(PAGES[path], link).exists(), link


@pytest.mark.parametrize("path", PAGES)
def test_every_anchor_is_a_heading(path):
    for link in links(PAGES[path].read_text()):
        _, _, anchor = link.partition("#")
        if anchor:
            assert anchor in anchors(target(PAGES[path], link).read_text()), link


def test_links_in_code_are_none_and_others_are_found():
    text = "a [b](c.md#d) `[e](f)`\n```\n[g](h)\n```\n![i](j.svg) [k](https://l/m) [n](#o)"
    assert list(links(text)) == ["c.md#d", "j.svg", "#o"]


def test_a_link_that_leads_to_nothing_ends_the_build(tmp_path):
    (tmp_path / "README.md").write_text("[nothing](docs/nothing.md)")
    with pytest.raises(BrokenLinkError, match=r"README.md links to docs/nothing.md"):
        gather(tmp_path / "pages", tmp_path)


def test_a_link_out_of_the_repository_ends_the_build(tmp_path):
    root = tmp_path / "root"
    root.mkdir()
    (tmp_path / "outside.md").write_text("# Outside")
    (root / "README.md").write_text("[outside](../outside.md)")
    with pytest.raises(BrokenLinkError):
        gather(tmp_path / "pages", root)


class _Requests(HTMLParser):
    """What a browser fetches by itself to show a page."""

    def __init__(self) -> None:
        super().__init__()
        self.urls: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        if source := given.get("src"):
            self.urls.append(source)
        if tag == "link" and (address := given.get("href")):
            self.urls.append(address)


def _requests(site: Path) -> Iterator[str]:
    for page in site.rglob("*.html"):
        reader = _Requests()
        reader.feed(page.read_text())
        yield from reader.urls
    for style in site.rglob("*.css"):
        yield from re.findall(r"url\(['\"]?([^'\")]+)", style.read_text())


def test_the_site_has_every_page_and_asks_no_other_host(tmp_path):
    assert build(tmp_path) == 0
    site = tmp_path / "site"
    shown = {str(page.relative_to(site)) for page in site.rglob("*.html")}
    expected = {path.removesuffix(".md") + ".html" for path in PAGES if path != "README.md"}
    assert expected | {"index.html"} <= shown
    requests = list(_requests(site))
    assert requests
    assert [url for url in requests if re.match(r"(?!data:)[a-z]+:|//", url)] == []


def test_an_anchor_that_is_no_heading_fails_the_build(tmp_path, monkeypatch):
    def gather_a_broken_one(into: Path) -> None:
        gather(into)
        page = into / "docs" / "index.md"
        page.write_text(page.read_text() + "\n[nothing](clients.md#nothing)\n")

    monkeypatch.setattr("docs.site.gather", gather_a_broken_one)
    assert build(tmp_path) != 0


def test_every_page_is_in_the_navigation():
    navigation = (ROOT / "zensical.toml").read_text()
    assert [path for path in PAGES if f'"{path}"' not in navigation] == []
