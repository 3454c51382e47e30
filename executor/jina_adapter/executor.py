"""The endpoint: documents in, documents out.

Knows Jina and the order of things; the work itself is done in `images`, `prompts`, `batcher` and `model`.
"""

import asyncio
import os
import time
import uuid
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any

from docarray import DocList
from google.protobuf.message import DecodeError
from jina import Executor, requests

from executor import cores
from executor.checkpoints import loading as checkpoint
from executor.errors import ErrorCode, RequestError
from executor.jina_adapter import mends as jina_fixes
from executor.model.blip2 import Blip2Model, use_threads
from executor.model.engine import Engine, PreparedBatch, Question, batch_key
from executor.model.warmup import warm_up
from executor.pictures.loader import ImageLoader, RequestImages
from executor.questions import templates as prompts
from executor.questions.options import OPTION_NAMES
from executor.scheduling.admission import Admission
from executor.scheduling.batcher import Batcher
from executor.scheduling.dynamic_batching import BatchingOptions
from executor.scheduling.fairness import FairShare, RequestShare
from executor.schemas import ImagePrompt, Response, UnreadablePrompt
from executor.server.policy import ServerPolicy
from executor.settings import Settings, keywords_from_settings
from executor.telemetry import logs, request_ids, tracing
from executor.telemetry.metrics import Metrics, Readings, versions
from executor.telemetry.observer import SILENT, Observer, Several

_JINA_PARAMETERS = frozenset({"__results__"})
"""Keys that Jina's own client and gateway put into every request's `parameters`."""


class Blip2Executor(Executor):
    """Visual question answering with BLIP-2.

    Args:
        settings: the fields of `executor.settings.Settings`; the environment (`BLIP2_<NAME>`) wins over them.

    Attributes:
        server_policy: how the gRPC port is served, see `jina_fixes`.
        stream_documents: documents of one stream that are in flight at the same time, see `jina_fixes`.
        on_device_lost: called once, on another thread, when the device has failed for good and every document in flight
            has been told. Whoever runs the process sets it: nothing will be answered any more.

    Raises:
        StartupError: a setting, the device or the checkpoint is not as it must be.
    """

    @keywords_from_settings
    def __init__(
        self,
        metas: dict[str, Any] | None = None,
        requests: dict[str, Any] | None = None,
        runtime_args: dict[str, Any] | None = None,
        workspace: str | None = None,
        dynamic_batching: dict[str, Any] | None = None,
        **settings: Any,
    ) -> None:
        super().__init__(
            metas=metas,
            requests=requests,
            runtime_args=runtime_args,
            workspace=workspace,
            dynamic_batching=dynamic_batching,
        )
        jina_fixes.require()
        batching = BatchingOptions.resolve(getattr(self, "dynamic_batching", {}))
        self.dynamic_batching: dict[str, Any] = {}  # taken over: nothing is left for Jina's queue
        self.settings = Settings.resolve(settings)
        logs.set_up(self.settings.log_format)
        for warning in Settings.unknown_environment():
            self.logger.warning(warning)
        metrics = Metrics() if self.settings.metrics_port is not None else None
        traces = tracing.to_collector(self.settings.otlp_endpoint) if self.settings.otlp_endpoint else None
        listeners = [listener for listener in (metrics, traces) if listener is not None]
        self._observer: Observer = Several(listeners) if len(listeners) > 1 else (metrics or traces or SILENT)
        # Of a Deployment they run on one host.
        replicas = max(1, getattr(self.runtime_args, "replicas", 1) * getattr(self.runtime_args, "shards", 1))
        self.server_policy = ServerPolicy(
            self.settings, self.logger.logger, self.refusal, self._observer, metrics, replicas
        )
        self._admission = Admission(self.settings.max_queue, self.settings.max_queue_mb * 1_000_000)
        self._defaults = self.settings.generation()
        cores_of_replica = self._use_cores(replicas)
        loading_since = time.monotonic()
        self._model = Blip2Model(self._load_checkpoint(), self.settings.max_prompt_tokens)
        warm_up(
            self._model,
            self.settings.compile,
            batching.preferred_batch_size,
            self._defaults.options,
            self.logger.info,
        )
        load_s = time.monotonic() - loading_since
        self._images = ImageLoader(
            self._model.image_size,
            self._model.resample,
            self.settings.image_limits(),
            self.settings.decode_threads or cores_of_replica,
            observer=self._observer,
        )
        self.on_device_lost: Callable[[], None] | None = None
        self._engine = Engine(self._model, self.settings.feature_cache_mb * 1_000_000, self._observer.batch_answered)
        self._batcher: Batcher[Question, PreparedBatch, str] = Batcher(
            self._engine.prepare,
            self._engine.run,
            batching.preferred_batch_size,
            batching.timeout / 1000,
            self.settings.max_queue,
            self._report_lost_device,
            self._observe_batch,
        )
        # Half of the queue is left to requests that have nothing in it.
        self._turns = FairShare(self.settings.max_queue // 2)
        # Enough to keep the device busy.
        self._documents_in_flight = 2 * batching.preferred_batch_size
        self.stream_documents = 4 * batching.preferred_batch_size
        if metrics is not None:
            self._describe(metrics, load_s)
        self.logger.info(f"batches of at most {batching.preferred_batch_size}, waiting at most {batching.timeout:g} ms")

    @requests
    async def vqa(self, docs: DocList[ImagePrompt], parameters: dict = {}, **kwargs: Any) -> DocList[Response]:  # type: ignore[type-arg]  # noqa: B006
        """Answers each document, in order, under its own id. A fault of one document is that document's `error`.

        Args:
            docs: pictures and prompts.
            parameters: generation options, and `preset`, for all documents of the request.
        """
        options = {name: value for name, value in (parameters or {}).items() if name not in _JINA_PARAMETERS}
        responses = [Response(id=doc.id) for doc in docs]
        try:
            with self._admission.request(sum(_size(doc) for doc in docs)):
                await self._respond_to_all(docs, options, responses)
        except RequestError as error:
            self._observer.documents_refused(len(docs))
            for response in responses:
                response.error = str(error)
        return DocList[Response](responses)

    def refusal(self) -> str | None:
        """What every document of a request that comes now would be told; None where there is room for one."""
        refusal = self._admission.refusal()
        return None if refusal is None else str(refusal)

    def refused(self, documents: int) -> None:
        """So many documents have been told the `refusal`."""
        self._observer.documents_refused(documents)

    def request_of_a_stream(self) -> AbstractContextManager[object]:
        """Around one request of a stream, in a task of its own."""
        return self._observer.request(request_ids.next_of_stream())

    def explain(self, error: BaseException | None) -> str:
        """What a client reads of a request that failed as a whole. What it must not read goes to the log."""
        failure = self._failure(error)
        self._observer.request_failed(failure.code)
        return str(failure)

    def close(self) -> None:
        """Finishes the batch that runs, frees threads and connections, and sends the last spans."""
        self._batcher.close()
        self._images.close()
        self._observer.close()

    async def _respond_to_all(
        self, docs: DocList[ImagePrompt], options: dict[str, Any], responses: list[Response]
    ) -> None:
        arrived = time.monotonic()
        turns = self._turns.for_request()
        remaining = enumerate(zip(docs, responses, strict=True))
        async with self._images.request() as images:

            async def respond() -> None:
                for number, (doc, response) in remaining:
                    with self._observer.document(number, len(docs)):
                        code = await self._respond(doc, response, options, images, turns)
                        self._observer.document_ended(code, time.monotonic() - arrived)

            # The rest of a long request waits here and not in everybody's queue.
            at_once = min(len(docs), self._documents_in_flight)
            await asyncio.gather(*(respond() for _ in range(at_once)))

    async def _respond(
        self,
        doc: ImagePrompt,
        response: Response,
        parameters: dict[str, Any],
        images: RequestImages,
        turns: RequestShare,
    ) -> ErrorCode | None:
        """The code of its error; None where it has an answer."""
        try:
            async with turns.place():
                with self._admission.document():
                    response.answer = await self._answer(doc, parameters, images)
            return None
        except RequestError as error:
            response.error = str(error)
            return error.code
        except Exception as error:  # noqa: BLE001 - whatever it is, it is logged and this document's
            response.error = str(self._unexpected(error, "document"))
            return ErrorCode.INTERNAL

    async def _answer(self, doc: ImagePrompt, parameters: dict[str, Any], images: RequestImages) -> str:
        if isinstance(doc, UnreadablePrompt):
            raise RequestError(ErrorCode.INVALID_DOCUMENT, f"{doc.fault}.")
        with self._batcher.announced():
            own = {name: value for name in ("preset", *OPTION_NAMES) if (value := getattr(doc, name)) is not None}
            template, options = self._defaults.merged(parameters, own)
            token_ids = self._model.tokenize(prompts.render(doc.prompt, template))
            pixels = await images.load(doc.img, doc.img_bytes)
            question = Question(pixels, token_ids, options.canonical(), self._observer.current_document())
            answer = self._batcher.submit(question, batch_key(question))
        return await asyncio.wrap_future(answer)

    def _failure(self, error: BaseException | None) -> RequestError:
        if isinstance(error, ValueError) and "Fail to serialize" in str(error):  # protobuf's, of NaN and infinity
            return RequestError(ErrorCode.INVALID_OPTIONS, "a number in 'parameters' is not finite.")
        if isinstance(error, DecodeError):
            return RequestError(ErrorCode.INVALID_DOCUMENT, "the request's documents cannot be read.")
        return self._unexpected(error, "request")

    def _unexpected(self, error: BaseException | None, what: str) -> RequestError:
        reference = uuid.uuid4().hex[:12]
        self.logger.error(f"unexpected error, reference {reference}", exc_info=error)
        message = f"the service failed on this {what}; report reference {reference} to its operator."
        return RequestError(ErrorCode.INTERNAL, message)

    def _observe_batch(self, questions: Sequence[Question], waits_s: Sequence[float]) -> AbstractContextManager[object]:
        return self._observer.batch([question.document for question in questions], waits_s)

    def _report_lost_device(self, reason: BaseException) -> None:
        self.logger.critical("the device is lost: no document will be answered", exc_info=reason)
        if self.on_device_lost is not None:
            self.on_device_lost()

    def _describe(self, metrics: Metrics, load_s: float) -> None:
        device = self._model.device
        metrics.describe(
            load_s,
            versions()
            | {
                "device": str(device),
                "dtype": str(self._model.dtype).removeprefix("torch."),
                "compile": self.settings.compile if device.type == "cuda" else "off",
            },
        )
        admission, calls, cache = self._admission, self.server_policy.calls, self._engine.features
        metrics.read_at_scrape(
            Readings(
                documents=lambda: admission.documents,
                request_bytes=lambda: admission.bytes,
                waiting=lambda: self._batcher.waiting,
                calls=lambda: calls.in_progress,
                pictures=lambda: self._images.loading,
                draining=lambda: calls.is_draining,
                cache_hits=lambda: cache.hits,
                cache_misses=lambda: cache.misses,
                device_memory=self._model.memory(),
            )
        )

    def _use_cores(self, replicas: int) -> int:
        """The cores of this process, one of so many on this host that divide its cores."""
        share = cores.share(replicas)
        threads = use_threads(self.settings.torch_threads, share)
        self.logger.info(
            f"one of {replicas} on this host: cores={share} torch_threads={threads} "
            f"CUDA_VISIBLE_DEVICES={os.environ.get('CUDA_VISIBLE_DEVICES', '(all)')}"
        )
        return share

    def _load_checkpoint(self) -> checkpoint.Checkpoint:
        settings = self.settings
        quantized = "" if settings.quantization == "none" else f", linear layers {settings.quantization}"
        where = settings.device if settings.device_map == "none" else f"all GPUs ({settings.device_map})"
        self.logger.info(f"loading {settings.model} on {where} as {settings.dtype}{quantized}")
        loaded = checkpoint.load(
            settings.model,
            settings.revision,
            settings.device,
            settings.dtype,
            settings.quantization,
            settings.device_map,
        )
        self.logger.info(
            f"loaded {loaded.model.num_parameters():,} parameters on {loaded.device} "
            f"as {str(loaded.dtype).removeprefix('torch.')}"
        )
        return loaded


def _size(doc: ImagePrompt) -> int:
    """About the bytes that a document takes in memory before its picture is read."""
    return len(doc.img or "") + len(doc.img_bytes or b"") + len(doc.prompt or "")
