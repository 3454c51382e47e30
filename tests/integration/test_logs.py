"""The log of a running service, and the id that it shares with spans and replies."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import closing
from datetime import datetime, timedelta
from pathlib import Path

import grpc
import pytest

from benchmarks import wire
from benchmarks.collector import Collector
from demo.service import ROOT, Service
from tests.integration.test_tracing import TRACE, TRACEPARENT, attributes
from tests.support.raw_calls import STREAM, TIMEOUT_S, UNARY
from tests.support.starting import start_and_fail

# As Jina loads the project's own config.yml: the package by its path, which Jina calls user_module.
BROKEN = """
from user_module import Blip2Executor

class BrokenEngine:
    def __init__(self, engine):
        self._engine = engine

    def __getattr__(self, name):
        return getattr(self._engine, name)

    def tokenize(self, prompt):
        if prompt == "fail":
            raise RuntimeError("line one\\nline two")
        return self._engine.tokenize(prompt)

class BrokenExecutor(Blip2Executor):
    def new_engine(self, *parts):
        return BrokenEngine(super().new_engine(*parts))
"""


@pytest.fixture(scope="module")
def config(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("broken")
    (folder / "broken.py").write_text(BROKEN)
    modules = [str(ROOT / "executor" / "__init__.py"), str(folder / "broken.py")]
    (folder / "config.yml").write_text(json.dumps({"jtype": "BrokenExecutor", "py_modules": modules}))
    return folder / "config.yml"


@pytest.fixture(scope="module")
def collector() -> Iterator[Collector]:
    with closing(Collector()) as listening:
        yield listening


def post(service: Service, method: str, *prompts: str, request_id: str | None = None, picture: bytes = b"x"):
    """The replies, and the id that they come with."""
    metadata = (TRACEPARENT, *((("x-request-id", request_id),) if request_id is not None else ()))
    with grpc.insecure_channel(f"127.0.0.1:{service.port}") as channel:
        requests = iter([wire.encode("jina", picture, prompt) for prompt in prompts])
        call = channel.stream_stream(method)(requests, timeout=TIMEOUT_S, metadata=metadata)
        replies = [str(reply) for reply in call]
        return replies, dict(call.trailing_metadata())["x-request-id"]


def parsed(log: str) -> list[dict[str, str]]:
    lines = [json.loads(line) for line in log.splitlines()]
    for line in lines:
        assert {"time", "level", "message", "logger"} <= line.keys()
        assert line["time"].endswith("Z")
        assert datetime.fromisoformat(line["time"]).utcoffset() == timedelta(0)
    return lines


def test_every_line_is_json_and_one_id_is_in_the_log_the_span_and_the_reply(config, collector, tmp_path):
    endpoint = f"http://127.0.0.1:{collector.port}"
    log = tmp_path / "service.log"
    with Service(log=log, config=config, log_format="json", otlp_endpoint=endpoint) as service:
        (reply,), returned = post(service, UNARY, "fail", request_id="my-id")
        assert returned == "my-id"
        assert post(service, STREAM, "ok", "fail", request_id="stream")[1] == "stream"
        hostile = post(service, UNARY, "fail", request_id='marked" }')[1]
        assert re.fullmatch("[0-9a-f]{16}", hostile)
        assert re.fullmatch("[0-9a-f]{16}", post(service, UNARY, "fail")[1])
        assert service.stop() == 0

    lines = parsed(log.read_text())
    assert any(line["message"].startswith("loading ") for line in lines)
    assert any(line["message"].startswith("serving on ") for line in lines)
    errors = [line for line in lines if line["level"] == "ERROR"]
    assert [line["request_id"] for line in errors][:3] == ["my-id", "stream/2", hostile]
    reference = re.search("reference ([0-9a-f]{12})", reply)
    assert reference
    assert reference[1] in errors[0]["message"]
    for line in errors:
        assert line["trace_id"] == TRACE
        assert line["exception"].endswith("RuntimeError: line one\nline two")
    assert not any("request_id" in line or "trace_id" in line for line in lines if line not in errors)
    assert "marked" not in log.read_text()
    spans = collector.wait_for(lambda spans: True)  # an end sends them all
    ids = {attributes(span)["blip2.request.id"] for span in spans if span.kind == span.SPAN_KIND_SERVER}
    assert {"my-id", "stream", hostile} < ids
    assert {attributes(span)["blip2.request.id"] for span in spans if span.name == "request"} == {
        "stream/1",
        "stream/2",
    }


def test_in_a_log_of_text_the_id_is_at_the_end_of_what_is_said(config, tmp_path, monkeypatch):
    monkeypatch.setenv("COLUMNS", "500")  # which it would break lines at
    log = tmp_path / "service.log"
    with Service(log=log, config=config) as service:
        assert post(service, UNARY, "fail", request_id="my-id")[1] == "my-id"
    text = " ".join(log.read_text().split())
    assert re.search(r"unexpected error, reference [0-9a-f]{12} \[request my-id\]", text)


@pytest.mark.parametrize("source", ["environment", "config"])
def test_a_start_that_fails_says_so_in_json(tmp_path, source):
    config = tmp_path / "config.yml"
    in_json = {"log_format": "json"}
    settings = in_json if source == "config" else {}
    text = {"jtype": "Blip2Executor", "py_modules": [str(ROOT / "executor" / "__init__.py")], "with": settings}
    config.write_text(json.dumps(text))
    finished = start_and_fail("--config", str(config), model=tmp_path / "nothing", **({} if settings else in_json))
    assert parsed(finished.stdout + finished.stderr)[-1]["message"].startswith("cannot start: ")
