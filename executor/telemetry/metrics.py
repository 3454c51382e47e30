"""What an operator can see of the service, as Prometheus reads it.

The one file that knows prometheus_client; what the parts tell comes by way of `observer`. Names end with their unit,
labels have values of a fixed set, each there from the start at 0. A failure here is logged, once, and costs no request.
"""

import logging
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any, Concatenate, ParamSpec
from wsgiref.simple_server import WSGIServer

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Info, ProcessCollector, start_http_server
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from executor import __version__
from executor.errors import ErrorCode
from executor.model.engine import BatchReport
from executor.telemetry.observer import Observer, Refusal, Source

_log = logging.getLogger(__name__)
_Parameters = ParamSpec("_Parameters")

_SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
"""From a stage of the demo checkpoint on a CPU to the last of a thousand documents that wait."""
_STEP_SECONDS = (0.00025, 0.0005, 0.001, 0.0015, 0.002, 0.003, 0.004, 0.006, 0.008, 0.012, 0.02, 0.05, 0.1, 0.25, 1.0)
"""One token: milliseconds on a GPU, a tenth of a second and more for a large checkpoint on a CPU."""
_DOCUMENTS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)
_OK = "OK"
_LONGEST_SILENCE_S = 10.0
"""Of a client of the metrics' port. Each has a thread, and one that is gone without a word would keep it for ever."""


@dataclass(frozen=True)
class Readings:
    """What is not counted here but asked for with each scrape, on a thread of its own.

    Attributes:
        documents: in the service.
        request_bytes: of requests in the service.
        waiting: documents in the queue.
        calls: in progress.
        pictures: being loaded.
        draining: whether the service ends.
        cache_hits: questions whose picture had not to be encoded, so far.
        cache_misses: pictures encoded so far.
        device_memory: bytes that PyTorch holds on the device, and all that there are; None where that is not known.
    """

    documents: Callable[[], int]
    request_bytes: Callable[[], int]
    waiting: Callable[[], int]
    calls: Callable[[], int]
    pictures: Callable[[], int]
    draining: Callable[[], bool]
    cache_hits: Callable[[], int]
    cache_misses: Callable[[], int]
    device_memory: tuple[Callable[[], int], Callable[[], int]] | None


def _harmless(
    tell: "Callable[Concatenate[Metrics, _Parameters], None]",
) -> "Callable[Concatenate[Metrics, _Parameters], None]":
    """Whoever tells of its work goes on with it, come what may."""

    def guarded(self: "Metrics", /, *args: _Parameters.args, **kwargs: _Parameters.kwargs) -> None:
        try:
            tell(self, *args, **kwargs)
        except Exception:  # noqa: BLE001 - a document is worth more than its being counted
            self._log_failure()

    return guarded


class Metrics(Observer):
    """All metrics, in a registry of their own."""

    def __init__(self) -> None:
        self._has_failed = False
        self._server: tuple[WSGIServer, threading.Thread] | None = None
        self._registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)

        documents = Counter(
            "blip2_documents", "Documents by their error code, or OK; without those whose client left.", ["code"],
            registry=registry,
        )  # fmt: skip
        self._documents = {code: documents.labels(code.value) for code in ErrorCode}
        self._answered = documents.labels(_OK)
        failed = Counter(
            "blip2_requests_failed", "Requests that failed as a whole, by error code.", ["code"], registry=registry
        )
        codes = (ErrorCode.INVALID_OPTIONS, ErrorCode.INVALID_DOCUMENT, ErrorCode.INTERNAL)
        self._failed = {code: failed.labels(code.value) for code in codes}
        refused = Counter(
            "blip2_calls_refused", "Calls refused before their documents were read.", ["reason"], registry=registry
        )
        self._refused = {reason: refused.labels(reason.value) for reason in Refusal}
        pictures = Counter("blip2_pictures", "Pictures to be loaded, by where from.", ["source"], registry=registry)
        self._pictures = {source: pictures.labels(source.value) for source in Source}
        self._tokens = Counter("blip2_tokens", "Tokens of answers, without padding.", registry=registry)

        def seconds(name: str, of: str, labels: Sequence[str] = (), buckets: Sequence[float] = _SECONDS) -> Histogram:
            return Histogram(f"blip2_{name}_seconds", f"Seconds {of}.", labels, buckets=buckets, registry=registry)

        self._document_s = seconds("document", "from the arrival of a document's request to its answer")
        self._wait_s = seconds("queue_wait", "that a document waits in the queue of the device")
        self._fetch_s = seconds("fetch", "of fetching a picture by its URL, in vain or not")
        self._decode_s = seconds("picture_decode", "of decoding and resizing a picture, in vain or not")
        stage_s = seconds("stage", "of a stage of a batch on the device", ["stage"])
        self._encode_s, self._prefill_s, self._generate_s = (stage_s.labels(s) for s in ("encode", "prefill", "decode"))
        self._step_s = seconds("token", "of one step of a batch's answers, a token of each", buckets=_STEP_SECONDS)
        self._batch = Histogram(
            "blip2_batch_documents", "Documents of a batch that was answered.", buckets=_DOCUMENTS, registry=registry
        )

    def describe(self, load_s: float, build: Mapping[str, str]) -> None:
        """What is known once the model is there.

        Args:
            load_s: seconds from the beginning of its loading to its readiness.
            build: labels of `blip2_build_info`.
        """
        Gauge("blip2_model_load_seconds", "Seconds of loading and warming up.", registry=self._registry).set(load_s)
        Info("blip2_build", "What serves.", registry=self._registry).info(dict(build))

    def read_at_scrape(self, readings: Readings) -> None:
        """Asks for these with each scrape."""
        self._registry.register(_AtScrape(readings, self._log_failure))

    def serve(self, host: str, port: int) -> None:
        """Serves them over HTTP, at every path, until `close`.

        Raises:
            OSError: the port cannot be bound.
        """
        server, thread = start_http_server(port, host, self._registry)
        server.RequestHandlerClass = _impatient(server.RequestHandlerClass)
        self._server = server, thread

    def close(self) -> None:
        """Ends the server and its thread, where there are any."""
        if self._server is not None:
            server, thread = self._server
            self._server = None
            server.shutdown()
            server.server_close()
            thread.join()

    @_harmless
    def document_ended(self, code: ErrorCode | None, seconds: float) -> None:
        if code is None:
            self._answered.inc()
            self._document_s.observe(seconds)
        else:
            self._documents[code].inc()

    @_harmless
    def documents_refused(self, documents: int) -> None:
        self._documents[ErrorCode.OVERLOADED].inc(documents)

    @_harmless
    def request_failed(self, code: ErrorCode) -> None:
        self._failed[code].inc()

    @_harmless
    def call_refused(self, reason: Refusal) -> None:
        self._refused[reason].inc()

    @_harmless
    def picture_asked(self, source: Source) -> None:
        self._pictures[source].inc()

    def fetching(self) -> AbstractContextManager[object]:
        return self._timed(self._fetch_s)

    def decoding(self) -> AbstractContextManager[object]:
        return self._timed(self._decode_s)

    def batch(self, documents: Sequence[object], waits_s: Sequence[float]) -> AbstractContextManager[object]:
        for wait_s in waits_s:
            self._observe(self._wait_s, wait_s)
        return super().batch(documents, waits_s)

    @_harmless
    def batch_answered(self, report: BatchReport) -> None:
        times = report.times
        self._batch.observe(report.documents)
        self._tokens.inc(times.tokens)
        if report.encoded:
            self._encode_s.observe(times.encode_s)
        if times.prefill_s:  # other models than T5 do it as a part of `decode`
            self._prefill_s.observe(times.prefill_s)
        self._generate_s.observe(times.decode_s)
        if times.steps:
            self._step_s.observe(times.decode_s / times.steps)

    @contextmanager
    def _timed(self, histogram: Histogram) -> Iterator[None]:
        started = time.perf_counter()
        try:
            yield
        finally:
            self._observe(histogram, time.perf_counter() - started)

    @_harmless
    def _observe(self, histogram: Histogram, value: float) -> None:
        histogram.observe(value)

    def _log_failure(self) -> None:
        """Of the exception that is being handled."""
        if not self._has_failed:
            _log.exception("a metric failed; further failures are not logged")
        self._has_failed = True


def _impatient(handler: Any) -> Any:
    class Impatient(handler):
        timeout = _LONGEST_SILENCE_S

        def handle(self) -> None:
            with suppress(OSError):  # who leaves, or is silent for too long, gets no traceback
                super().handle()

    return Impatient


def versions() -> dict[str, str]:
    """Of what serves."""
    libraries = {name: version(name) for name in ("torch", "transformers", "jina")}
    return {"version": __version__} | libraries


class _AtScrape(Collector):
    """Metrics that are asked for. What cannot be told now is left out of a scrape.

    Args:
        readings: where from.
        log_failure: called where one of them raises.
    """

    def __init__(self, readings: Readings, log_failure: Callable[[], None]) -> None:
        self._readings = readings
        self._log_failure = log_failure

    def describe(self) -> Iterable[Metric]:
        return ()

    def collect(self) -> Iterable[Metric]:
        readings = self._readings
        gauges: list[tuple[str, str, Callable[[], int]]] = [
            ("documents_in_service", "Documents in the service.", readings.documents),
            ("request_bytes_in_service", "Bytes of requests in the service.", readings.request_bytes),
            ("queue_documents", "Documents that wait for the device.", readings.waiting),
            ("calls_in_progress", "gRPC calls in progress, without health checks.", readings.calls),
            ("pictures_loading", "Pictures that are fetched or decoded, or wait for it.", readings.pictures),
            ("draining", "1 where the service ends and lets nothing in.", readings.draining),
        ]
        counters = [
            ("feature_cache_hits", "Questions whose picture had not to be encoded.", readings.cache_hits),
            ("feature_cache_misses", "Pictures encoded.", readings.cache_misses),
        ]
        if readings.device_memory is not None:
            in_use, limit = readings.device_memory
            gauges.append(("device_memory_bytes", "Memory of the device that PyTorch holds for the service.", in_use))
            gauges.append(("device_memory_limit_bytes", "Memory of the device.", limit))
        for name, text, read in gauges:
            if (value := self._value(read)) is not None:
                yield GaugeMetricFamily(f"blip2_{name}", text, value)
        for name, text, read in counters:
            if (value := self._value(read)) is not None:
                yield CounterMetricFamily(f"blip2_{name}", text, value)

    def _value(self, read: Callable[[], int]) -> int | None:
        try:
            return read()
        except Exception:  # noqa: BLE001 - a lost device, above all, must not hide the rest
            self._log_failure()
            return None
