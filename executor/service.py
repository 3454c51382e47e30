"""The service: what is asked in a request -> its answers. Doors are thin in front of it; the one of today is gRPC's.

It says in which order a document passes admission, questions, pictures, the queue and the engine. `startup` puts it
together. Knows nothing of Jina, of documents on the wire, of gRPC or HTTP.
"""

import asyncio
import logging
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any, Protocol

from executor.errors import DocumentError, ErrorCode
from executor.model.engine import Question, batch_key
from executor.pictures.loader import ImageLoader, RequestImages
from executor.questions import templates
from executor.questions.presets import Generation
from executor.questions.tasks import VQA, Task
from executor.scheduling.admission import Admission
from executor.scheduling.batcher import Batcher
from executor.scheduling.dynamic_batching import BatchingOptions
from executor.scheduling.fairness import FairShare, RequestShare
from executor.settings import Settings
from executor.telemetry import request_ids
from executor.telemetry.metrics import Metrics, Readings, library_versions
from executor.telemetry.observer import SILENT, Observer


@dataclass(frozen=True, slots=True)
class Query:
    """Holds what one document asks, as a door has read it.

    Attributes:
        picture: URL, `data:` URI or local file.
        picture_bytes: an encoded picture, which wins over `picture`.
        prompt: the client's text.
        options: generation options and `preset` that the document chooses.
        fault: why the document cannot be read, in one line; None where it can.
    """

    picture: str | None = None
    picture_bytes: bytes | None = None
    prompt: str | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    fault: str | None = None

    @property
    def size(self) -> int:
        """Returns about the bytes that it takes in memory before its picture is read."""
        return len(self.picture or "") + len(self.picture_bytes or b"") + len(self.prompt or "")


@dataclass(slots=True)
class Answer:
    """Holds the answer to one `Query`: either `text`, or the `error` that is this document's alone."""

    text: str = ""
    error: DocumentError | None = None


class AnswerEngine(Protocol):
    """Answers questions in batches. `executor.model.engine.Engine` does, and says more; tests have others."""

    @property
    def image_size(self) -> tuple[int, int]:
        """Returns (height, width) in pixels of the pictures in questions."""

    @property
    def resample(self) -> int:
        """Returns Pillow's filter with which pictures are resized."""

    @property
    def cache_hits(self) -> int:
        """Counts the questions whose picture had not to be encoded."""

    @property
    def cache_misses(self) -> int:
        """Counts the pictures encoded."""

    def tokenize(self, prompt: str) -> list[int]:
        """Returns the token ids of a prompt, or raises a DocumentError."""

    def collate(self, questions: Sequence[Question]) -> Any:
        """Makes a batch of questions, for `run` alone to look into."""

    def run(self, batch: Any) -> Sequence[str]:
        """Returns an answer for each question of a batch. Always on the same thread."""

    def recover(self, error: Exception) -> None:
        """Does what can be done after a batch has failed, on the thread of `run`."""

    def describe(self) -> Mapping[str, str]:
        """Says what answers, as labels of a metric."""

    def device_memory(self) -> tuple[Callable[[], int], Callable[[], int]] | None:
        """Returns what tells the bytes in use on the device, and all that there are; None where nobody knows."""


class Service:
    """Answers requests. Belongs to one event loop.

    Args:
        settings: of all parts.
        batching: how documents travel together.
        engine: answers batches, on one thread of the batcher's.
        log: told of what an operator must know.
        observer: told of all work.
        decode_threads: threads that decode pictures.
        batcher: makes the queue in front of the engine.

    Attributes:
        on_device_lost: called once, on another thread, when the device has failed for good and every document in flight
            has been told. Whoever runs the process sets it: nothing will be answered any more.
    """

    def __init__(
        self,
        settings: Settings,
        batching: BatchingOptions,
        engine: AnswerEngine,
        log: logging.Logger,
        observer: Observer = SILENT,
        decode_threads: int = 0,
        batcher: Callable[..., Batcher[Question, Any, str]] = Batcher,
    ) -> None:
        self.on_device_lost: Callable[[], None] | None = None
        self._engine = engine
        self._log = log
        self._observer = observer
        self._defaults = settings.generation()
        self._admission = Admission(settings.max_queue, settings.max_queue_mb * 1_000_000)
        # Half of the queue is left to requests that have nothing in it.
        self._fair_share = FairShare(settings.max_queue // 2)
        # Enough to keep the device busy.
        self._documents_in_flight = 2 * batching.preferred_batch_size
        self._images = ImageLoader(
            engine.image_size, engine.resample, settings.image_limits(), decode_threads, observer=observer
        )
        self._batcher = batcher(
            engine.collate,
            engine.run,
            batching.preferred_batch_size,
            batching.timeout / 1000,
            recover=engine.recover,
            on_device_lost=self._report_lost_device,
            on_batch=self._observe_batch,
        )

    async def answer(
        self, queries: Sequence[Query], parameters: Mapping[str, Any] | None = None, task: Task = VQA
    ) -> list[Answer]:
        """Answers each query of a request, in order. A fault of one is that answer's `error`; nothing is raised.

        Args:
            queries: of one request; the same picture in several of them is loaded once.
            parameters: generation options and `preset` for all of them.
            task: what is asked for.
        """
        answers = [Answer() for _ in queries]
        try:
            with self._admission.request(sum(query.size for query in queries)):
                await self._answer_all(queries, parameters or {}, task, answers)
        except DocumentError as error:
            self._observer.documents_refused(len(queries))
            for answer in answers:
                answer.error = error
        return answers

    def overload(self) -> str | None:
        """Returns what every document of a request that comes now would be told; None where there is room for one."""
        overload = self._admission.overload()
        return None if overload is None else str(overload)

    def documents_refused(self, documents: int) -> None:
        """Notes that a door has told so many documents the `overload`."""
        self._observer.documents_refused(documents)

    def request_of_stream(self) -> AbstractContextManager[object]:
        """Surrounds one request of a call that brings several, in a task of its own."""
        return self._observer.request(request_ids.next_of_stream())

    def request_failed(self, failure: DocumentError) -> None:
        """Notes that a request has failed as a whole."""
        self._observer.request_failed(failure.code)

    def unexpected(self, error: BaseException | None, what: str) -> DocumentError:
        """Logs an error that nobody foresaw, and returns what the client reads: a reference to the log.

        Args:
            what: the service failed on, `document` or `request`.
        """
        reference = uuid.uuid4().hex[:12]
        self._log.error(f"unexpected error, reference {reference}", exc_info=error)
        message = f"the service failed on this {what}; report reference {reference} to its operator."
        return DocumentError(ErrorCode.INTERNAL, message)

    def report_to(
        self, metrics: Metrics, load_s: float, calls: Callable[[], int], draining: Callable[[], bool]
    ) -> None:
        """Has metrics say what serves, and read at each scrape what is in the service.

        Args:
            load_s: seconds from the beginning of the model's loading to its readiness.
            calls: counts the calls in progress, of all doors.
            draining: tells whether the service ends.
        """
        metrics.describe(load_s, library_versions() | dict(self._engine.describe()))
        metrics.read_at_scrape(
            Readings(
                documents=lambda: self._admission.documents,
                request_bytes=lambda: self._admission.bytes,
                waiting=lambda: self._batcher.waiting,
                calls=calls,
                pictures=lambda: self._images.loading,
                draining=draining,
                cache_hits=lambda: self._engine.cache_hits,
                cache_misses=lambda: self._engine.cache_misses,
                device_memory=self._engine.device_memory(),
            )
        )

    def close(self) -> None:
        """Finishes the batch that runs, frees threads and connections, and sends the last spans."""
        self._batcher.close()
        self._images.close()
        self._observer.close()

    async def _answer_all(
        self, queries: Sequence[Query], parameters: Mapping[str, Any], task: Task, answers: Sequence[Answer]
    ) -> None:
        arrived = time.monotonic()
        share = self._fair_share.for_request()
        defaults = self._defaults.merged({"preset": task.preset}) if task.preset is not None else self._defaults
        remaining = enumerate(zip(queries, answers, strict=True))
        async with self._images.request() as images:

            async def answer_remaining() -> None:
                for number, (query, answer) in remaining:
                    with self._observer.document(number, len(queries)):
                        code = await self._answer_or_error(query, answer, parameters, task, defaults, images, share)
                        self._observer.document_ended(code, time.monotonic() - arrived)

            # The rest of a long request waits here and not in everybody's queue.
            at_once = min(len(queries), self._documents_in_flight)
            await asyncio.gather(*(answer_remaining() for _ in range(at_once)))

    async def _answer_or_error(
        self,
        query: Query,
        answer: Answer,
        parameters: Mapping[str, Any],
        task: Task,
        defaults: Generation,
        images: RequestImages,
        share: RequestShare,
    ) -> ErrorCode | None:
        """The code of its error; None where it has an answer."""
        try:
            async with share.place():
                with self._admission.document():
                    answer.text = await self._answer(query, parameters, task, defaults, images)
            return None
        except DocumentError as error:
            answer.error = error
        except Exception as error:  # noqa: BLE001 - whatever it is, it is logged and this document's
            answer.error = self.unexpected(error, "document")
        return answer.error.code

    async def _answer(
        self, query: Query, parameters: Mapping[str, Any], task: Task, defaults: Generation, images: RequestImages
    ) -> str:
        if query.fault is not None:
            raise DocumentError(ErrorCode.INVALID_DOCUMENT, f"{query.fault}.")
        with self._batcher.announced():
            template, options = defaults.merged(parameters, query.options)
            prompt = task.default_prompt if query.prompt is None else query.prompt
            token_ids = self._engine.tokenize(templates.render(prompt, template))
            pixels = await images.load(query.picture, query.picture_bytes)
            question = Question(pixels, token_ids, options.canonical(), self._observer.current_document())
            answer = self._batcher.submit(question, batch_key(question))
        return await asyncio.wrap_future(answer)

    def _observe_batch(self, questions: Sequence[Question], waits_s: Sequence[float]) -> AbstractContextManager[object]:
        return self._observer.batch([question.observed for question in questions], waits_s)

    def _report_lost_device(self, reason: BaseException) -> None:
        self._log.critical("the device is lost: no document will be answered", exc_info=reason)
        if self.on_device_lost is not None:
            self.on_device_lost()
