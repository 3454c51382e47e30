import inspect
from typing import Any

import pytest
import yaml

from demo.service import ROOT
from executor import Blip2Executor
from executor.errors import StartupError
from executor.jina_adapter.endpoints import NAMES
from executor.questions.presets import PRESETS
from executor.scheduling.dynamic_batching import BatchingOptions
from executor.settings import Settings

CONFIG = yaml.safe_load((ROOT / "config.yml").read_text())


def test_config_yml_lists_every_setting_with_its_default():
    defaults = {name: field.default for name, field in Settings.model_fields.items()}
    as_yaml = {name: list(value) if isinstance(value, tuple) else value for name, value in defaults.items()}
    assert CONFIG["with"] == as_yaml


def test_config_yml_has_the_default_batching_for_the_vqa_endpoint():
    assert BatchingOptions.resolve(CONFIG["dynamic_batching"], NAMES) == BatchingOptions()


def test_the_executor_has_every_setting_as_a_keyword():
    assert set(Settings.model_fields) <= set(inspect.signature(Blip2Executor.__init__).parameters)


def test_the_environment_wins_over_configured_values(monkeypatch):
    monkeypatch.setenv("BLIP2_NUM_BEAMS", "3")
    monkeypatch.setenv("BLIP2_MODEL", "somewhere/else")
    settings: Any = Settings.resolve({"num_beams": 5, "max_new_tokens": 7})
    assert (settings.num_beams, settings.max_new_tokens, settings.model) == (3, 7, "somewhere/else")


def test_an_empty_environment_variable_is_none(monkeypatch):
    monkeypatch.setenv("BLIP2_DEVICE", "")
    assert Settings.resolve({}).device == "auto"


def test_an_unknown_setting_is_an_error_that_names_the_nearest_known_one():
    with pytest.raises(StartupError, match="unknown setting 'num_beans', did you mean 'num_beams'"):
        Settings.resolve({"num_beans": 5})


@pytest.mark.parametrize(
    ("configured", "names"),
    [
        ({"device": "gpu"}, "device"),
        ({"dtype": "int8"}, "dtype"),
        ({"num_beams": 0}, "num_beams"),
        ({"fetch_timeout_s": -1}, "fetch_timeout_s"),
        ({"prompt_template": "no place"}, "prompt_template"),
        ({"torch_threads": 513}, "torch_threads"),
        ({"decode_threads": 513}, "decode_threads"),
        ({"otlp_endpoint": "http://localhost:4317/v1/traces"}, "otlp_endpoint"),
        ({"otlp_endpoint": "http://localhost:99999"}, "otlp_endpoint"),
        ({"otlp_endpoint": "localhost:4317"}, "otlp_endpoint"),
    ],
)
def test_an_invalid_setting_is_an_error_that_names_it(configured, names):
    with pytest.raises(StartupError, match=f"setting '{names}'"):
        Settings.resolve(configured)


def test_a_password_in_the_address_of_a_collector_is_not_repeated():
    with pytest.raises(StartupError, match="must be like http://host:4317") as raised:
        Settings.resolve({"otlp_endpoint": "http://user:password@localhost:4317"})
    assert "password" not in str(raised.value)


def test_two_ports_that_are_one_are_an_error():
    with pytest.raises(StartupError, match="health_port and metrics_port are the same port"):
        Settings.resolve({"health_port": 9100, "metrics_port": 9100})


def test_config_yml_as_it_is_changes_nothing_of_a_preset(monkeypatch):
    for name, preset in PRESETS.items():
        monkeypatch.setenv("BLIP2_PRESET", name)
        assert Settings.resolve(CONFIG["with"]).generation() == preset.merged()


def test_a_setting_changes_that_one_value_of_the_services_preset():
    template, options = Settings.resolve({"preset": "paper", "num_beams": 3}).generation()
    assert template == "Question: {} Short answer:"
    assert (options.num_beams, options.length_penalty, options.max_new_tokens) == (3, -1.0, 10)
    assert Settings.resolve({"preset": "paper", "prompt_template": "Q: {}"}).generation().prompt_template == "Q: {}"


@pytest.mark.parametrize(
    ("configured", "message"),
    [
        ({"preset": "paper", "temperature": 0.7}, "do not go together: sampling .* needs num_beams 1"),
        ({"preset": "paper", "min_new_tokens": 15}, "do not go together: min_new_tokens"),
        ({"preset": "papers"}, "setting 'preset' is 'papers'"),
    ],
)
def test_settings_that_contradict_the_preset_end_the_start(configured, message):
    with pytest.raises(StartupError, match=message):
        Settings.resolve(configured)


def test_an_error_says_when_the_value_came_from_the_environment(monkeypatch):
    monkeypatch.setenv("BLIP2_NUM_BEAMS", "lots")
    with pytest.raises(StartupError, match="from BLIP2_NUM_BEAMS"):
        Settings.resolve({})


def test_an_unknown_variable_is_warned_about_and_not_fatal(monkeypatch):
    # Kubernetes sets this one beside a service named "blip2".
    monkeypatch.setenv("BLIP2_PORT", "tcp://10.0.0.1:54321")
    Settings.resolve({})
    assert any("BLIP2_PORT" in warning for warning in Settings.unknown_environment())


def test_batching_accepts_every_name_of_the_endpoint_and_the_last_counts():
    for name in ("/vqa", "/default", "/", "vqa"):
        assert BatchingOptions.resolve({name: {"preferred_batch_size": 7}}, NAMES).preferred_batch_size == 7
    both = {"/vqa": {"preferred_batch_size": 16, "timeout": 5}, "/default": {"preferred_batch_size": 3}}
    assert BatchingOptions.resolve(both, NAMES) == BatchingOptions(preferred_batch_size=3)


@pytest.mark.parametrize(
    ("configured", "message"),
    [
        ({"/vqua": {"preferred_batch_size": 4}}, "did you mean '/vqa'"),
        ({"/vqa": {"prefered_batch_size": 4}}, "did you mean 'preferred_batch_size'"),
        ({"/vqa": {"preferred_batch_size": 0}}, "preferred_batch_size"),
        ({"/vqa": {"timeout": -1}}, "timeout"),
        ({"/vqa": {"flush_all": True}}, "flush_all"),
        ({"/vqa": 4}, "mapping"),
    ],
)
def test_a_mistake_in_dynamic_batching_is_an_error_that_names_it(configured, message):
    with pytest.raises(StartupError, match=message):
        BatchingOptions.resolve(configured, NAMES)


@pytest.mark.parametrize("name", ["BLIP2_AUTH_TOKENS", "BLIP2_AUTH_TOKENS_FILE", "BLIP2_TLS_CERT"])
@pytest.mark.parametrize("value", ["", " , "])
def test_a_secret_that_is_set_and_empty_does_not_open_the_service(monkeypatch, name, value):
    monkeypatch.setenv(name, value)
    with pytest.raises(StartupError, match=f"{name} is set and empty"):
        Settings.resolve({})
