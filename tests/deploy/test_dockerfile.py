"""The variants of the image differ in nothing but their base and torch's build."""

from __future__ import annotations

import re

from demo.service import ROOT

STEPS = [
    " ".join(step.replace("\\\n", " ").split())
    for step in re.findall(
        r"^[A-Z]+ (?:.*\\\n)*.*$",
        re.sub(r"^\s*#.*\n", "", (ROOT / "Dockerfile").read_text(), flags=re.MULTILINE),
        re.MULTILINE,
    )
]
ARGUMENTS = dict(step.removeprefix("ARG ").partition("=")[::2] for step in STEPS if step.startswith("ARG "))


def uses_of(argument: str) -> list[str]:
    return [step for step in STEPS if re.search(rf"\$\{{?{argument}\b", step)]


def test_there_is_one_stage_and_its_base_is_an_argument():
    assert [step for step in STEPS if step.startswith("FROM")] == ["FROM ${BASE_IMAGE}"]
    assert uses_of("BASE_IMAGE") == ["FROM ${BASE_IMAGE}"]


def test_every_argument_is_known_so_that_no_other_distinguishes_variants():
    assert ARGUMENTS.keys() == {
        "BASE_IMAGE",
        "TORCH_INDEX_URL",
        "PIP_CONFIG_FILE",
        "CHECKPOINT",
        "VERSION",
        "REVISION",
    }


def test_torchs_index_adds_an_option_to_the_one_installation_and_changes_nothing_else():
    (install,) = uses_of("TORCH_INDEX_URL")
    assert "pip install" in install
    assert re.findall(r"\S*\$\{TORCH_INDEX_URL.*?\S*\}", install) == [
        '${TORCH_INDEX_URL:+--extra-index-url "${TORCH_INDEX_URL}"}'
    ]
    assert "--requirement requirements.txt" in install
    assert [step for step in STEPS if "pip install" in step] == [install]


def test_the_only_condition_is_where_the_interpreter_comes_from():
    conditions = [step for step in STEPS if re.search(r"\b(?:if|case|while)\b|\$\{\w+:", step)]
    assert [step.split()[0] for step in conditions] == ["RUN", "RUN", "COPY", "ENV"]
    interpreter, install, copy, model = conditions
    assert re.findall(r"\bif (.*?); then|elif (.*?); then", interpreter) == [
        ("command -v python3.11 >/dev/null", ""),
        ("", "command -v dnf >/dev/null"),
    ]
    assert install in uses_of("TORCH_INDEX_URL")
    assert [copy, model] == uses_of("CHECKPOINT")
