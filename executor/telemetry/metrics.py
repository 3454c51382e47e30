"""What an operator can see of the service, as Prometheus reads it.

Knows prometheus_client, which `server.metrics_port` serves; what the parts tell comes by way of `observer`. Names end
with their unit, labels have values of a fixed set, each there from the start at 0. What cannot be read at a scrape is
left out of it.
"""

import logging
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from importlib.metadata import version

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Info, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from executor.errors import ErrorCode
from executor.telemetry.observer import BatchReport, Observer, Refusal, Source
from executor.version import __version__

_log = logging.getLogger(__name__)

_SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
"""From a stage of the demo checkpoint on a CPU to the last of a thousand documents that wait."""
_STEP_SECONDS = (0.00025, 0.0005, 0.001, 0.0015, 0.002, 0.003, 0.004, 0.006, 0.008, 0.012, 0.02, 0.05, 0.1, 0.25, 1.0)
"""One token: milliseconds on a GPU, a tenth of a second and more for a large checkpoint on a CPU."""
_DOCUMENTS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)
_OK = "OK"


@dataclass(frozen=True)
class Readings:
    """Holds what is not counted but asked for with each scrape, on a thread of its own.

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


class Metrics(Observer):
    """Counts and times what it is told.

    Attributes:
        registry: all metrics, to be served.
    """

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
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
        self._picture_decode_s = seconds("picture_decode", "of decoding and resizing a picture, in vain or not")
        stage_s = seconds("stage", "of a stage of a batch on the device", ["stage"])
        self._encode_s, self._prefill_s, self._generate_s = (stage_s.labels(s) for s in ("encode", "prefill", "decode"))
        self._step_s = seconds("token", "of one step of a batch's answers, a token of each", buckets=_STEP_SECONDS)
        self._batch = Histogram(
            "blip2_batch_documents", "Documents of a batch that was answered.", buckets=_DOCUMENTS, registry=registry
        )

    def describe(self, load_s: float, build: Mapping[str, str]) -> None:
        """Says what is known once the model is there.

        Args:
            load_s: seconds from the beginning of its loading to its readiness.
            build: labels of `blip2_build_info`.
        """
        Gauge("blip2_model_load_seconds", "Seconds of loading and warming up.", registry=self.registry).set(load_s)
        Info("blip2_build", "What serves.", registry=self.registry).info(dict(build))

    def read_at_scrape(self, readings: Readings) -> None:
        """Registers what is asked for with each scrape."""
        self.registry.register(_AtScrape(readings))

    def document_ended(self, code: ErrorCode | None, seconds: float) -> None:
        if code is None:
            self._answered.inc()
            self._document_s.observe(seconds)
        else:
            self._documents[code].inc()

    def documents_refused(self, documents: int) -> None:
        self._documents[ErrorCode.OVERLOADED].inc(documents)

    def request_failed(self, code: ErrorCode) -> None:
        self._failed[code].inc()

    def call_refused(self, reason: Refusal) -> None:
        self._refused[reason].inc()

    def picture_asked(self, source: Source) -> None:
        self._pictures[source].inc()

    def fetching(self) -> AbstractContextManager[object]:
        return self._timed(self._fetch_s)

    def decoding(self) -> AbstractContextManager[object]:
        return self._timed(self._picture_decode_s)

    def batch(self, documents: Sequence[object], waits_s: Sequence[float]) -> AbstractContextManager[object]:
        for wait_s in waits_s:
            self._wait_s.observe(wait_s)
        return super().batch(documents, waits_s)

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
            histogram.observe(time.perf_counter() - started)


def library_versions() -> dict[str, str]:
    """Returns the versions of what serves, by name."""
    libraries = {name: version(name) for name in ("torch", "transformers", "jina")}
    return {"version": __version__} | libraries


class _AtScrape(Collector):
    """Metrics that are asked for. What cannot be told now is left out of a scrape, and logged, once."""

    def __init__(self, readings: Readings) -> None:
        self._readings = readings
        self._has_failed = False

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
            if not self._has_failed:
                _log.exception("a metric cannot be read; further failures are not logged")
            self._has_failed = True
            return None
