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
from opentelemetry.sdk.trace import SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.sampling import ALWAYS_ON, Sampler
from opentelemetry.trace import Link, Span, SpanKind, Status, StatusCode
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from . import __version__
from .engine import BatchReport
from .errors import ErrorCode, RequestError
from .observer import SILENT, Observer

_FLUSH_S = 1.0
"""For the last spans, when the service ends: a collector that is down must not hold it up."""
_ABORT_S = 0.5
_SILENCE_S = 60.0
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
        named = Resource({"service.name": "blip2-executor", "service.version": __version__})
        self._resource = named.merge(OTELResourceDetector().detect())
        self._tracer = self._new_tracer(processor, None)
        # Whether a batch is recorded is decided by the documents that it links to, once.
        self._batch_tracer = self._new_tracer(processor, ALWAYS_ON)

    def _new_tracer(self, processor: SpanProcessor, sampler: Sampler | None) -> trace.Tracer:
        provider = TracerProvider(sampler, self._resource, shutdown_on_exit=False)
        provider.add_span_processor(processor)
        return provider.get_tracer("blip2-executor", __version__)

    def call(
        self, method: str, metadata: Sequence[tuple[str, str | bytes]], call_id: str, status: Callable[[], int | None]
    ) -> AbstractContextManager[object]:
        carrier = {key: value for key, value in metadata if key == _TRACE_PARENT and isinstance(value, str)}
        span = self._tracer.start_span(
            method.removeprefix("/"),
            self._propagator.extract(carrier, Context()),
            SpanKind.SERVER,
            {"rpc.system": "grpc", _ID: call_id},
        )
        return _Call(span, status)

    def request(self, request_id: str) -> AbstractContextManager[object]:
        return self._current("request", {_ID: request_id})

    def document(self, number: int) -> AbstractContextManager[object]:
        return self._current("document", {"blip2.document.number": number})

    def current_document(self) -> object:
        span = trace.get_current_span()
        return span if span.is_recording() else None

    def document_ended(self, code: ErrorCode | None, seconds: float) -> None:
        span = trace.get_current_span()
        span.set_attribute(_CODE, _OK if code is None else code.value)
        if code is not None:
            span.set_status(_FAILED)

    def fetching(self) -> AbstractContextManager[object]:
        return self._leaf("fetch")

    def decoding(self) -> AbstractContextManager[object]:
        return self._leaf("picture decode")

    def batch(self, documents: Sequence[object], waits_s: Sequence[float]) -> AbstractContextManager[object]:
        recorded = [(span, s) for span, s in zip(documents, waits_s, strict=True) if isinstance(span, Span)]
        if not recorded:
            return SILENT.batch(documents, waits_s)
        now = time.time_ns()
        batch = self._batch_tracer.start_span(
            "batch",
            Context(),
            SpanKind.INTERNAL,
            {"blip2.batch.documents": len(documents)},
            [Link(span.get_span_context()) for span, _ in recorded],
            now,
        )
        links = [Link(batch.get_span_context())]
        for span, wait_s in recorded:
            begun = now - int(wait_s * _NS)
            self._tracer.start_span("queue", _in(span), links=links, start_time=begun).end(now)
        return _Current(batch)

    def batch_answered(self, report: BatchReport) -> None:
        batch = trace.get_current_span()
        if not batch.is_recording():
            return
        # Told at the end of the last of these, which follow each other.
        end = time.time_ns()
        times = report.times
        for stage, seconds in (("decode", times.decode_s), ("prefill", times.prefill_s), ("encode", times.encode_s)):
            if seconds:
                begun = end - int(seconds * _NS)
                span = self._batch_tracer.start_span(stage, _in(batch), start_time=begun)
                if stage == "decode":
                    span.set_attributes({"blip2.steps": times.steps, "blip2.tokens": times.tokens})
                elif stage == "encode":
                    span.set_attribute("blip2.pictures", report.encoded)
                span.end(end)
                end = begun

    def _current(self, name: str, attributes: Mapping[str, str | int]) -> AbstractContextManager[object]:
        if not trace.get_current_span().is_recording():
            return SILENT.document(0)
        return _Current(self._tracer.start_span(name, attributes=attributes))

    def _leaf(self, name: str) -> AbstractContextManager[object]:
        if not trace.get_current_span().is_recording():
            return SILENT.fetching()
        return _Leaf(self._tracer.start_span(name))


_FAILED = Status(StatusCode.ERROR)


def _in(span: Span) -> Context:
    return trace.set_span_in_context(span, Context())


class _Leaf:
    """A span around a piece of work, which is nobody's parent."""

    __slots__ = ("_span",)

    def __init__(self, span: Span) -> None:
        self._span = span

    def __enter__(self) -> None:
        pass

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if error is not None:
            self._span.set_attribute(_CODE, _code(error))
            self._span.set_status(_FAILED)
        self._span.end()


class _Current(_Leaf):
    """The parent of what is done within."""

    __slots__ = ("_token",)

    def __enter__(self) -> None:
        self._token = contexts.attach(trace.set_span_in_context(self._span))

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        contexts.detach(self._token)
        super().__exit__(kind, error, traceback)


class _Call(_Leaf):
    """The parent of what is done in the task of a call, which ends with it: there is nothing to set back."""

    __slots__ = ("_status",)

    def __init__(self, span: Span, status: Callable[[], int | None]) -> None:
        super().__init__(span)
        self._status = status

    def __enter__(self) -> None:
        contexts.attach(trace.set_span_in_context(self._span))

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        status = self._status() or _STATUS_OF.get(kind, _INTERNAL)
        self._span.set_attribute("rpc.grpc.status_code", status)
        if status in _SERVERS_FAULT:
            self._span.set_status(_FAILED)
        self._span.end()


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
    """One line a minute, of a collector that is down."""

    def __init__(self) -> None:
        super().__init__()
        self._last_s = -_SILENCE_S

    def filter(self, record: logging.LogRecord) -> bool:
        now_s = time.monotonic()
        if now_s - self._last_s < _SILENCE_S:
            return False
        self._last_s = now_s
        return True
