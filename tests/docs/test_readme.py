"""What the README says is there, is there."""

import re

from docarray import DocList
from jina import Client

from demo.service import ROOT
from docs.generate import documents, filled
from executor import ImagePrompt, Response
from executor.settings import Settings
from tests.docs.reading import README, plain, table


def test_it_is_short():
    assert len(README.splitlines()) <= 150


def test_the_answers_of_its_first_table_are_those_of_the_service(service):
    examples = [(plain(asked), plain(answer)) for _, asked, answer in table(README, "# BLIP-2 Executor")]
    assert len(examples) == 3
    picture = (ROOT / "demo" / "pictures" / "two-cats.jpg").read_bytes()
    responses = Client(port=service.port).post(
        on="/",
        inputs=DocList[ImagePrompt]([ImagePrompt(img_bytes=picture, prompt=prompt) for prompt, _ in examples]),
        return_type=DocList[Response],
    )
    assert [response.answer for response in responses] == [answer for _, answer in examples]


def test_it_lists_ten_settings_with_their_defaults():
    listed = {plain(name): plain(default) for name, default, _ in table(README, "## Settings")}
    assert len(listed) == 10
    for name, default in listed.items():
        value = Settings.model_fields[name].default
        assert default == ("none" if value in (None, ()) else str(value))


def test_it_links_to_every_page():
    pages = {f"docs/{path.name}" for path in documents() if path.parent.name == "docs"}
    linked = set(re.findall(r"\]\((docs/[\w-]+\.md)", README + (ROOT / "docs" / "index.md").read_text()))
    linked |= {f"docs/{name}" for name in re.findall(r"\]\(([\w-]+\.md)", (ROOT / "docs" / "index.md").read_text())}
    assert pages <= linked


def test_it_and_the_pages_are_as_the_code_would_write_them():
    stale = [path.name for path in documents() if path.read_text() != filled(path.read_text())]
    assert stale == [], "run `make docs`"
