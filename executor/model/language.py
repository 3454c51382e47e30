"""The language model behind the pictures: from features and prompts to tokens.

`T5Text` is ours, with fixed shapes, graphs and a search that never waits. `OtherText` is transformers' own `generate`,
for decoder-only models (OPT) and for models spread over several devices. Both find the same tokens.
"""

import math
from collections.abc import Iterator, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor
from transformers import LogitsProcessorList

from executor.model.buffers import Prompts, PromptTensors, Workspace
from executor.model.finiteness import FiniteScores
from executor.model.graphs import Capture, call_directly
from executor.model.sampling import RowwiseSampling
from executor.model.search import Vocabulary, search
from executor.model.shapes import Shape, Shapes
from executor.model.stopwatch import Stopwatch
from executor.model.t5 import T5
from executor.questions.options import MOST_NEW_TOKENS, GenerationOptions


class Text(Protocol):
    """A language model that answers prompts about pictures."""

    def generate(
        self,
        features: Tensor,
        prompts: Prompts,
        options: GenerationOptions,
        seeds: Sequence[int | None],
        stopwatch: Stopwatch,
    ) -> Tensor:
        """Tokens of the answers, int64 of shape (batch, any), special ones among them.

        Args:
            features: of shape (batch, num_query_tokens, hidden).
            prompts: of shape (batch, length).
            options: the same for every row.
            seeds: one per row.
            stopwatch: told of the stages `prefill` and `decode`.

        Raises:
            RequestError: `MODEL_FAILED`, where the scores of any row are not finite.
        """


class T5Text:
    """T5, whose weights it shares with `model`.

    Args:
        model: a `T5ForConditionalGeneration` on one device.
    """

    def __init__(self, model: Any) -> None:
        self._t5 = T5(model, MOST_NEW_TOKENS)
        self._hidden = model.config.d_model
        self._vocabulary = Vocabulary(self._t5.start_token_id, self._t5.pad_token_id, self._t5.end_token_ids)
        self._shapes: Shapes | None = None
        self._captured: dict[Shape, Workspace] = {}

    def capture(self, shapes: Shapes, num_query_tokens: int, capture: Capture) -> Iterator[None]:
        """Captures the programs of all shapes, the largest first; yields after each pair of programs.

        A batch that fits into none of them goes on without. Nothing captured is used before all of them are.
        """
        self.release()
        captured: dict[Shape, Workspace] = {}
        batch, length, beams = shapes.batches[-1], shapes.lengths[-1], shapes.beams[-1]
        # One batch is answered at a time, so all shapes share the memory of the largest.
        largest = self._prompt_tensors(batch, length, num_query_tokens)
        largest_cache = self._t5.new_self_cache(batch * beams, shapes.new_tokens)
        for batch in reversed(shapes.batches):
            for length in reversed(shapes.lengths):
                prompt = PromptTensors(
                    *(
                        _part(tensor, like.shape)
                        for tensor, like in zip(
                            largest, self._prompt_tensors(batch, length, num_query_tokens, "meta"), strict=True
                        )
                    )
                )
                encode = capture(self._t5.encode, *prompt)
                for beams in shapes.beams:
                    shape = Shape(batch, length, beams, shapes.new_tokens)
                    rows = (*largest_cache.shape[:2], batch * beams, *largest_cache.shape[3:])
                    cache = _part(largest_cache, rows)
                    captured[shape] = Workspace(self._t5, shape, prompt, encode, cache, capture)
                    yield
        self._shapes, self._captured = shapes, captured

    def release(self) -> None:
        """Goes on without what was captured."""
        self._shapes, self._captured = None, {}

    def generate(
        self,
        features: Tensor,
        prompts: Prompts,
        options: GenerationOptions,
        seeds: Sequence[int | None],
        stopwatch: Stopwatch,
    ) -> Tensor:
        """See `Text`."""
        batch, length = prompts.input_ids.shape
        workspace = self._workspace(batch, length, features.shape[1], options)
        with stopwatch.measure("prefill"):
            workspace.begin(features, prompts, self._t5.pad_token_id)
        with stopwatch.measure("decode"):
            watch = FiniteScores()
            tokens, stopwatch.steps = search(workspace, batch, options, seeds, self._vocabulary, self._t5.device, watch)
        watch.check()
        return tokens

    def _workspace(self, batch: int, length: int, num_query_tokens: int, options: GenerationOptions) -> Workspace:
        beams, new_tokens = options.num_beams, options.max_new_tokens
        shape = self._shapes.fit(batch, length, beams, new_tokens) if self._shapes is not None else None
        if shape is not None:
            return self._captured[shape]
        prompt = self._prompt_tensors(batch, length, num_query_tokens)
        return Workspace(
            self._t5,
            Shape(batch, length, beams, new_tokens),
            prompt,
            call_directly(self._t5.encode, *prompt),
            self._t5.new_self_cache(batch * beams, new_tokens),
        )

    def _prompt_tensors(
        self, batch: int, length: int, num_query_tokens: int, device: torch.device | str | None = None
    ) -> PromptTensors:
        device = device or self._t5.device
        return PromptTensors(
            torch.zeros(batch, num_query_tokens, self._hidden, dtype=self._t5.dtype, device=device),
            torch.zeros(batch, length, dtype=torch.int64, device=device),
            torch.ones(batch, length, dtype=torch.int64, device=device),
            self._t5.new_cross_cache(batch, length, device),
            self._t5.new_cross_bias(batch, length, device),
        )


def _part(tensor: Tensor, shape: Sequence[int]) -> Tensor:
    """A smaller tensor in the memory of a larger one."""
    return tensor.flatten()[: math.prod(shape)].view(tuple(shape))


class OtherText:
    """Any language model of transformers.

    Args:
        model: encoder-decoder or decoder-only.
        image_token_id: in whose place pictures stand in prompts.
    """

    def __init__(self, model: Any, image_token_id: int) -> None:
        self._model = model
        self._image_token_id = image_token_id
        self._is_encoder_decoder = bool(model.config.is_encoder_decoder)

    def generate(
        self,
        features: Tensor,
        prompts: Prompts,
        options: GenerationOptions,
        seeds: Sequence[int | None],
        stopwatch: Stopwatch,
    ) -> Tensor:
        """See `Text`. All of it counts as `decode`."""
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


def text_of(model: Any, image_token_id: int) -> T5Text | OtherText:
    """The fastest way to answer with a language model of transformers.

    Args:
        model: the language model of a BLIP-2.
        image_token_id: in whose place pictures stand in prompts.
    """
    on_one_device = len({parameter.device for parameter in model.parameters()}) == 1
    if model.config.model_type == "t5" and on_one_device:
        return T5Text(model)
    return OtherText(model, image_token_id)
