"""The benchmarks of the engine run, and need no more than they say."""

import json
import subprocess
import sys

import pytest

from demo.service import ROOT

MISSING = ("jina", "docarray", "grpc", "grpc_health", "aiohttp", "pydantic_settings")
WITHOUT = f"import runpy, sys; sys.modules.update(dict.fromkeys({MISSING})); sys.argv.pop(0); "


def run(module: str, *arguments: str) -> dict:
    """The JSON that a benchmark prints where only what it needs is installed."""
    program = f"{WITHOUT} runpy.run_module({module!r}, run_name='__main__')"
    finished = subprocess.run(
        [sys.executable, "-c", program, module, *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert finished.returncode == 0, finished.stderr[-2000:]
    return json.loads(finished.stdout.splitlines()[-1])


@pytest.mark.slow
def test_the_engines_benchmark_needs_no_jina():
    report = run("benchmarks.engine", "--seconds", "0.1", "--batches", "1", "3", "--compile", "off")
    assert [row["batch"] for row in report["rows"]] == [1, 3]
    for row in report["rows"]:
        assert min(row["encode_ms"], row["prefill_ms"], row["step_ms"], row["latency_ms"]) > 0
        assert row["ideal_per_s"] > 0
    assert report["article_per_s"] > 0


@pytest.mark.slow
def test_agreement_needs_no_jina_and_is_complete_in_float32():
    report = run("benchmarks.agreement", "--pictures", "6")
    rows = [row for row in report["rows"] if row["dtype"] == "float32"]
    assert [row["equal"] for row in rows] == [6] * 4


@pytest.mark.slow
def test_the_bare_server_answers_under_load():
    finished = subprocess.run(
        [sys.executable, "-m", "benchmarks.front", "--dtype", "float32", "--concurrency", "3", "--seconds", "1"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=240,
        check=True,
    )
    row = json.loads(finished.stdout.splitlines()[-1])["rows"][0]
    assert row["per_s"] > 0
    assert 1 <= row["batch"] <= 3
