"""Spans by themselves: what becomes of what is told, and what it costs where nothing is recorded."""

import asyncio
import logging
import sys
from collections.abc import Iterator

import pytest
from opentelemetry import context as contexts
from opentelemetry.context import Context
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import StatusCode, format_span_id, format_trace_id

from executor import ErrorCode
from executor.errors import DocumentError
from executor.telemetry import tracing
from executor.telemetry.observer import SILENT, BatchReport, Observer, Observers, StageTimes
from executor.telemetry.tracing import Tracing
from tests.telemetry.test_metrics import tell_everything

TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
METHOD = "/jina.JinaRPC/Call"
REPORT = BatchReport(documents=2, encoded=1, times=StageTimes(0.4, 0.02, 0.5, 10, 25))


def traceparent(sampled: bool = True) -> tuple[tuple[str, str], ...]:
    return (("user-agent", "somebody"), ("traceparent", f"00-{TRACE}-{PARENT}-{'01' if sampled else '00'}"))


@pytest.fixture
def exporter() -> InMemorySpanExporter:
    return InMemorySpanExporter()


@pytest.fixture
def observer(exporter) -> Tracing:
    return Tracing(SimpleSpanProcessor(exporter))


@pytest.fixture(autouse=True)
def in_no_span() -> Iterator[None]:
    """A call ends with its task, and does not set back what is current."""
    token = contexts.attach(Context())
    yield
    contexts.detach(token)


def named(exporter: InMemorySpanExporter, name: str) -> ReadableSpan:
    (span,) = [span for span in exporter.get_finished_spans() if span.name == name]
    return span


def times(span: ReadableSpan) -> tuple[int, int]:
    assert span.start_time is not None
    assert span.end_time is not None
    return span.start_time, span.end_time


def parent_of(span: ReadableSpan) -> str:
    assert span.parent is not None
    return format_span_id(span.parent.span_id)


def id_of(span: ReadableSpan) -> str:
    context = span.get_span_context()
    assert context is not None
    return format_span_id(context.span_id)


def test_spans_hang_on_to_the_clients_from_the_call_to_the_picture(observer, exporter):
    call = observer.call(METHOD, traceparent(), "an-id", lambda: 0)
    with call, observer.request("an-id/1"), observer.document(0, 2), observer.decoding():
        pass
    called, request, document, decode = (
        named(exporter, name) for name in ("jina.JinaRPC/Call", "request", "document", "picture decode")
    )
    assert parent_of(called) == PARENT
    assert [parent_of(span) for span in (request, document, decode)] == [id_of(s) for s in (called, request, document)]
    assert {format_trace_id(span.context.trace_id) for span in exporter.get_finished_spans()} == {TRACE}
    assert called.attributes == {"rpc.system": "grpc", "blip2.request.id": "an-id", "rpc.grpc.status_code": 0}
    assert request.attributes == {"blip2.request.id": "an-id/1"}
    begins, ends = zip(*(times(span) for span in (called, request, document, decode)), strict=True)
    assert list(begins) == sorted(begins)
    assert list(ends) == sorted(ends, reverse=True)


def test_a_document_alone_is_its_call(observer, exporter):
    with observer.call(METHOD, traceparent(), "an-id", lambda: 0), observer.document(0, 1):
        with observer.decoding():
            pass
        observer.document_ended(ErrorCode.CORRUPT_IMAGE, 0.1)
    called, decode = named(exporter, "jina.JinaRPC/Call"), named(exporter, "picture decode")
    assert len(exporter.get_finished_spans()) == 2
    assert parent_of(decode) == id_of(called)
    assert called.attributes is not None
    assert called.attributes["blip2.code"] == "CORRUPT_IMAGE"
    assert called.status.status_code is StatusCode.ERROR


@pytest.mark.parametrize("parent", ["", "00-0-0-01", "marked", f"00-{TRACE}-{PARENT}"])
def test_a_malformed_traceparent_begins_a_new_trace(observer, exporter, parent):
    with observer.call(METHOD, (("traceparent", parent),), "an-id", lambda: 0):
        pass
    call = named(exporter, "jina.JinaRPC/Call")
    assert call.parent is None
    assert "marked" not in call.to_json()


def test_a_batch_links_to_its_documents_and_their_waits_link_to_it(observer, exporter):
    documents = []
    for number in range(2):
        with observer.call(METHOD, traceparent(), str(number), lambda: 0), observer.document(number, 2):
            documents.append(observer.current_document())
    with observer.batch([documents[0], None, documents[1]], [0.5, 0.25, 0.125]):
        observer.batch_answered(REPORT)
    spans = {span.name: span for span in exporter.get_finished_spans()}
    batch = spans["batch"]
    assert batch.parent is None
    assert [link.context for link in batch.links] == documents
    assert batch.attributes == {"blip2.batch.documents": 3}
    waits = [span for span in exporter.get_finished_spans() if span.name == "queue"]
    assert [span.parent for span in waits] == documents
    assert [span.links[0].context for span in waits] == [batch.context] * 2
    assert [span.end_time - span.start_time for span in waits] == [500_000_000, 125_000_000]
    stages = [spans[name] for name in ("encode", "prefill", "decode")]
    assert [span.end_time - span.start_time for span in stages] == [400_000_000, 20_000_000, 500_000_000]
    assert [span.parent for span in stages] == [batch.context] * 3
    assert stages[0].end_time == stages[1].start_time
    assert stages[1].end_time == stages[2].start_time <= stages[2].end_time <= batch.end_time
    assert stages[2].attributes == {"blip2.steps": 10, "blip2.tokens": 25}


def test_where_the_trace_is_not_recorded_nothing_is(observer, exporter):
    with observer.call(METHOD, traceparent(sampled=False), "an-id", lambda: 0), observer.document(0, 2):
        assert observer.current_document() is None
        assert observer.decoding() is SILENT.decoding()
        with observer.batch([observer.current_document()], [0.1]):
            observer.batch_answered(REPORT)
    assert exporter.get_finished_spans() == ()


def test_the_sampler_is_that_of_the_environment(exporter, monkeypatch):
    monkeypatch.setenv("OTEL_TRACES_SAMPLER", "always_off")
    with Tracing(SimpleSpanProcessor(exporter)).call(METHOD, (), "an-id", lambda: 0):
        pass
    assert exporter.get_finished_spans() == ()


def test_a_batch_of_recorded_documents_is_recorded_whatever_the_sampler_says_of_new_traces(exporter, monkeypatch):
    monkeypatch.setenv("OTEL_TRACES_SAMPLER", "parentbased_always_off")
    observer = Tracing(SimpleSpanProcessor(exporter))
    call, document = observer.call(METHOD, traceparent(), "an-id", lambda: 0), observer.document(0, 1)
    with call, document, observer.batch([observer.current_document()], [0.1]):
        observer.batch_answered(REPORT)
    names = [span.name for span in exporter.get_finished_spans()]
    assert names == ["queue", "decode", "prefill", "encode", "batch", "jina.JinaRPC/Call"]


def test_the_environment_can_switch_the_sdk_off(exporter, monkeypatch):
    monkeypatch.setenv("OTEL_SDK_DISABLED", "true")
    observer = Tracing(SimpleSpanProcessor(exporter))
    call, document = observer.call(METHOD, traceparent(), "an-id", lambda: 0), observer.document(0, 1)
    with call, document, observer.batch([observer.current_document()], [0.1]):
        observer.batch_answered(REPORT)
    assert exporter.get_finished_spans() == ()


def test_service_name_and_resource_are_those_of_the_environment_where_it_has_any(exporter, monkeypatch):
    monkeypatch.setenv("OTEL_SERVICE_NAME", "other")
    monkeypatch.setenv("OTEL_RESOURCE_ATTRIBUTES", "deployment.environment.name=here")
    observer = Tracing(SimpleSpanProcessor(exporter))
    with observer.call(METHOD, (), "an-id", lambda: 0), observer.document(0, 2):
        pass
    for span in exporter.get_finished_spans():
        assert span.resource.attributes["service.name"] == "other"
        assert span.resource.attributes["deployment.environment.name"] == "here"


def test_errors_are_codes_and_never_a_text(observer, exporter):
    def fail(within, error):
        with pytest.raises(type(error)), within:
            raise error

    with observer.call(METHOD, traceparent(), "an-id", lambda: 0):
        with observer.document(0, 2):
            observer.document_ended(ErrorCode.NOT_AN_IMAGE, 0.1)
        fail(observer.fetching(), DocumentError(ErrorCode.FETCH_FAILED, "marked"))
        fail(observer.decoding(), ValueError("marked"))
        fail(observer.request("an-id/1"), asyncio.CancelledError("marked"))
    codes = {span.name: span.attributes.get("blip2.code") for span in exporter.get_finished_spans()}
    assert codes == {
        "document": "NOT_AN_IMAGE",
        "fetch": "FETCH_FAILED",
        "picture decode": "INTERNAL",
        "request": "CANCELLED",
        "jina.JinaRPC/Call": None,
    }
    for span in exporter.get_finished_spans():
        assert span.status.status_code is (StatusCode.UNSET if span.kind.name == "SERVER" else StatusCode.ERROR)
        assert "marked" not in span.to_json()


@pytest.mark.parametrize(
    ("status", "raised", "told", "failed"),
    [
        (None, None, 0, False),
        (8, RuntimeError, 8, False),
        (14, RuntimeError, 14, True),
        (None, asyncio.CancelledError, 1, False),
        (None, RuntimeError, 13, True),
    ],
)
def test_a_calls_status_is_grpcs(observer, exporter, status, raised, told, failed):
    try:
        with observer.call(METHOD, (), "an-id", lambda: status):
            if raised:
                raise raised
    except (RuntimeError, asyncio.CancelledError):
        pass
    call = named(exporter, "jina.JinaRPC/Call")
    assert call.attributes is not None
    assert call.attributes["rpc.grpc.status_code"] == told
    assert call.status.is_ok is not failed


def test_several_listeners_are_all_told_of_everything():
    class Noting(Observer):
        def __init__(self) -> None:
            self.told: list[str] = []

        def __getattribute__(self, name: str) -> object:
            if name in vars(Observer):
                self.told.append(name)
            return super().__getattribute__(name)

    listeners = Noting(), Noting()
    tell_everything(Observers(listeners))
    several = Observers(listeners)
    with several.call(METHOD, (), "an-id", lambda: 0), several.request("an-id/1"), several.document(0, 2):
        several.current_document()
    several.close()
    everything = {name for name in vars(Observer) if not name.startswith("_")}
    assert [set(listener.told) & everything for listener in listeners] == [everything, everything]


def test_of_a_collector_that_is_down_the_log_speaks_now_and_then(monkeypatch):
    now = [1000.0]
    monkeypatch.setattr("executor.telemetry.tracing.time.monotonic", lambda: now[0])
    speaks = tracing._NowAndThen().filter
    record = logging.makeLogRecord({})
    assert [speaks(record) for _ in range(3)] == [True, False, False]
    now[0] += 61
    assert [speaks(record) for _ in range(2)] == [True, False]


def test_a_failure_to_send_is_one_line_without_a_traceback():
    try:
        raise ValueError("Cannot invoke RPC on closed channel!")
    except ValueError:
        said = logging.LogRecord(
            "sdk", logging.ERROR, __file__, 1, "Exception while exporting Span.", (), sys.exc_info()
        )
    assert tracing._NowAndThen().filter(said)
    formatted = logging.Formatter().format(said)
    assert formatted == "Exception while exporting Span.: Cannot invoke RPC on closed channel!"


def test_of_what_a_collector_answers_the_log_gets_a_short_line():
    said = logging.LogRecord("exporter", logging.ERROR, __file__, 1, "failed: %s", ("secret\n" * 1000,), None)
    assert tracing._NowAndThen().filter(said)
    assert said.getMessage().startswith("failed: secret secret ")
    assert len(said.getMessage()) == 300
