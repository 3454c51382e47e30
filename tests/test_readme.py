"""What the README says is there, is there."""

import re
import subprocess
import sys

import pytest
from docarray import DocList
from jina import Client

from demo.service import ROOT, free_port
from executor import ErrorCode, ImagePrompt, Response
from executor.questions.options import GenerationOptions
from executor.questions.presets import PRESETS
from executor.settings import Settings

README = (ROOT / "README.md").read_text()
PICTURE_URL = "http://images.cocodataset.org/val2017/000000039769.jpg"


def program(name: str) -> str:
    """The Python block behind `<!-- name -->`."""
    match = re.search(rf"<!-- {name} -->\n```python\n(.*?)```", README, re.DOTALL)
    assert match, f"no program '{name}'"
    return match.group(1)


def run(source: str) -> list[str]:
    finished = subprocess.run(
        [sys.executable, "-c", source], cwd=ROOT, capture_output=True, text=True, timeout=120, check=True
    )
    return finished.stdout.splitlines()


@pytest.mark.usefixtures("demo_environment")
def test_the_articles_program_prints_two(pictures_url):
    assert run(program("article").replace(PICTURE_URL, f"{pictures_url}/two-cats.jpg"))[-1].strip() == "two"


@pytest.mark.usefixtures("demo_environment")
def test_the_articles_client_and_server_are_a_pair(pictures_url):
    port = str(free_port())
    client = program("client").replace(PICTURE_URL, f"{pictures_url}/two-cats.jpg").replace("12345", port)
    server = program("server").replace("12345", port)
    asking = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {client!r}], check=True)"
    assert run(server.replace("dep.block()", asking))[-1].strip() == "two"


def cells(heading: str) -> list[list[str]]:
    """The table under a heading, less its own."""
    section = README.split(heading, 1)[1]
    table = section[section.index("\n|") :].split("\n\n", 1)[0]
    return [[cell.strip().strip("`") for cell in line.strip("|").split("|")] for line in table.strip().splitlines()[2:]]


def rows(heading: str) -> dict[str, str]:
    """First column -> second column of the table under a heading."""
    return {row[0]: row[1] for row in cells(heading)}


def shown(default: object) -> str:
    return "none" if default in (None, ()) else str(default)


def test_every_setting_is_there_with_its_default():
    listed = rows("## Configure it")
    expected = set(Settings.model_fields) - set(GenerationOptions.model_fields)
    assert listed.keys() - {"generation options"} == expected
    assert {name: listed[name] for name in expected} == {
        name: shown(Settings.model_fields[name].default) for name in expected
    }


def test_every_generation_option_is_there_with_its_default():
    defaults = {name: field.default for name, field in GenerationOptions.model_fields.items()}
    assert rows("### Generation options") == {name: shown(default) for name, default in defaults.items()}


def test_every_preset_is_there_with_its_template_and_what_it_changes():
    assert rows("### Presets") == {name: preset.prompt_template for name, preset in PRESETS.items()}
    listed = {name: options for name, _, options, *_ in cells("### Presets")}
    for name, preset in PRESETS.items():
        changed = {
            option: value
            for option, value in preset.options.model_dump().items()
            if value != GenerationOptions.model_fields[option].default
        }
        written = dict(pair.split("=") for pair in listed[name].split(", ") if "=" in pair)
        assert written == {option: str(value) for option, value in changed.items()}


def test_every_error_code_that_can_occur_is_there():
    assert rows("### Errors").keys() == {code.value for code in ErrorCode}


def test_every_row_of_what_happens_when_names_tests_that_exist():
    sources = {file.name: file.read_text() for file in (ROOT / "tests" / "integration").glob("test_*.py")}
    for row in cells("### What happens when"):
        source = ""
        for name in re.findall(r"test_\w+(?:\.py)?", row[-1]):
            if name.endswith(".py"):
                source = sources[name]
            else:
                assert f"def {name}(" in source, name
        assert source, row


def test_the_example_answers_are_those_of_the_service(service):
    table = README[README.index("| picture |") :].split("\n\n", 1)[0].splitlines()[2:]
    examples = [re.findall(r"`([^`]+)`", line) for line in table]
    picture = (ROOT / "demo" / "pictures" / "two-cats.jpg").read_bytes()
    responses = Client(port=service.port).post(
        on="/",
        inputs=DocList[ImagePrompt]([ImagePrompt(img_bytes=picture, prompt=prompt) for prompt, _ in examples]),
        return_type=DocList[Response],
    )
    assert [response.answer for response in responses] == [answer for _, answer in examples]


def test_the_client_that_asks_again_prints_the_answer(service):
    assert run(program("retry").replace("54321", str(service.port)))[-1].strip() == "two"


def test_the_program_with_many_documents_prints_answers_and_errors(service):
    printed = run(program("ask").replace("54321", str(service.port)))
    assert printed[0] == "how many cats are there? -> two"
    assert printed[1] == "is there a dog? -> no"
    assert printed[2].startswith(" -> EMPTY_PROMPT:")


def test_every_file_that_growing_names_is_there():
    growing = ROOT / "docs" / "growing.md"
    links = re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", growing.read_text())
    assert links
    assert [link for link in links if not (growing.parent / link).exists()] == []
