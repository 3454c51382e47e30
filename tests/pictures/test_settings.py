"""The settings that concern pictures: from config.yml, from the environment, refused at start."""

import json
from typing import Any

import pytest
import yaml

from demo.service import ROOT
from executor.errors import StartupError
from executor.pictures.loader import ImageLimits
from executor.settings import Settings

CONFIG = ROOT / "config.yml"


def limits(**configured: Any) -> ImageLimits:
    return Settings.resolve(configured).image_limits()


def test_the_defaults_are_the_same_everywhere():
    written = yaml.safe_load(CONFIG.read_text())["with"]
    assert limits(**written) == limits() == ImageLimits()


@pytest.mark.parametrize(
    "text",
    [
        "127.0.0.1,[::1]:5000, *.a.example",
        '["127.0.0.1", "[::1]:5000", "*.a.example"]',
        " 127.0.0.1 ,[::1]:5000,*.a.example,",
    ],
)
def test_lists_from_the_environment_are_comma_separated_or_json(monkeypatch, tmp_path, text):
    monkeypatch.setenv("BLIP2_ALLOWED_HOSTS", text)
    monkeypatch.setenv("BLIP2_ALLOWED_LOCAL_DIRS", f"{tmp_path},{tmp_path.parent}")
    assert limits().allowed_hosts == ("127.0.0.1", "[::1]:5000", "*.a.example")
    assert limits().allowed_local_dirs == (str(tmp_path), str(tmp_path.parent))
    monkeypatch.setenv("BLIP2_ALLOWED_LOCAL_DIRS", json.dumps([str(tmp_path)]))
    assert limits().allowed_local_dirs == (str(tmp_path),)


def test_one_bracketed_address_from_the_environment_is_not_taken_for_json(monkeypatch):
    monkeypatch.setenv("BLIP2_ALLOWED_HOSTS", "[::1]:5000,[::1]")
    assert limits().allowed_hosts == ("[::1]:5000", "[::1]")


def test_every_setting_is_overridden_by_the_environment(monkeypatch):
    changed: dict[str, Any] = {
        "max_image_bytes": 1,
        "max_image_pixels": 2,
        "max_image_side": 3,
        "fetch_timeout_s": 0.5,
        "max_redirects": 0,
        "max_fetches": 4,
        "max_fetches_per_host": 5,
        "allowed_hosts": ("a.example",),
        "allowed_local_dirs": ("/",),
        "exif_orientation": False,
        "fast_jpeg_decode": True,
        "user_agent": "pictures/1.0 (+https://a.example)",
    }
    for name, value in changed.items():
        monkeypatch.setenv(f"BLIP2_{name.upper()}", value[0] if isinstance(value, tuple) else str(value))
    assert limits() == ImageLimits(**changed)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("allowed_hosts", ["10.0.0.1/8"]),
        ("allowed_hosts", "http://a.example"),
        ("allowed_hosts", '["a.example", ]"]'),
        ("allowed_hosts", 5),
        ("allowed_local_dirs", ["pictures"]),
        ("allowed_local_dirs", ["/does/not/exist"]),
        ("max_image_pixels", 200_000_000),
        ("max_image_side", 0),
        ("max_image_bytes", 0),
        ("fetch_timeout_s", 0),
        ("fetch_timeout_s", float("inf")),
        ("fetch_timeout_s", float("nan")),
        ("max_redirects", -1),
        ("max_fetches", 0),
        ("max_fetches_per_host", 0),
        ("user_agent", "a\r\nHost: b"),
        ("user_agent", ""),
        ("exif_orientation", "perhaps"),
    ],
)
def test_values_that_cannot_be_meant_end_the_start_and_are_named(name, value):
    with pytest.raises(StartupError, match=f"setting '{name}"):
        Settings.resolve({name: value})
