"""What an operator can see of one request: OpenTelemetry spans, from the client's trace to the device, sent by OTLP.

The one file that makes spans; what the parts tell comes by way of `observer`. A batch has no parent, since it has the
documents of many: it links to their spans, and the spans of their wait link to it. Attributes have values of a fixed
set, or are numbers, or the request's id: never a client's text.

How much is recorded, and how it is sent, is also up to OpenTelemetry's own environment variables, which its SDK reads.
"""

import asyncio
import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager

from opentelemetry import context as contexts
from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import OTELResourceDetector, Resource
from opentelemetry.sdk.trace import SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.sampling import ALWAYS_ON, Sampler
from opentelemetry.trace import Link, NonRecordingSpan, Span, SpanContext, SpanKind, StatusCode, Tracer
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from executor.errors import DocumentError, ErrorCode
from executor.telemetry.observer import SILENT, BatchReport, Observer
from executor.version import __version__

_FLUSH_S = 1.0
"""For the last spans, when the service ends: a collector that is down must not hold it up."""
_ABORT_S = 0.5
_SILENCE_S = 60.0
_LONGEST_LINE = 300
"""Characters of the log, of what a collector has answered."""
_OK = "OK"
_CANCELLED = "CANCELLED"
_EXPORTERS = ("opentelemetry.exporter.otlp.proto.grpc.exporter", "opentelemetry.sdk._shared_internal")
_TRACE_PARENT = "traceparent"
_ID = "blip2.request.id"
_CODE = "blip2.code"
_NS = 1_000_000_000
_STATUS_OF: dict[type[BaseException] | None, int] = {None: 0, asyncio.CancelledError: 1}
"""gRPC's, of how a call ends that sets none."""
_INTERNAL = 13
_SERVERS_FAULT = (2, 4, 12, _INTERNAL, 14, 15)
"""OpenTelemetry's semantic conventions of gRPC: UNKNOWN, DEADLINE_EXCEEDED, UNIMPLEMENTED, UNAVAILABLE, DATA_LOSS."""
_Attributes = Mapping[str, str | int]


class Tracing(Observer):
    """Makes spans of what it is told.

    Nothing is recorded within a call whose trace is not: how many are is OTEL_TRACES_SAMPLER's.

    Args:
        processor: takes spans that have ended.
        close: ends it, within a second or two.
    """

    def __init__(self, processor: SpanProcessor, close: Callable[[], None] = lambda: None) -> None:
        self.close = close  # type: ignore[method-assign]
        self._propagator = TraceContextTextMapPropagator()
        self._calls = _tracer(processor, None)
        self._parts = _tracer(processor, ALWAYS_ON)
        """Of recorded calls. A batch begins a trace of its own, about which the environment is not asked again."""

    def call(
        self, method: str, metadata: Sequence[tuple[str, str | bytes]], call_id: str, status: Callable[[], int | None]
    ) -> AbstractContextManager[object]:
        carrier = {key: value for key, value in metadata if key == _TRACE_PARENT and isinstance(value, str)}
        caller = self._propagator.extract(carrier, Context())
        attributes = {"rpc.system": "grpc", _ID: call_id}
        return _around_a_call(
            self._calls.start_span(method.removeprefix("/"), caller, SpanKind.SERVER, attributes), status
        )

    def request(self, request_id: str) -> AbstractContextManager[object]:
        return self._within("request", {_ID: request_id})

    def document(self, number: int, documents: int) -> AbstractContextManager[object]:
        if documents == 1:  # it is its request, or its call
            return SILENT.document(number, documents)
        return self._within("document", {"blip2.document.number": number})

    def current_document(self) -> object:
        context = trace.get_current_span().get_span_context()
        return context if context.trace_flags.sampled else None

    def document_ended(self, code: ErrorCode | None, seconds: float) -> None:
        span = trace.get_current_span()
        span.set_attribute(_CODE, _OK if code is None else code.value)
        if code is not None:
            span.set_status(StatusCode.ERROR)

    def fetching(self) -> AbstractContextManager[object]:
        return self._within("fetch")

    def decoding(self) -> AbstractContextManager[object]:
        return self._within("picture decode")

    def batch(self, documents: Sequence[object], waits_s: Sequence[float]) -> AbstractContextManager[object]:
        recorded = [(it, s) for it, s in zip(documents, waits_s, strict=True) if isinstance(it, SpanContext)]
        if not recorded:
            return SILENT.batch(documents, waits_s)
        now = time.time_ns()
        links = [Link(document) for document, _ in recorded]
        attributes = {"blip2.batch.documents": len(documents)}
        batch = self._parts.start_span("batch", Context(), attributes=attributes, links=links, start_time=now)
        for document, wait_s in recorded:
            self._past("queue", document, now - int(wait_s * _NS), now, links=[Link(batch.get_span_context())])
        return _around(batch)

    def batch_answered(self, report: BatchReport) -> None:
        batch, times = trace.get_current_span().get_span_context(), report.times
        if not batch.trace_flags.sampled:
            return
        end = time.time_ns()  # of the last stage; they follow each other
        for stage, seconds, attributes in (
            ("decode", times.decode_s, {"blip2.steps": times.steps, "blip2.tokens": times.tokens}),
            ("prefill", times.prefill_s, None),
            ("encode", times.encode_s, {"blip2.pictures": report.encoded}),
        ):
            if seconds:
                begun = end - int(seconds * _NS)
                self._past(stage, batch, begun, end, attributes)
                end = begun

    def _within(self, name: str, attributes: _Attributes | None = None) -> AbstractContextManager[object]:
        if not trace.get_current_span().get_span_context().trace_flags.sampled:
            return SILENT.fetching()
        return _around(self._parts.start_span(name, attributes=attributes))

    def _past(
        self,
        name: str,
        parent: SpanContext,
        begun: int,
        end: int,
        attributes: _Attributes | None = None,
        links: Sequence[Link] = (),
    ) -> None:
        within = trace.set_span_in_context(NonRecordingSpan(parent), Context())
        self._parts.start_span(name, within, attributes=attributes, links=links, start_time=begun).end(end)


def _tracer(processor: SpanProcessor, sampler: Sampler | None) -> Tracer:
    """Has the environment's sampler where it is given none."""
    named = Resource({"service.name": "blip2-executor", "service.version": __version__})
    resource = named.merge(OTELResourceDetector().detect())
    provider = TracerProvider(sampler, resource, shutdown_on_exit=False)
    provider.add_span_processor(processor)
    return provider.get_tracer("blip2-executor", __version__)


@contextmanager
def _around(span: Span) -> Iterator[None]:
    """Ends the span, the parent of what is done within."""
    with trace.use_span(span, end_on_exit=True, record_exception=False, set_status_on_exception=False):
        try:
            yield
        except BaseException as error:
            span.set_attribute(_CODE, _code(error))
            span.set_status(StatusCode.ERROR)
            raise


@contextmanager
def _around_a_call(span: Span, status: Callable[[], int | None]) -> Iterator[None]:
    """Ends the span. It stays the current one: a call ends with its task, perhaps in the context of another."""
    contexts.attach(trace.set_span_in_context(span))
    kind: type[BaseException] | None = None
    try:
        yield
    except BaseException as error:
        kind = type(error)
        raise
    finally:
        number = status() or _STATUS_OF.get(kind, _INTERNAL)
        span.set_attribute("rpc.grpc.status_code", number)
        if number in _SERVERS_FAULT:
            span.set_status(StatusCode.ERROR)
        span.end()


def _code(error: BaseException) -> str:
    if isinstance(error, DocumentError):
        return error.code.value
    return _CANCELLED if isinstance(error, asyncio.CancelledError) else ErrorCode.INTERNAL.value


def to_collector(endpoint: str) -> Tracing:
    """Sends spans to a collector, from a thread of its own. A collector that is down costs them and nothing else.

    Args:
        endpoint: `http://host:port`, or `https://`, of OTLP over gRPC.
    """
    for name in _EXPORTERS:
        quieted = logging.getLogger(name)
        quieted.setLevel(logging.WARNING if name.startswith("opentelemetry.sdk") else logging.ERROR)
        quieted.addFilter(_NowAndThen())
    exporter = OTLPSpanExporter(endpoint)
    processor = BatchSpanProcessor(exporter)

    def close() -> None:
        flushing = threading.Thread(target=processor.shutdown, daemon=True)
        flushing.start()
        flushing.join(_FLUSH_S)
        if flushing.is_alive():
            exporter.shutdown()
            flushing.join(_ABORT_S)

    return Tracing(processor, close)


class _NowAndThen(logging.Filter):
    """One line a minute, of a collector that is down, and not all that it may have answered."""

    def __init__(self) -> None:
        super().__init__()
        self._last_s = -_SILENCE_S

    def filter(self, record: logging.LogRecord) -> bool:
        now_s = time.monotonic()
        if now_s - self._last_s < _SILENCE_S:
            return False
        self._last_s = now_s
        # Its traceback is gRPC's, of a channel that was closed at the end while the last spans were on their way.
        cause = f": {record.exc_info[1]}" if record.exc_info else ""
        record.msg, record.args = " ".join((record.getMessage() + cause).split())[:_LONGEST_LINE], ()
        record.exc_info = record.exc_text = None
        return True
