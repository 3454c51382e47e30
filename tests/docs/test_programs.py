"""The programs that the documents show are files of examples/, and do what the documents say."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from demo.service import CHECKPOINT, ROOT, free_port
from docs.generate import PROGRAMS
from tests.docs.reading import TEXTS, blocks

EXAMPLES = ROOT / "examples"
PICTURE_URL = "http://images.cocodataset.org/val2017/000000039769.jpg"
ANSWERS = ["how many cats are there? -> two", "is there a dog? -> no"]


@pytest.fixture
def examples(tmp_path: Path) -> Path:
    """A copy of examples/, to be changed where a program names a port or a picture of the internet."""
    return Path(shutil.copytree(EXAMPLES, tmp_path / "examples"))


def replaced(program: Path, *pairs: tuple[str, str]) -> Path:
    """The program, with texts in it replaced."""
    text = program.read_text()
    for old, new in pairs:
        assert old in text
        text = text.replace(old, new)
    program.write_text(text)
    return program


def run(program: Path) -> list[str]:
    """Runs it as a script, from the root of the repository. Returns the lines that it prints."""
    finished = subprocess.run(
        [sys.executable, program],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        text=True,
        timeout=120,
        check=True,
    )
    return finished.stdout.splitlines()


def runs(program: Path) -> str:
    """A line of Python that runs another program."""
    return f"import subprocess, sys; subprocess.run([sys.executable, {str(program)!r}], check=True)"


def test_every_program_of_the_documents_is_a_file_of_examples():
    for path, text in TEXTS.items():
        for block in blocks(text):
            if block.name is not None:
                assert block.text == (EXAMPLES / PROGRAMS[block.name]).read_text(), (path, block.name)


def test_every_file_of_examples_is_shown_or_named():
    shown = {PROGRAMS[block.name] for text in TEXTS.values() for block in blocks(text) if block.name is not None}
    files = {file.name for file in EXAMPLES.glob("*.py")}
    assert shown <= files
    assert all(any(f"examples/{name}" in text for text in TEXTS.values()) for name in files - shown)


@pytest.mark.parametrize("path", TEXTS)
def test_every_other_piece_of_python_in_the_documents_can_be_read(path):
    for block in blocks(TEXTS[path]):
        if block.language == "python":
            compile(block.text, path, "exec")


def test_asking_prints_answers_and_errors(examples, service):
    printed = run(replaced(examples / "ask.py", ("54321", str(service.port))))
    assert printed[:2] == ANSWERS
    assert printed[2].startswith(" -> EMPTY_PROMPT:")


def test_the_client_that_asks_again_prints_the_answer(examples, service):
    assert run(replaced(examples / "ask_again.py", ("54321", str(service.port))))[-1].strip() == "two"


@pytest.mark.usefixtures("demo_environment")
def test_the_articles_program_prints_two(examples, pictures_url):
    program = replaced(examples / "article.py", (PICTURE_URL, f"{pictures_url}/two-cats.jpg"))
    assert run(program)[-1].strip() == "two"


@pytest.mark.usefixtures("demo_environment")
def test_the_articles_client_and_server_are_a_pair(examples, pictures_url):
    port = str(free_port())
    client = replaced(examples / "article_client.py", (PICTURE_URL, f"{pictures_url}/two-cats.jpg"), ("12345", port))
    server = replaced(examples / "article_server.py", ("12345", port), ("dep.block()", runs(client)))
    assert run(server)[-1].strip() == "two"


@pytest.mark.usefixtures("demo_environment")
def test_a_deployment_of_config_yml_answers(examples):
    port = str(free_port())
    client = replaced(examples / "ask.py", ("54321", port))
    server = replaced(examples / "deployment.py", ("54321", port), ("deployment.block()", runs(client)))
    assert [line for line in run(server) if line in ANSWERS] == ANSWERS


def test_a_flow_of_several_hosts_answers(examples, service):
    port, host = str(free_port()), f"127.0.0.1:{service.port}"
    client = replaced(examples / "ask.py", ("54321", port))
    flow = replaced(
        examples / "hosts.py",
        ("10.0.0.1:54321", host),
        ("10.0.0.2:54321", host),
        ("port=54321", f"port={port}"),
        ("flow.block()", runs(client)),
    )
    assert [line for line in run(flow) if line in ANSWERS] == ANSWERS


def test_the_program_for_several_gpus_is_one_for_this_checkpoint_too(examples, monkeypatch):
    """Where there is no GPU its GPUs are left out; what is left is two replicas behind a gateway."""
    port = str(free_port())
    monkeypatch.setenv("BLIP2_MODEL", str(CHECKPOINT))
    client = replaced(examples / "ask.py", ("54321", port))
    server = replaced(
        examples / "gpus.py",
        ("54321", port),
        (', env={"CUDA_VISIBLE_DEVICES": "RR"}', ""),
        ("deployment.block()", runs(client)),
    )
    assert [line for line in run(server) if line in ANSWERS] == ANSWERS
