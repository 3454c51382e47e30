"""The language model behind the pictures: from features and prompts to tokens.

`T5LanguageModel` is ours, with fixed shapes, graphs and a search that never waits. `TransformersLanguageModel` is
transformers' own `generate`, for decoder-only models (OPT) and for models spread over several devices. Both find the
same tokens. Knows tokens and options. It must not know texts, pixels, or who asks.
"""

import math
from collections.abc import Iterator, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor
from transformers import LogitsProcessorList

from executor.model.buffers import BatchBuffers, PromptBatch, PromptBuffers
from executor.model.finiteness import FiniteScores
from executor.model.graphs import Capture, call_directly
from executor.model.sampling import RowwiseSampling
from executor.model.search import Vocabulary, search
from executor.model.shapes import Shape, Shapes
from executor.model.stopwatch import Stopwatch
from executor.model.t5 import T5
from executor.questions.options import MOST_NEW_TOKENS, GenerationOptions


class LanguageModel(Protocol):
    """Answers prompts about pictures, in tokens. One batch at a time, on one thread."""

    def generate(
        self,
        features: Tensor,
        prompts: PromptBatch,
        options: GenerationOptions,
        seeds: Sequence[int | None],
        stopwatch: Stopwatch,
    ) -> Tensor:
        """Generates the tokens of the answers.

        Args:
            features: of shape (batch, num_query_tokens, hidden), on the device.
            prompts: of shape (batch, length), on the device.
            options: the same for every row.
            seeds: one per row; None draws anew each time.
            stopwatch: measures the stages `prefill` and `decode`, and is told the steps.

        Returns:
            int64 tensor of shape (batch, any), special tokens among them. Rows of an encoder-decoder begin with its
            start token.

        Raises:
            DocumentError: `MODEL_FAILED`, where the scores of any row are not finite.
        """

    def capture(self, shapes: Shapes, num_query_tokens: int, capture: Capture) -> Iterator[None]:
        """Captures the programs for batches of these shapes, where there are any; yields as often as `programs` says.

        Nothing captured is used before all of it is there.

        Args:
            shapes: of the batches.
            num_query_tokens: tokens of a picture, in front of each prompt.
            capture: makes each program.
        """

    def programs(self, shapes: Shapes) -> int:
        """Counts how often `capture` yields for these shapes: 0 where there is nothing to capture."""

    def release(self) -> None:
        """Forgets the captured programs, and goes on without. Does nothing where there are none."""


class T5LanguageModel:
    """Answers with our own decoder and search of T5. It shares the weights of `model`.

    Args:
        model: a `T5ForConditionalGeneration` on one device, in inference mode.
    """

    def __init__(self, model: Any) -> None:
        self._t5 = T5(model, MOST_NEW_TOKENS)
        self._hidden = model.config.d_model
        self._vocabulary = Vocabulary(self._t5.start_token_id, self._t5.pad_token_id, self._t5.end_token_ids)
        self._shapes: Shapes | None = None
        self._captured: dict[Shape, BatchBuffers] = {}

    def capture(self, shapes: Shapes, num_query_tokens: int, capture: Capture) -> Iterator[None]:
        """Captures two programs for each shape, the largest first: to encode prompts, and to take one step.

        Shapes that differ in beams alone share the first. A batch that fits into no shape is answered without.
        """
        self.release()
        captured: dict[Shape, BatchBuffers] = {}
        batch, length, beams = shapes.batches[-1], shapes.lengths[-1], shapes.beams[-1]
        # One batch is answered at a time, so all shapes share the memory of the largest.
        largest_prompts = self._new_prompt_buffers(batch, length, num_query_tokens)
        largest_cache = self._t5.new_self_cache(batch * beams, shapes.new_tokens)
        for batch in reversed(shapes.batches):
            for length in reversed(shapes.lengths):
                smaller = self._new_prompt_buffers(batch, length, num_query_tokens, "meta")
                prompts = PromptBuffers(
                    *(_part(tensor, like.shape) for tensor, like in zip(largest_prompts, smaller, strict=True))
                )
                encode = capture(self._t5.encode, *prompts)
                for beams in shapes.beams:
                    shape = Shape(batch, length, beams, shapes.new_tokens)
                    rows = (*largest_cache.shape[:2], batch * beams, *largest_cache.shape[3:])
                    cache = _part(largest_cache, rows)
                    captured[shape] = BatchBuffers(self._t5, shape, prompts, encode, cache, capture)
                    yield
        self._shapes, self._captured = shapes, captured

    def programs(self, shapes: Shapes) -> int:
        """Counts how often `capture` yields: once for each shape."""
        return len(shapes.batches) * len(shapes.lengths) * len(shapes.beams)

    def release(self) -> None:
        """Forgets the captured programs, and goes on without."""
        self._shapes, self._captured = None, {}

    def generate(
        self,
        features: Tensor,
        prompts: PromptBatch,
        options: GenerationOptions,
        seeds: Sequence[int | None],
        stopwatch: Stopwatch,
    ) -> Tensor:
        """Generates as `LanguageModel` says."""
        batch, length = prompts.input_ids.shape
        buffers = self._buffers(batch, length, features.shape[1], options)
        with stopwatch.measure("prefill"):
            buffers.begin(features, prompts, self._t5.pad_token_id)
        with stopwatch.measure("decode"):
            watch = FiniteScores()
            tokens, stopwatch.steps = search(buffers, batch, options, seeds, self._vocabulary, self._t5.device, watch)
        watch.check()
        return tokens

    def _buffers(self, batch: int, length: int, num_query_tokens: int, options: GenerationOptions) -> BatchBuffers:
        beams, new_tokens = options.num_beams, options.max_new_tokens
        shape = self._shapes.fit(batch, length, beams, new_tokens) if self._shapes is not None else None
        if shape is not None:
            return self._captured[shape]
        prompts = self._new_prompt_buffers(batch, length, num_query_tokens)
        return BatchBuffers(
            self._t5,
            Shape(batch, length, beams, new_tokens),
            prompts,
            call_directly(self._t5.encode, *prompts),
            self._t5.new_self_cache(batch * beams, new_tokens),
        )

    def _new_prompt_buffers(
        self, batch: int, length: int, num_query_tokens: int, device: torch.device | str | None = None
    ) -> PromptBuffers:
        device = device or self._t5.device
        return PromptBuffers(
            torch.zeros(batch, num_query_tokens, self._hidden, dtype=self._t5.dtype, device=device),
            torch.zeros(batch, length, dtype=torch.int64, device=device),
            torch.ones(batch, length, dtype=torch.int64, device=device),
            self._t5.new_cross_cache(batch, length, device),
            self._t5.new_cross_bias(batch, length, device),
        )


def _part(tensor: Tensor, shape: Sequence[int]) -> Tensor:
    """A smaller tensor in the memory of a larger one."""
    return tensor.flatten()[: math.prod(shape)].view(tuple(shape))


class TransformersLanguageModel:
    """Answers with transformers' own `generate`, whatever the language model is. It captures nothing.

    Args:
        model: encoder-decoder or decoder-only, in inference mode.
        image_token_id: the token that stands for a picture's in prompts.
    """

    def __init__(self, model: Any, image_token_id: int) -> None:
        self._model = model
        self._image_token_id = image_token_id
        self._is_encoder_decoder = bool(model.config.is_encoder_decoder)

    def generate(
        self,
        features: Tensor,
        prompts: PromptBatch,
        options: GenerationOptions,
        seeds: Sequence[int | None],
        stopwatch: Stopwatch,
    ) -> Tensor:
        """Generates as `LanguageModel` says. All of it counts as the stage `decode`."""
        embeddings = self._model.get_input_embeddings()(prompts.input_ids)
        # Of a spread model these may be on three devices. Within it accelerate moves what its parts are called with.
        input_ids, attention_mask = (tensor.to(embeddings.device) for tensor in prompts)
        is_image = torch.eq(input_ids, self._image_token_id).unsqueeze(-1)
        inputs: dict[str, Any] = {
            "inputs_embeds": embeddings.masked_scatter(is_image, features.to(embeddings.device)),
            "attention_mask": attention_mask,
        }
        if not self._is_encoder_decoder:
            # As in `Blip2ForConditionalGeneration.generate`: penalties on repetition see the prompt. They must not see
            # padding, which depends on the batch, so it looks like more of the picture, which every row has.
            inputs["input_ids"] = input_ids.where(attention_mask.bool(), self._image_token_id)
        watch = FiniteScores()
        inputs["logits_processor"] = LogitsProcessorList([watch])
        if options.samples:
            inputs["logits_processor"].append(RowwiseSampling(options, seeds, input_ids.device))
        with stopwatch.measure("decode"):
            tokens: Tensor = self._model.generate(**inputs, **options.generate_kwargs())
        watch.check()
        if not self._is_encoder_decoder:
            tokens = tokens[:, input_ids.shape[1] :]
        stopwatch.steps = tokens.shape[1]
        return tokens

    def capture(self, shapes: Shapes, num_query_tokens: int, capture: Capture) -> Iterator[None]:
        """Captures nothing, and yields never."""
        return iter(())

    def programs(self, shapes: Shapes) -> int:
        """Counts no programs: there is nothing to capture."""
        return 0

    def release(self) -> None:
        """Does nothing: there are no programs to forget."""


def language_model_of(model: Any, image_token_id: int) -> LanguageModel:
    """Chooses the fastest way to answer with a language model of transformers.

    Args:
        model: the language model of a BLIP-2, in inference mode.
        image_token_id: the token that stands for a picture's in prompts.
    """
    on_one_device = len({parameter.device for parameter in model.parameters()}) == 1
    if model.config.model_type == "t5" and on_one_device:
        return T5LanguageModel(model)
    return TransformersLanguageModel(model, image_token_id)
