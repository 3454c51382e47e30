"""The tables of the pages say what the code does."""

import re

import yaml

from demo.service import ROOT
from docs.generate import groups
from executor import ErrorCode
from executor.questions.options import GenerationOptions
from executor.questions.presets import PRESETS
from executor.scheduling.dynamic_batching import BatchingOptions
from executor.settings import Settings
from tests.docs.reading import page, plain, table

CONFIG = (ROOT / "config.yml").read_text()


def shown(default: object) -> str:
    return "none" if default in (None, ()) else str(default)


def test_every_setting_is_there_once_with_its_default_and_a_meaning():
    rows = re.findall(r"^\| `(\w+)` \| (.+?) \| (.+?) \| (.+) \|$", page("settings"), re.MULTILINE)
    assert sorted(name for name, *_ in rows) == sorted(Settings.model_fields)
    for name, default, values, meaning in rows:
        assert plain(default) == shown(Settings.model_fields[name].default)
        assert values
        assert len(meaning) > 10


def test_settings_are_grouped_as_in_config_yml():
    grouped = groups(CONFIG)
    assert [name for _, names in grouped for name in names] == list(yaml.safe_load(CONFIG)["with"])
    headings = re.findall(r"^## (.+)$", page("settings"), re.MULTILINE)
    assert [comment.partition(". ")[0] for comment, _ in grouped] == headings


def test_a_range_of_the_settings_is_the_one_that_counts():
    rows = {plain(name): values for name, _, values, _ in table(page("settings"), "## Load")}
    assert rows == {
        "max_queue": "1 or more",
        "max_queue_mb": "1 or more",
        "max_message_mb": "1 to 1024",
        "max_calls": "1 or more",
        "feature_cache_mb": "0 or more",
    }


def test_every_generation_option_is_there_with_its_default_and_range():
    rows = {
        plain(name): (plain(default), values) for name, default, values, _ in table(page("options"), "options table")
    }
    assert {name: default for name, (default, _) in rows.items()} == {
        name: shown(field.default) for name, field in GenerationOptions.model_fields.items()
    }
    assert rows["num_beams"][1] == "1 to 16"
    assert rows["top_p"][1] == "above 0 to 1"
    assert rows["seed"][1] == f"0 to {2**31 - 1}"


def test_every_preset_is_there_with_its_template_and_what_it_changes():
    listed = {
        plain(name): (plain(template), changes) for name, template, changes in table(page("options"), "presets table")
    }
    assert {name: template for name, (template, _) in listed.items()} == {
        name: preset.prompt_template for name, preset in PRESETS.items()
    }
    for name, preset in PRESETS.items():
        changed = {
            option: str(value)
            for option, value in preset.options.model_dump().items()
            if value != GenerationOptions.model_fields[option].default
        }
        assert dict(re.findall(r"`(\w+)=([^`]+)`", listed[name][1])) == changed


def test_every_error_code_that_can_occur_is_there():
    assert {plain(code) for code, *_ in table(page("errors"), "## Codes")} == {code.value for code in ErrorCode}


def test_the_layers_are_those_that_lint_checks():
    contracts = (ROOT / "pyproject.toml").read_text()
    layers = re.search(r'type = "layers".*?layers = \[\n(.*?)\]', contracts, re.DOTALL)
    assert layers is not None
    drawn = page("architecture").split("## Who may import whom", 1)[1].split("```")[1].strip()
    assert drawn.splitlines() == re.findall(r'"(.+)"', layers[1])


def test_every_room_is_described():
    rooms = {
        path.name for path in (ROOT / "executor").iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()
    }
    described = {
        name.strip("/") for row in table(page("architecture"), "## Rooms") for name in re.findall(r"`(.+?)`", row[0])
    }
    assert described == rooms - {"__init__.py"}


def test_batches_have_their_defaults():
    rows = {plain(key): plain(default) for key, default, _ in table(page("reliability"), "## Batches and the queue")}
    defaults = BatchingOptions()
    assert rows == {"preferred_batch_size": str(defaults.preferred_batch_size), "timeout": f"{defaults.timeout:g}"}
