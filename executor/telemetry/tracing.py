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
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from types import TracebackType

from opentelemetry import context as contexts
from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import OTELResourceDetector, Resource
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.id_generator import RandomIdGenerator
from opentelemetry.sdk.trace.sampling import Decision
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import Link, SpanContext, SpanKind, Status, StatusCode, TraceFlags
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from executor.errors import ErrorCode, RequestError
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
_NONE: Mapping[str, str | int] = {}
_IDS = RandomIdGenerator()
_SAMPLED, _NOT_SAMPLED = TraceFlags(TraceFlags.SAMPLED), TraceFlags(TraceFlags.DEFAULT)
_UNSET, _FAILED = Status(StatusCode.UNSET), Status(StatusCode.ERROR)
_STATUS_OF: dict[type[BaseException] | None, int] = {None: 0, asyncio.CancelledError: 1}
"""gRPC's, of how a call ends that sets none."""
_INTERNAL = 13
_SERVERS_FAULT = (2, 4, 12, _INTERNAL, 14, 15)
"""OpenTelemetry's semantic conventions of gRPC: UNKNOWN, DEADLINE_EXCEEDED, UNIMPLEMENTED, UNAVAILABLE, DATA_LOSS."""


class Tracing(Observer):
    """Makes spans of what it is told.

    Nothing is recorded within a call whose trace is not: how many are is OTEL_TRACES_SAMPLER's. Spans are put together
    here when they end, and not by the SDK's tracer, which takes several times as long.

    Args:
        processor: takes spans that have ended.
        close: ends it, within a second or two.
    """

    def __init__(self, processor: SpanProcessor, close: Callable[[], None] = lambda: None) -> None:
        self.close = close  # type: ignore[method-assign]
        self._processor = processor
        self._propagator = TraceContextTextMapPropagator()
        named = Resource({"service.name": "blip2-executor", "service.version": __version__})
        self._resource = _HashedOnce(named.merge(OTELResourceDetector().detect()))
        self._scope = InstrumentationScope("blip2-executor", __version__)
        self._sampler = TracerProvider(shutdown_on_exit=False).sampler

    def call(
        self, method: str, metadata: Sequence[tuple[str, str | bytes]], call_id: str, status: Callable[[], int | None]
    ) -> AbstractContextManager[object]:
        carrier = {key: value for key, value in metadata if key == _TRACE_PARENT and isinstance(value, str)}
        caller = self._propagator.extract(carrier, Context())
        context = trace.get_current_span(caller).get_span_context()
        parent = context if context.is_valid else None
        trace_id = _IDS.generate_trace_id() if parent is None else parent.trace_id
        name = method.removeprefix("/")
        attributes: dict[str, str | int] = {"rpc.system": "grpc", _ID: call_id}
        chosen = self._sampler.should_sample(caller, trace_id, name, SpanKind.SERVER, attributes)
        flags = _SAMPLED if chosen.decision is Decision.RECORD_AND_SAMPLE else _NOT_SAMPLED
        own = SpanContext(trace_id, _IDS.generate_span_id(), False, flags)
        return _Call(_Open(own, name, parent, attributes, kind=SpanKind.SERVER), self._send, status)

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
        if isinstance(span, _Open):
            span.attributes[_CODE] = _OK if code is None else code.value
            span.has_failed = code is not None

    def fetching(self) -> AbstractContextManager[object]:
        return self._within("fetch")

    def decoding(self) -> AbstractContextManager[object]:
        return self._within("picture decode")

    def batch(self, documents: Sequence[object], waits_s: Sequence[float]) -> AbstractContextManager[object]:
        recorded = [(it, s) for it, s in zip(documents, waits_s, strict=True) if isinstance(it, SpanContext)]
        if not recorded:
            return SILENT.batch(documents, waits_s)
        batch = _Open(
            _new_context(None),
            "batch",
            None,
            {"blip2.batch.documents": len(documents)},
            [Link(document) for document, _ in recorded],
        )
        links = [Link(batch.get_span_context())]
        for document, wait_s in recorded:
            begun = batch.begun - int(wait_s * _NS)
            self._send(_Open(_new_context(document), "queue", document, {}, links, begun), batch.begun)
        return _Current(batch, self._send)

    def batch_answered(self, report: BatchReport) -> None:
        batch = trace.get_current_span()
        parent, times = batch.get_span_context(), report.times
        if not parent.trace_flags.sampled:
            return
        end = time.time_ns()  # of the last stage; they follow each other
        for stage, seconds, attributes in (
            ("decode", times.decode_s, {"blip2.steps": times.steps, "blip2.tokens": times.tokens}),
            ("prefill", times.prefill_s, {}),
            ("encode", times.encode_s, {"blip2.pictures": report.encoded}),
        ):
            if seconds:
                begun = end - int(seconds * _NS)
                self._send(_Open(_new_context(parent), stage, parent, attributes, (), begun), end)
                end = begun

    def _within(self, name: str, attributes: Mapping[str, str | int] = _NONE) -> AbstractContextManager[object]:
        parent = trace.get_current_span().get_span_context()
        if not parent.trace_flags.sampled:
            return SILENT.fetching()
        return _Current(_Open(_new_context(parent), name, parent, attributes), self._send)

    def _send(self, span: "_Open", end: int) -> None:
        context = span.get_span_context()
        if not context.trace_flags.sampled:
            return
        self._processor.on_end(
            ReadableSpan(
                span.name,
                context,
                span.parent,
                self._resource,
                span.attributes,
                links=span.links,
                kind=span.kind,
                status=_FAILED if span.has_failed else _UNSET,
                start_time=span.begun,
                end_time=end,
                instrumentation_scope=self._scope,
            )
        )


class _HashedOnce(Resource):
    """The exporter asks for the hash with each span, and the SDK makes JSON of all attributes for it."""

    def __init__(self, resource: Resource) -> None:
        super().__init__(resource.attributes, resource.schema_url)
        self._hash = super().__hash__()

    def __hash__(self) -> int:
        return self._hash


class _Open(trace.NonRecordingSpan):
    """A span that has not ended."""

    def __init__(
        self,
        context: SpanContext,
        name: str,
        parent: SpanContext | None,
        attributes: Mapping[str, str | int],
        links: Sequence[Link] = (),
        begun: int | None = None,
        kind: SpanKind = SpanKind.INTERNAL,
    ) -> None:
        super().__init__(context)
        self.kind = kind
        self.name = name
        self.parent = parent
        self.attributes = dict(attributes)
        self.links = links
        self.begun = time.time_ns() if begun is None else begun
        self.has_failed = False


def _new_context(parent: SpanContext | None) -> SpanContext:
    """Of a recorded span."""
    trace_id = _IDS.generate_trace_id() if parent is None else parent.trace_id
    return SpanContext(trace_id, _IDS.generate_span_id(), False, _SAMPLED)


class _Current:
    """Around the work of a span, the parent of what is done within."""

    __slots__ = ("_send", "_span", "_token")

    def __init__(self, span: _Open, send: Callable[[_Open, int], None]) -> None:
        self._span = span
        self._send = send

    def __enter__(self) -> None:
        self._token = contexts.attach(trace.set_span_in_context(self._span))

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        contexts.detach(self._token)
        if error is not None:
            self._span.attributes[_CODE] = _code(error)
            self._span.has_failed = True
        self._send(self._span, time.time_ns())


class _Call(_Current):
    """In the task of a call, which ends with it: there is nothing to set back."""

    __slots__ = ("_status",)

    def __init__(self, span: _Open, send: Callable[[_Open, int], None], status: Callable[[], int | None]) -> None:
        super().__init__(span, send)
        self._status = status

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        status = self._status() or _STATUS_OF.get(kind, _INTERNAL)
        self._span.attributes["rpc.grpc.status_code"] = status
        self._span.has_failed |= status in _SERVERS_FAULT
        self._send(self._span, time.time_ns())


def _code(error: BaseException) -> str:
    if isinstance(error, RequestError):
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
        record.msg, record.args = " ".join(record.getMessage().split())[:_LONGEST_LINE], ()
        return True
