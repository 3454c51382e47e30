"""What the documents say to type can be typed."""

import re
import subprocess
import sys
from functools import cache
from importlib.util import find_spec

import pytest

from demo.service import ROOT
from executor.settings import Settings
from tests.docs.reading import TEXTS, commands

TARGETS = set(re.findall(r"^([a-z-]+):.*##", (ROOT / "Makefile").read_text(), re.MULTILINE))
ELSEWHERE = ("checkpoints/", "benchmarks/results/")
"""Folders that somebody makes."""


@cache
def options(*command: str) -> set[str]:
    """Those that the help of a Python module lists."""
    told = subprocess.run(
        [sys.executable, "-m", *command, "--help"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    return set(re.findall(r"(?<![\w-])--[a-z][\w-]*", told.stdout))


def modules(text: str) -> list[tuple[str, str]]:
    """Each `python -m module`, and the rest of its command."""
    found = [re.search(r"\bpython3? -m ([\w.]+)(.*)", line.partition("  #")[0]) for line in commands(text)]
    return [(match[1], match[2]) for match in found if match]


@pytest.mark.parametrize("path", TEXTS)
def test_every_make_target_is_there(path):
    named = {match[1] for line in commands(TEXTS[path]) if (match := re.match(r"(?:\S+=\S+ )*make ([a-z-]+)", line))}
    assert named <= TARGETS


def test_readme_and_contributing_name_targets():
    assert {"demo", "test", "help"} <= TARGETS
    told = {match[1] for line in commands(TEXTS["CONTRIBUTING.md"]) if (match := re.match(r"make ([a-z-]+)", line))}
    assert told | {"clean", "help"} == TARGETS


@pytest.mark.parametrize("path", TEXTS)
def test_every_python_module_is_there(path):
    for module, _ in modules(TEXTS[path]):
        place = ROOT.joinpath(*module.split("."))
        assert place.with_suffix(".py").is_file() or (place / "__main__.py").is_file() or find_spec(module), module


@pytest.mark.parametrize("path", TEXTS)
def test_every_option_of_the_service_is_there(path):
    for module, rest in modules(TEXTS[path]):
        if module == "executor":
            words = rest.split()
            command = words[:1] if words and words[0] in ("prepare", "health") else []
            assert set(re.findall(r"(?<![\w-])--[a-z][\w-]*", rest)) <= options("executor", *command), rest


def test_options_in_sentences_about_the_service_are_there():
    """Such as `--host 0.0.0.0`, without the command before it."""
    known = options("executor") | options("executor", "prepare") | options("executor", "health")
    named = {word for line in commands(TEXTS["README.md"]) for word in re.findall(r"^(--[a-z][\w-]*)", line)}
    assert named
    assert named <= known


@pytest.mark.parametrize("path", TEXTS)
def test_every_environment_variable_is_a_setting(path):
    named = {name.lower() for name in re.findall(r"\bBLIP2_([A-Z][A-Z0-9_]+)", TEXTS[path])}
    assert named - {"name"} <= set(Settings.model_fields)


@pytest.mark.parametrize("path", TEXTS)
def test_every_file_that_is_named_is_there(path):
    named = {
        match[1].rstrip("/.")
        for line in commands(TEXTS[path])
        for match in re.finditer(
            r"(?:^|[\s`=])((?:benchmarks|demo|deploy|docs|examples|executor|tests)/[\w./-]+)", line
        )
        if not match[1].startswith(ELSEWHERE)
    }
    assert [name for name in sorted(named) if not (ROOT / name).exists()] == []
