"""What a collector of traces gets from a running service."""

from __future__ import annotations

import re
import socket
import time
from collections.abc import Iterator
from contextlib import closing

import grpc
import pytest
from docarray import DocList
from jina import Client
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from benchmarks.collector import Collector
from demo.service import Service, free_port
from executor import ImagePrompt, Response
from tests.integration.inprocess import TIMEOUT_S, hold_service, numbered
from tests.integration.test_load import answers, call
from tests.support.raw_calls import UNARY, outcome

QUESTION = "how many cats are there?"
TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
TRACEPARENT = ("traceparent", f"00-{TRACE}-{PARENT}-01")


@pytest.fixture(scope="module")
def collector() -> Iterator[Collector]:
    with closing(Collector()) as listening:
        yield listening


@pytest.fixture(scope="module")
def traced(collector, tmp_path_factory) -> Iterator[Service]:
    log = tmp_path_factory.mktemp("traced") / "service.log"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OTEL_BSP_SCHEDULE_DELAY", "50")
        with Service(
            log=log,
            allowed_hosts="127.0.0.1",
            otlp_endpoint=f"http://127.0.0.1:{collector.port}",
            metrics_port=free_port(),
        ) as running:
            yield running


def ask(port: int, *prompts: ImagePrompt, metadata: tuple[tuple[str, str], ...] = (), **options: object):
    return Client(port=port).post(
        "/",
        inputs=DocList[ImagePrompt](prompts),
        return_type=DocList[Response],
        metadata=metadata,
        **options,
    )


def attributes(span: Span) -> dict[str, str | int]:
    return {a.key: a.value.string_value or a.value.int_value for a in span.attributes}


def spans_of(collector: Collector, request_id: str, root: str = "jina.") -> list[Span]:
    """Those of the call with this id, once it and the batches of its documents have ended."""

    def found(spans) -> list[Span]:
        calls = [
            span for span in spans if span.name.startswith(root) and attributes(span)["blip2.request.id"] == request_id
        ]
        inside = {span.span_id for span in calls}
        for span in sorted(spans, key=lambda span: span.start_time_unix_nano):
            if span.parent_span_id in inside:
                inside.add(span.span_id)
        # A batch begins before the waits that end with it are sent, and ends after them.
        batches = {link.span_id for span in spans if span.span_id in inside for link in span.links}
        inside |= batches | {span.span_id for span in spans if span.parent_span_id in batches}
        return [span for span in spans if span.span_id in inside] if batches <= {span.span_id for span in spans} else []

    collector.wait_for(lambda spans: bool(found(spans)))
    return found(collector.wait_for(lambda spans: True))


def test_spans_lead_from_the_clients_trace_to_the_device_and_have_no_text_of_it(traced, collector, pictures_url):
    url = f"{pictures_url}/two-cats.jpg?marked-query"
    prompts = [ImagePrompt(id="marked-id", img=url, prompt=f"marked? {QUESTION}") for _ in range(2)]
    metadata = (TRACEPARENT, ("tracestate", "vendor=marked"), ("x-request-id", "url"))
    assert not any(reply.error for reply in ask(traced.port, *prompts, metadata=metadata))

    spans = spans_of(collector, "url")
    (called,) = [span for span in spans if span.name == "jina.JinaRPC/Call"]
    assert (called.trace_id.hex(), called.parent_span_id.hex()) == (TRACE, PARENT)
    assert called.kind == Span.SPAN_KIND_SERVER
    assert attributes(called) == {"rpc.system": "grpc", "blip2.request.id": "url", "rpc.grpc.status_code": 0}
    names = sorted(span.name for span in spans if span.trace_id.hex() == TRACE and span is not called)
    assert names == ["document", "document", "fetch", "picture decode", "queue", "queue", "request"]
    (request,) = [span for span in spans if span.name == "request"]
    assert request.parent_span_id == called.span_id
    assert attributes(request) == {"blip2.request.id": "url/1"}
    documents = [span for span in spans if span.name == "document"]
    assert {span.parent_span_id for span in documents} == {request.span_id}
    assert sorted(attributes(span)["blip2.document.number"] for span in documents) == [0, 1]
    for name in ("fetch", "picture decode", "queue"):
        assert {span.parent_span_id for span in spans if span.name == name} <= {span.span_id for span in documents}
    linked = {link.span_id for span in spans if span.name == "batch" for link in span.links}
    assert linked == {span.span_id for span in documents}
    assert {"prefill", "decode"} <= {span.name for span in spans}

    for span in spans:
        for text in (b"marked", b"cats", b"127.0.0.1"):
            assert text not in span.SerializeToString()
    assert {resource["service.name"] for resource in collector.resources} == {"blip2-executor"}


def test_a_call_that_is_one_document_is_its_request_and_its_document(traced, collector, two_cats):
    prompt = ImagePrompt(img_bytes=two_cats, prompt=QUESTION)
    (reply,) = ask(traced.port, prompt, metadata=(("x-request-id", "unary"),), stream=False)
    assert reply.answer == "two"
    spans = spans_of(collector, "unary")
    (called,) = [span for span in spans if span.name == "jina.JinaSingleDataRequestRPC/process_single_data"]
    assert called.parent_span_id == b""
    inside = {span.name for span in spans if span.parent_span_id == called.span_id}
    assert inside == {"picture decode", "queue"}
    expected = {"rpc.system": "grpc", "blip2.request.id": "unary", "rpc.grpc.status_code": 0, "blip2.code": "OK"}
    assert attributes(called) == expected


def test_faults_are_seen_by_their_code(traced, collector, pictures_url):
    broken = ImagePrompt(img=f"{pictures_url}/marked.jpg", prompt=QUESTION)
    (reply,) = ask(traced.port, broken, metadata=(("x-request-id", "broken"),))
    assert reply.error.startswith("IMAGE_NOT_FOUND")
    spans = spans_of(collector, "broken")
    failed = {span.name: attributes(span)["blip2.code"] for span in spans if span.status.code == 2}
    assert failed == {"fetch": "IMAGE_NOT_FOUND", "request": "IMAGE_NOT_FOUND"}
    with grpc.insecure_channel(f"127.0.0.1:{traced.port}") as channel:
        status, _ = outcome(channel, UNARY, b"\xff", metadata=(("x-request-id", "garbage"),))
    assert status is grpc.StatusCode.INVALID_ARGUMENT
    (called,) = spans_of(collector, "garbage")
    assert attributes(called)["rpc.grpc.status_code"] == 3


def test_a_batch_links_to_the_requests_that_it_answers(demo_environment, picture, monkeypatch):
    with closing(Collector()) as collector:
        monkeypatch.setenv("BLIP2_OTLP_ENDPOINT", f"http://127.0.0.1:{collector.port}")
        with hold_service("GatedExecutor") as held, grpc.insecure_channel(f"127.0.0.1:{held.port}") as channel:
            calls = [call(channel, "unary", numbered(picture, 0))]
            assert held.engine.entered.acquire(timeout=TIMEOUT_S)
            calls += [call(channel, "unary", numbered(picture, seed)) for seed in (1, 2)]
            held.batcher.wait_for_submitted([0, 1, 2])
            held.engine.let(2)
            assert all(answers(each) for each in calls)
        # What the end of a service has not sent will not come.
        spans = collector.wait_for(lambda spans: True)
    batch, together = [span for span in spans if span.name == "batch"]
    assert (len(batch.links), attributes(together)["blip2.batch.documents"]) == (1, 2)
    called = {span.span_id: span for span in spans if span.kind == Span.SPAN_KIND_SERVER}
    linked = [called[link.span_id] for link in together.links]
    assert len({span.trace_id for span in (*linked, together)}) == 3
    (prefill,) = [span for span in spans if span.name == "prefill" and span.parent_span_id == together.span_id]
    assert prefill.trace_id == together.trace_id
    waits = [span for span in spans if span.name == "queue" and span.links[0].span_id == together.span_id]
    assert {span.parent_span_id for span in waits} == {span.span_id for span in linked}


def test_a_collector_that_is_down_harms_no_request_and_is_mentioned_once(tmp_path, two_cats, monkeypatch):
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "50")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "1")
    log = tmp_path / "service.log"
    prompt = ImagePrompt(img_bytes=two_cats, prompt=QUESTION)
    with Service(log=log, otlp_endpoint=f"http://127.0.0.1:{free_port()}") as service:
        deadline = time.monotonic() + TIMEOUT_S
        while "Failed to export traces" not in log.read_text():
            assert time.monotonic() < deadline
            assert [reply.answer for reply in ask(service.port, prompt)] == ["two"]
        # More than are kept for it.
        assert [reply.answer for reply in ask(service.port, *[prompt] * 1100)] == ["two"] * 1100
        assert service.stop() == 0
    assert log.read_text().count("Failed to export traces") == 1
    assert re.search(
        r"^\d{4}-\d\d-\d\d \S+ ERROR opentelemetry\S+: Failed to export traces", log.read_text(), re.MULTILINE
    )
    assert log.read_text().count("Queue full") <= 1
    assert "Traceback" not in log.read_text()


def test_a_collector_that_hangs_does_not_hold_up_the_end(tmp_path, two_cats):
    with socket.socket() as deaf:
        deaf.bind(("127.0.0.1", 0))
        deaf.listen()
        with Service(
            log=tmp_path / "service.log", otlp_endpoint=f"http://127.0.0.1:{deaf.getsockname()[1]}"
        ) as service:
            # Several sendings, of ten seconds each until they would be given up.
            replies = ask(service.port, *[ImagePrompt(img_bytes=two_cats, prompt=QUESTION)] * 1100)
            assert [reply.answer for reply in replies] == ["two"] * 1100
            assert service.stop() == 0  # and was not killed
