"""A batch of questions on its way to its answers: the host's part, then the device's.

Knows the model and the cache of features; knows nothing of Jina, of documents or of queues. What can go wrong with a
device becomes a `RequestError` here.
"""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, TypeVar

import torch

from executor.errors import ErrorCode, RequestError
from executor.model.blip2 import Blip2Model
from executor.model.buffers import PromptBatch
from executor.model.feature_cache import FeatureCache, content_key
from executor.model.stopwatch import StageTimes, Stopwatch
from executor.questions.options import GenerationOptions

_log = logging.getLogger(__name__)

Work = TypeVar("Work")
Outcome = TypeVar("Outcome")


class Question(NamedTuple):
    """A picture (uint8 tensor of shape (3, height, width)), a tokenised prompt and how to answer.

    `document` says whose it is, to whoever observes batches.
    """

    pixels: torch.Tensor
    token_ids: list[int]
    options: GenerationOptions
    document: object = None


@dataclass(frozen=True)
class PreparedBatch:
    """Questions as the device takes them.

    Attributes:
        keys: the content key of each question's picture.
        pixels: distinct pictures, a uint8 tensor of shape (distinct, 3, height, width) on the device.
        rows: content key -> row of `pixels`.
        prompts: on the device.
        options: the same for all questions, but for the seed.
        seeds: one per question.
    """

    keys: list[bytes]
    pixels: torch.Tensor
    rows: dict[bytes, int]
    prompts: PromptBatch
    options: GenerationOptions
    seeds: list[int | None]


@dataclass(frozen=True)
class BatchReport:
    """What a batch was and how long it took.

    Attributes:
        documents: answered.
        encoded: pictures that were in no cache.
        times: of its stages on the device.
    """

    documents: int
    encoded: int
    times: StageTimes


class Engine:
    """Answers questions in batches.

    Args:
        model: the checkpoint on its device.
        feature_cache_bytes: most bytes of image features kept on the device; 0 keeps none.
        on_batch: told of each batch that was answered, on the thread of `run`. What it raises is logged, once.

    Attributes:
        features: the cache; its counters may be read from any thread.
    """

    def __init__(
        self,
        model: Blip2Model,
        feature_cache_bytes: int,
        on_batch: Callable[[BatchReport], None] = lambda _: None,
    ) -> None:
        self._model = model
        self._on_batch = on_batch
        self._report_failed = False
        self.features = FeatureCache(feature_cache_bytes)

    def prepare(self, questions: Sequence[Question]) -> PreparedBatch:
        """The host's part: hashes, stacks, pads, copies to the device. May run beside `run`.

        Args:
            questions: with equal `batch_key`.

        Raises:
            RequestError: as `run`.
        """
        return self._guard(self._prepare, questions)

    def run(self, batch: PreparedBatch) -> list[str]:
        """The device's part: one answer per question. Always on the same thread.

        Raises:
            RequestError: `OUT_OF_MEMORY`, after which memory has been freed and a smaller batch may succeed;
                `MODEL_FAILED`, after which the others of the batch may; `DEVICE_LOST`, after which nothing will.
        """
        return self._guard(self._run, batch)

    def _prepare(self, questions: Sequence[Question]) -> PreparedBatch:
        keys = [content_key(question.pixels) for question in questions]
        distinct = dict(zip(keys, (question.pixels for question in questions), strict=True))
        return PreparedBatch(
            keys,
            self._model.upload_pictures(list(distinct.values())),
            {key: row for row, key in enumerate(distinct)},
            self._model.pad([question.token_ids for question in questions]),
            questions[0].options,
            [question.options.seed for question in questions],
        )

    def _run(self, batch: PreparedBatch) -> list[str]:
        stopwatch = Stopwatch(self._model.device)

        def encode(keys: list[bytes]) -> torch.Tensor:
            rows = [batch.rows[key] for key in keys]
            pixels = batch.pixels if len(rows) == len(batch.pixels) else batch.pixels[rows]
            with stopwatch.measure("encode"):
                return self._model.encode_images(pixels)

        encoded = self.features.misses
        features = self.features.get(batch.keys, encode)
        answers = self._model.generate(features, batch.prompts, batch.options, batch.seeds, stopwatch)
        self._report(BatchReport(len(answers), self.features.misses - encoded, stopwatch.read()))
        return answers

    def _report(self, report: BatchReport) -> None:
        try:
            self._on_batch(report)
        except Exception:  # noqa: BLE001 - who is told of a batch must not cost it
            if not self._report_failed:
                _log.exception("on_batch failed; further failures of it are not logged")
            self._report_failed = True

    def _guard(self, work: Callable[[Work], Outcome], on: Work) -> Outcome:
        try:
            return work(on)
        except Exception as error:
            if _is_lost(self._model.device):
                raise RequestError(ErrorCode.DEVICE_LOST, "the device failed; try again elsewhere.") from error
            if not _is_out_of_memory(error):
                raise
        # Only here are the exception and, with its frames, the tensors of the failed attempt gone.
        self.features.clear()
        if self._model.device.type == "cuda":
            torch.cuda.empty_cache()
        raise RequestError(
            ErrorCode.OUT_OF_MEMORY,
            "the device's memory is too small for this document; ask for fewer beams or tokens, or try later.",
        )


def batch_key(question: Question) -> GenerationOptions:
    """Questions with equal keys may travel in one batch: every row has random numbers of its own."""
    return question.options.model_copy(update={"seed": None})


def _is_out_of_memory(error: Exception) -> bool:
    # PyTorch has no class of its own for a CPU without memory.
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or "DefaultCPUAllocator" in str(error)


def _is_lost(device: torch.device) -> bool:
    """Whether an error was for good: CUDA then answers every later call with it, even an empty one."""
    if device.type != "cuda":
        return False
    try:
        torch.cuda.synchronize(device)
    except RuntimeError:
        return True
    return False
