"""The alerts and the dashboard ask for what the service tells."""

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from demo.service import ROOT, free_port
from executor.telemetry.metrics import Metrics
from tests.support.scraping import Scrape
from tests.telemetry.test_metrics import READINGS, describe, serve

ALERTS = ROOT / "deploy" / "alerts.yml"
DASHBOARD = ROOT / "deploy" / "dashboard.json"
OF_PROMETHEUS = {"up"}
OF_THE_SCRAPE = {"job", "instance"}


def rules() -> list[dict[str, Any]]:
    return [rule for group in yaml.safe_load(ALERTS.read_text())["groups"] for rule in group["rules"]]


def panels() -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(DASHBOARD.read_text())["panels"]
    return found


def queries() -> list[str]:
    """Those of the dashboard, with Grafana's variables filled in, and those of the alerts."""
    expressions = [target["expr"] for panel in panels() for target in panel["targets"]]
    filled = [
        expression.replace("$__rate_interval", "5m").replace("$job", "blip2").replace("$instance", ".*")
        for expression in expressions
    ]
    return filled + [rule["expr"] for rule in rules()]


@pytest.fixture(scope="module")
def scrape() -> Scrape:
    metrics, port = Metrics(), free_port()
    describe(metrics)
    metrics.read_at_scrape(READINGS)
    served = serve(metrics, port)
    try:
        return Scrape(port)
    finally:
        served.close()


@pytest.mark.parametrize("query", queries())
def test_a_query_asks_for_series_that_are_there(query, scrape):
    selectors = re.findall(r"\b(\w+)\{(.*?)\}", query, re.DOTALL)
    assert selectors
    for name, selector in selectors:
        if name in OF_PROMETHEUS:
            continue
        assert name in scrape.names()
        for label, operator, values in re.findall(r'(\w+)(=~|!=|!~|=)"(.*?)"', selector):
            if label in OF_THE_SCRAPE:
                continue
            known = {sample.labels.get(label) for sample in scrape if sample.name == name}
            wanted = values.split("|") if operator.endswith("~") else [values]
            assert set(wanted) <= known, (name, label)


def test_a_query_has_no_metric_without_a_selector():
    for query in queries():
        for name in re.findall(r"\b(?:blip2|process)_\w+", query):
            assert re.search(rf"\b{name}\{{", query), name


def test_every_metric_of_the_service_is_on_the_dashboard(scrape):
    shown = " ".join(target["expr"] for panel in panels() for target in panel["targets"])
    families = {
        re.sub(r"_(bucket|count|sum|created)$", "", name) for name in scrape.names() if name.startswith("blip2_")
    }
    missing = {family for family in families if not re.search(rf"\b{family}", shown)}
    assert not missing


def test_every_panel_has_a_place_of_its_own():
    taken: set[tuple[int, int]] = set()
    for panel in panels():
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken, panel["title"]
        assert place["x"] + place["w"] <= 24
        taken |= cells
    assert len({panel["id"] for panel in panels()}) == len(panels())


def promtool(*arguments: str) -> None:
    command = shutil.which("promtool")
    if command is None:
        pytest.skip("promtool is not installed (Debian's package prometheus has it)")
    finished = subprocess.run([command, *arguments], capture_output=True, text=True, timeout=60, check=False)
    assert finished.returncode == 0, finished.stdout + finished.stderr


def test_prometheus_reads_the_alerts():
    promtool("check", "rules", str(ALERTS))


def test_prometheus_reads_the_queries_of_the_dashboard(tmp_path):
    rules = [{"record": f"query:{number}", "expr": query} for number, query in enumerate(queries())]
    file = tmp_path / "rules.yml"
    file.write_text(yaml.safe_dump({"groups": [{"name": "dashboard", "rules": rules}]}))
    promtool("check", "rules", str(file))


def test_alerts_fire_when_they_should(tmp_path):
    promtool("test", "rules", str(write_alert_tests(tmp_path)))


def write_alert_tests(folder: Path) -> Path:
    """What each alert must see, and how it stays silent on a sound service."""
    sound = {
        "up": "1x60",
        "blip2_build_info": "1x60",
        "process_start_time_seconds": "100x60",
        'blip2_documents_total{code="OK"}': "0+600x60",
        'blip2_documents_total{code="FETCH_FAILED"}': "0+1x60",
        **{f'blip2_documents_total{{code="{code}"}}': "0x60" for code in ("INTERNAL", "OVERLOADED", "DEVICE_LOST")},
        'blip2_pictures_total{source="url"}': "0+600x60",
        'blip2_requests_failed_total{code="INTERNAL"}': "0x60",
        'blip2_calls_refused_total{reason="overloaded"}': "0x60",
        'blip2_queue_wait_seconds_bucket{le="5"}': "0+600x60",
        'blip2_queue_wait_seconds_bucket{le="10"}': "0+600x60",
        'blip2_queue_wait_seconds_bucket{le="+Inf"}': "0+600x60",
        "blip2_queue_documents": "3x60",
        "blip2_batch_documents_count": "0+60x60",
        "blip2_draining": "0x60",
    }
    changes: dict[str, dict[str, str]] = {
        "Blip2NotServing": {"up": "0x60"},
        "Blip2Restarting": {"process_start_time_seconds": "100x10 200x10 300x40"},
        "Blip2DeviceLost": {'blip2_documents_total{code="DEVICE_LOST"}': "0+1x60"},
        "Blip2ServiceErrors": {'blip2_documents_total{code="INTERNAL"}': "0+12x60"},
        "Blip2RequestsFail": {'blip2_requests_failed_total{code="INTERNAL"}': "0+1x60"},
        "Blip2FetchesFail": {'blip2_documents_total{code="FETCH_FAILED"}': "0+180x60"},
        "Blip2Overloaded": {'blip2_documents_total{code="OVERLOADED"}': "0+12x60"},
        "Blip2CallsRefused": {'blip2_calls_refused_total{reason="overloaded"}': "0+1x60"},
        "Blip2QueueWait": {'blip2_queue_wait_seconds_bucket{le="5"}': "0+300x60"},
        "Blip2Stuck": {"blip2_batch_documents_count": "60x60"},
        "Blip2Draining": {"blip2_draining": "1x60"},
    }
    assert {rule["alert"] for rule in rules()} == {"Blip2Absent", *changes}
    when = "27m"
    tests = [
        {
            "interval": "1m",
            "input_series": [],
            "promql_expr_test": [firing(when, "Blip2Absent")],
        },
        {"interval": "1m", "input_series": series(sound), "promql_expr_test": [firing(when)]},
        *(
            {"interval": "1m", "input_series": series(sound | change), "promql_expr_test": [firing(when, alert)]}
            for alert, change in changes.items()
        ),
    ]
    file = folder / "alerts_test.yml"
    file.write_text(yaml.safe_dump({"rule_files": [str(ALERTS)], "evaluation_interval": "1m", "tests": tests}))
    return file


def series(values: dict[str, str]) -> list[dict[str, str]]:
    labelled = {}
    for name, value in values.items():
        metric, _, labels = name.partition("{")
        labels = ",".join(filter(None, ['job="blip2"', 'instance="one"', labels.rstrip("}")]))
        labelled[f"{metric}{{{labels}}}"] = value
    return [{"series": name, "values": value} for name, value in labelled.items()]


def firing(when: str, *alerts: str) -> dict[str, Any]:
    """That these alerts fire, and no others."""
    return {
        "expr": 'count by (alertname) (ALERTS{alertstate="firing"})',
        "eval_time": when,
        "exp_samples": [{"labels": f'{{alertname="{alert}"}}', "value": 1} for alert in alerts],
    }
