"""The metrics by themselves: what they count, what they are called, and that they harm nobody."""

import logging
import re
import socket
import threading
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import prometheus_client
import pytest

from demo.service import ROOT, free_port
from executor import ErrorCode, __version__
from executor.server.metrics_port import MetricsPort
from executor.telemetry.metrics import Metrics, Readings, library_versions
from executor.telemetry.observer import SILENT, BatchReport, Observer, Observers, Refusal, Source, StageTimes
from tests.support.scraping import Scrape

PAGE = (ROOT / "docs" / "observability.md").read_text()
READINGS = Readings(
    documents=lambda: 1,
    request_bytes=lambda: 2,
    waiting=lambda: 3,
    calls=lambda: 4,
    pictures=lambda: 5,
    draining=lambda: True,
    cache_hits=lambda: 6,
    cache_misses=lambda: 7,
    device_memory=(lambda: 8, lambda: 9),
)
REPORT = BatchReport(documents=3, encoded=2, times=StageTimes(0.4, 0.02, 0.5, 10, 25))


@pytest.fixture
def metrics() -> Metrics:
    return Metrics()


@pytest.fixture
def port(metrics) -> Iterator[int]:
    port = free_port()
    served = serve(metrics, port)
    yield port
    served.close()


def serve(metrics: Metrics, port: int) -> MetricsPort:
    served = MetricsPort(metrics.registry, range(port, port + 1), logging.getLogger("test"))
    served.open("127.0.0.1")
    return served


def describe(metrics: Metrics) -> None:
    metrics.describe(1.5, library_versions() | {"device": "cpu", "dtype": "float32", "compile": "off"})


def tell_everything(observer: Observer) -> None:
    for code in (None, *ErrorCode):
        observer.document_ended(code, 0.3)
    observer.documents_refused(4)
    for code in (ErrorCode.INVALID_OPTIONS, ErrorCode.INVALID_DOCUMENT, ErrorCode.INTERNAL):
        observer.request_failed(code)
    for reason in Refusal:
        observer.call_refused(reason)
    for source in Source:
        observer.picture_asked(source)
    with observer.fetching():
        pass
    with observer.decoding():
        pass
    with observer.batch([None] * 3, [0.001, 0.2, 3.0]):
        pass
    observer.batch_answered(REPORT)


def test_everything_that_is_told_is_counted(metrics, port):
    tell_everything(metrics)
    scrape = Scrape(port)
    codes = {"OK": 1.0} | {code.value: 1.0 for code in ErrorCode} | {"OVERLOADED": 5.0}
    assert scrape.above_zero("blip2_documents_total", "code") == codes
    assert scrape.value("blip2_document_seconds_count") == 1
    assert scrape.value("blip2_document_seconds_sum") == pytest.approx(0.3)
    assert scrape.value("blip2_fetch_seconds_count") == scrape.value("blip2_picture_decode_seconds_count") == 1
    assert scrape.value("blip2_queue_wait_seconds_count") == 3
    assert scrape.value("blip2_queue_wait_seconds_sum") == pytest.approx(3.201)
    assert scrape.value("blip2_batch_documents_sum") == 3
    assert scrape.value("blip2_batch_documents_bucket", le="2.0") == 0
    assert scrape.value("blip2_batch_documents_bucket", le="4.0") == 1
    assert scrape.value("blip2_tokens_total") == 25
    assert scrape.value("blip2_stage_seconds_sum", stage="encode") == pytest.approx(0.4)
    assert scrape.value("blip2_stage_seconds_sum", stage="prefill") == pytest.approx(0.02)
    assert scrape.value("blip2_stage_seconds_sum", stage="decode") == pytest.approx(0.5)
    assert scrape.value("blip2_token_seconds_sum") == pytest.approx(0.05)


def test_a_batch_from_the_cache_has_no_time_of_encoding(metrics, port):
    metrics.batch_answered(replace(REPORT, encoded=0, times=REPORT.times._replace(encode_s=0.0)))
    assert Scrape(port).value("blip2_stage_seconds_count", stage="encode") == 0


def test_a_fetch_and_a_decoding_that_fail_take_time_too(metrics, port):
    for around in (metrics.fetching, metrics.decoding):
        with pytest.raises(KeyError), around():
            raise KeyError
    scrape = Scrape(port)
    assert scrape.value("blip2_fetch_seconds_count") == scrape.value("blip2_picture_decode_seconds_count") == 1


def test_labels_have_values_of_a_fixed_set_that_are_there_from_the_start(metrics, port):
    def labels() -> dict[tuple[str, str], set[str]]:
        found: dict[tuple[str, str], set[str]] = {}
        for sample in Scrape(port):
            for label, value in sample.labels.items():
                found.setdefault((sample.name, label), set()).add(value)
        return {of: values for of, values in found.items() if of[1] != "le" and not of[0].endswith("_created")}

    before = labels()
    tell_everything(metrics)
    assert labels() == before
    stages = {"encode", "prefill", "decode"}
    assert before == {
        ("blip2_documents_total", "code"): {"OK", *(code.value for code in ErrorCode)},
        ("blip2_requests_failed_total", "code"): {"INVALID_OPTIONS", "INVALID_DOCUMENT", "INTERNAL"},
        ("blip2_calls_refused_total", "reason"): {reason.value for reason in Refusal},
        ("blip2_pictures_total", "source"): {source.value for source in Source},
        **{(f"blip2_stage_seconds_{part}", "stage"): stages for part in ("bucket", "count", "sum")},
    }


def test_readings_are_read_at_each_scrape(metrics, port):
    documents = iter(range(10, 20))
    metrics.read_at_scrape(replace(READINGS, documents=lambda: next(documents)))
    first, second = Scrape(port), Scrape(port)
    assert [one.value("blip2_documents_in_service") for one in (first, second)] == [10, 11]
    names = {
        "request_bytes_in_service": 2,
        "queue_documents": 3,
        "calls_in_progress": 4,
        "pictures_loading": 5,
        "draining": 1,
        "feature_cache_hits_total": 6,
        "feature_cache_misses_total": 7,
        "device_memory_bytes": 8,
        "device_memory_limit_bytes": 9,
    }
    assert {name: first.value(f"blip2_{name}") for name in names} == names


def fail(*_: object) -> Any:
    raise RuntimeError("the device is lost")


def test_a_reading_that_fails_is_left_out_and_logged_once(metrics, port, caplog):
    metrics.read_at_scrape(replace(READINGS, device_memory=(fail, lambda: 9), cache_hits=fail))
    for scrape in (Scrape(port), Scrape(port)):
        assert not {"blip2_device_memory_bytes", "blip2_feature_cache_hits_total"} & scrape.names()
        assert scrape.value("blip2_feature_cache_misses_total") == 7
    assert len(caplog.records) == 1


def test_a_metric_that_fails_harms_nobody_and_is_logged_once(metrics, monkeypatch, caplog):
    called = []

    def broken(*args: object) -> None:
        called.append(args)
        fail()

    monkeypatch.setattr(prometheus_client.Counter, "inc", broken)
    monkeypatch.setattr(prometheus_client.Histogram, "observe", broken)
    tell_everything(Observers([metrics]))
    assert len(called) > 10
    assert len(caplog.records) == 1


def test_what_serves_is_told(metrics, port):
    describe(metrics)
    scrape = Scrape(port)
    (build,) = [sample.labels for sample in scrape if sample.name == "blip2_build_info"]
    assert build.keys() == {"version", "torch", "transformers", "jina", "device", "dtype", "compile"}
    assert all(build.values())
    assert scrape.value("blip2_model_load_seconds") == 1.5


def test_the_version_is_that_of_the_package():
    assert '\nversion = { attr = "executor.version.__version__" }\n' in (ROOT / "pyproject.toml").read_text()
    assert __version__.split(".")[0].isdecimal()


def test_the_port_and_the_thread_end_with_the_server(metrics):
    threads = threading.active_count()
    port = free_port()
    served = serve(metrics, port)
    assert Scrape(port).names()
    served.close()
    served.close()
    with socket.socket() as probe, pytest.raises(ConnectionRefusedError):
        probe.connect(("127.0.0.1", port))
    assert threading.active_count() <= threads


def test_a_client_that_says_nothing_keeps_no_thread(metrics, monkeypatch, capfd):
    monkeypatch.setattr("executor.server.metrics_port._LONGEST_SILENCE_S", 0.05)
    port = free_port()
    served = serve(metrics, port)
    with socket.create_connection(("127.0.0.1", port), timeout=30) as silent:
        assert silent.recv(1) == b""  # the other side has hung up
    served.close()
    assert "Traceback" not in capfd.readouterr().err


def test_two_services_in_one_process_count_for_themselves(metrics, port):
    other = Metrics()
    other.document_ended(None, 1.0)
    assert Scrape(port).value("blip2_documents_total", code="OK") == 0


def test_whoever_does_not_listen_bears_everything():
    tell_everything(SILENT)


def all_names(metrics: Metrics, port: int) -> set[str]:
    """As Prometheus' queries use them."""
    describe(metrics)
    metrics.read_at_scrape(READINGS)
    return {name for name in Scrape(port).names() if not name.endswith("_created")}


def test_the_page_lists_every_metric_and_names_no_other(metrics, port):
    section = re.search(r"^## Metrics\n(.*?)(?=^## )", PAGE, re.MULTILINE | re.DOTALL)
    assert section is not None
    listed = set(re.findall(r"^\| `(\w+)` \|", section.group(1), re.MULTILINE))
    names = all_names(metrics, port)
    families = {re.sub(r"_(bucket|count|sum)$", "", name) for name in names}
    assert listed == {family for family in families if not family.startswith("process_")}
    assert set(re.findall(r"\b(?:blip2|process)_\w+", PAGE)) <= names | families
