"""A batch of questions on its way to its answers: the host's part, then the device's.

Knows the model and the cache of features; knows nothing of requests or of queues. What can go wrong with a device
becomes a `DocumentError` here.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, TypeVar

import torch

from executor.errors import DocumentError, ErrorCode
from executor.model.blip2 import Blip2Model
from executor.model.buffers import PromptBatch
from executor.model.feature_cache import FeatureCache, content_key
from executor.model.stopwatch import Stopwatch
from executor.questions.options import GenerationOptions
from executor.telemetry.observer import BatchReport

Work = TypeVar("Work")
Outcome = TypeVar("Outcome")


class Question(NamedTuple):
    """Holds a picture (uint8 tensor of shape (3, height, width)), a tokenised prompt and how to answer.

    `observed` is what whoever observes batches wants back with it.
    """

    pixels: torch.Tensor
    token_ids: list[int]
    options: GenerationOptions
    observed: object = None


@dataclass(frozen=True)
class CollatedBatch:
    """Holds questions as the device takes them.

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


class Engine:
    """Answers questions in batches.

    Args:
        model: the checkpoint on its device.
        feature_cache_bytes: most bytes of image features kept on the device; 0 keeps none.
        on_answered: told of each batch that was answered, on the thread of `run`; must not raise.
        compile: what warming the model up came to, see `executor.model.warmup`.
    """

    def __init__(
        self,
        model: Blip2Model,
        feature_cache_bytes: int,
        on_answered: Callable[[BatchReport], None] = lambda _: None,
        compile: str = "off",
    ) -> None:
        self._model = model
        self._on_answered = on_answered
        self._compile = compile
        self._feature_cache = FeatureCache(feature_cache_bytes)

    @property
    def image_size(self) -> tuple[int, int]:
        """Returns (height, width) in pixels of the pictures in questions."""
        return self._model.image_size

    @property
    def resample(self) -> int:
        """Returns Pillow's filter with which pictures are resized."""
        return self._model.resample

    @property
    def cache_hits(self) -> int:
        """Counts the questions whose picture had not to be encoded. To be read on any thread."""
        return self._feature_cache.hits

    @property
    def cache_misses(self) -> int:
        """Counts the pictures encoded. To be read on any thread."""
        return self._feature_cache.misses

    def tokenize(self, prompt: str) -> list[int]:
        """Returns the token ids of a prompt. One thread at a time, beside `run`'s.

        Raises:
            DocumentError: `PROMPT_TOO_LONG`.
        """
        return self._model.tokenize(prompt)

    def collate(self, questions: Sequence[Question]) -> CollatedBatch:
        """Does the host's part: hashes, stacks, pads, copies to the device. May run beside `run`.

        Args:
            questions: with equal `batch_key`.

        Raises:
            DocumentError: as `run`.
        """
        return self._guard(self._collate, questions)

    def run(self, batch: CollatedBatch) -> list[str]:
        """Does the device's part: returns one answer per question. Always on the same thread.

        Raises:
            DocumentError: `OUT_OF_MEMORY`, after which a smaller batch may succeed once `recover` was called;
                `MODEL_FAILED`, after which the others of the batch may; `DEVICE_LOST`, after which nothing will.
        """
        return self._guard(self._run, batch)

    def recover(self, error: Exception) -> None:
        """Frees memory where its lack made a batch fail. On the thread of `run` alone, which uses what is freed.

        Args:
            error: what `collate` or `run` raised.
        """
        if isinstance(error, DocumentError) and error.code is ErrorCode.OUT_OF_MEMORY:
            self._feature_cache.clear()
            if self._model.device.type == "cuda":
                torch.cuda.empty_cache()

    def describe(self) -> dict[str, str]:
        """Says what answers: `device`, `dtype` and `compile`."""
        device = self._model.device
        return {
            "device": str(device),
            "dtype": str(self._model.dtype).removeprefix("torch."),
            "compile": self._compile,
        }

    def device_memory(self) -> tuple[Callable[[], int], Callable[[], int]] | None:
        """Returns what tells the bytes that PyTorch holds on the device, and all that there are; None on a CPU."""
        return self._model.memory()

    def _collate(self, questions: Sequence[Question]) -> CollatedBatch:
        keys = [content_key(question.pixels) for question in questions]
        distinct = dict(zip(keys, (question.pixels for question in questions), strict=True))
        return CollatedBatch(
            keys,
            self._model.upload_pictures(list(distinct.values())),
            {key: row for row, key in enumerate(distinct)},
            self._model.pad([question.token_ids for question in questions]),
            questions[0].options,
            [question.options.seed for question in questions],
        )

    def _run(self, batch: CollatedBatch) -> list[str]:
        stopwatch = Stopwatch(self._model.device)

        def encode(keys: list[bytes]) -> torch.Tensor:
            rows = [batch.rows[key] for key in keys]
            pixels = batch.pixels if len(rows) == len(batch.pixels) else batch.pixels[rows]
            with stopwatch.measure("encode"):
                return self._model.encode_images(pixels)

        encoded = self.cache_misses
        features = self._feature_cache.get(batch.keys, encode)
        answers = self._model.generate(features, batch.prompts, batch.options, batch.seeds, stopwatch)
        self._on_answered(BatchReport(len(answers), self.cache_misses - encoded, stopwatch.read()))
        return answers

    def _guard(self, work: Callable[[Work], Outcome], on: Work) -> Outcome:
        try:
            return work(on)
        except Exception as error:
            if _is_lost(self._model.device):
                raise DocumentError(ErrorCode.DEVICE_LOST, "the device failed; try again elsewhere.") from error
            if not _is_out_of_memory(error):
                raise
        # Only here are the exception and, with its frames, the tensors of the failed attempt gone.
        raise DocumentError(
            ErrorCode.OUT_OF_MEMORY,
            "the device's memory is too small for this document; ask for fewer beams or tokens, or try later.",
        )


def batch_key(question: Question) -> GenerationOptions:
    """Returns equal keys for questions that may travel in one batch: every row has random numbers of its own."""
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
