"""The checkpoint on its device: encodes pictures, generates text.

Knows torch and transformers; knows nothing of Jina, of requests or of queues. `tokenize` belongs to one thread,
`encode_images` and `generate` to one other; `pad` and `upload` may run on any.
"""

import copy
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from transformers import LogitsProcessorList

from .checkpoint import Checkpoint
from .errors import ErrorCode, RequestError, StartupError
from .generation import GenerationOptions
from .sampling import RowwiseSampling

_LONGEST_PIECE = 16
"""Characters; SentencePiece's default `max_sentencepiece_length`. Text is measured by it before it is tokenised."""


class PaddedPrompts(NamedTuple):
    """Prompts of one batch, the picture's tokens first: int64 tensors of shape (batch, length) on the device."""

    input_ids: torch.Tensor
    attention_mask: torch.Tensor


class Blip2Model:
    """BLIP-2 for a batch of pictures and prompts.

    The same document gives the same answer alone and in any batch (exactly in float32): rows are padded on the right
    for encoder-decoder models and on the left, before the picture, for decoder-only ones.

    Args:
        checkpoint: from `executor.checkpoint.load`.
        max_prompt_tokens: longest prompt, in tokens, without the picture's.

    Attributes:
        device: where the checkpoint is.
        image_size: (height, width) in pixels of the pictures.
        resample: Pillow's filter with which they were resized.
    """

    def __init__(self, checkpoint: Checkpoint, max_prompt_tokens: int) -> None:
        self._model = checkpoint.model
        self._tokenizer = checkpoint.processor.tokenizer
        # A fast tokenizer refuses to encode in one thread while another one decodes ("Already borrowed").
        self._decoder = copy.deepcopy(self._tokenizer)
        self.device = checkpoint.device
        self._max_prompt_tokens = max_prompt_tokens
        self._language_model = self._model.language_model
        self._is_encoder_decoder = bool(self._language_model.config.is_encoder_decoder)
        self._image_token_id = checkpoint.image_token_id
        self._num_query_tokens = self._model.config.num_query_tokens
        self._pad_token_id = self._tokenizer.pad_token_id
        image_processor = checkpoint.processor.image_processor
        self.image_size = _size(image_processor)
        self.resample = int(image_processor.resample)
        self._normalised = _normalised_levels(image_processor).to(self.device)

    def tokenize(self, prompt: str) -> list[int]:
        """Token ids of a prompt, with the tokenizer's own begin and end. One thread at a time, beside `generate`'s.

        Special tokens in the text (`<image>`, `</s>`, `<pad>`) are read as plain text.

        Raises:
            RequestError: `PROMPT_TOO_LONG`.
        """
        token_ids: list[int] = []
        if len(prompt) <= self._max_prompt_tokens * _LONGEST_PIECE:
            token_ids = self._tokenizer(prompt, split_special_tokens=True).input_ids
        if not 0 < len(token_ids) <= self._max_prompt_tokens:
            raise RequestError(
                ErrorCode.PROMPT_TOO_LONG,
                f"the prompt has more than {self._max_prompt_tokens} tokens (max_prompt_tokens); send a shorter one.",
            )
        return token_ids

    def pad(self, prompts: Sequence[Sequence[int]]) -> PaddedPrompts:
        """Token ids from `tokenize`, one row each, on the device."""
        picture = [self._image_token_id] * self._num_query_tokens
        length = len(picture) + max(len(prompt) for prompt in prompts)
        ids, mask = [], []
        for prompt in prompts:
            row = [*picture, *prompt]
            padding = length - len(row)
            if self._is_encoder_decoder:
                ids.append(row + [self._pad_token_id] * padding)
                mask.append([1] * len(row) + [0] * padding)
            else:
                ids.append([self._pad_token_id] * padding + row)
                mask.append([0] * padding + [1] * len(row))
        return PaddedPrompts(self.upload(torch.tensor(ids)), self.upload(torch.tensor(mask)))

    def upload(self, tensor: torch.Tensor) -> torch.Tensor:
        """`tensor` on the device. To CUDA through pinned memory, so that the calling thread does not wait for it."""
        if self.device.type != "cuda":
            return tensor.to(self.device)
        return tensor.pin_memory().to(self.device, non_blocking=True)

    @torch.inference_mode()
    def encode_images(self, pixels: torch.Tensor) -> torch.Tensor:
        """What the language model sees of each picture.

        Args:
            pixels: uint8 tensor of shape (batch, 3, height, width).

        Returns:
            Tensor of shape (batch, num_query_tokens, hidden), in the language model's dtype, on the device.
        """
        levels = pixels.to(self.device, torch.int64)
        channels = torch.arange(3, device=self.device).view(1, 3, 1, 1)
        pixel_values = self._normalised[channels, levels].to(self._model.vision_model.dtype)
        features: torch.Tensor = self._model.get_image_features(pixel_values).pooler_output
        return features.to(self._language_model.get_input_embeddings().weight.dtype)

    @torch.inference_mode()
    def generate(
        self,
        features: torch.Tensor,
        prompts: PaddedPrompts,
        options: GenerationOptions,
        seeds: Sequence[int | None] | None = None,
    ) -> list[str]:
        """One answer per row.

        Args:
            features: from `encode_images`, one row per prompt.
            prompts: from `pad`.
            options: the same for every row.
            seeds: for each row what its random numbers depend on, instead of `options.seed`.

        Returns:
            Answers without special tokens and surrounding white space.
        """
        input_ids, attention_mask = prompts
        embeddings = self._language_model.get_input_embeddings()(input_ids)
        is_image = torch.eq(input_ids, self._image_token_id).unsqueeze(-1)
        inputs: dict[str, Any] = {
            "inputs_embeds": embeddings.masked_scatter(is_image, features),
            "attention_mask": attention_mask,
        }
        if not self._is_encoder_decoder:
            # As in `Blip2ForConditionalGeneration.generate`: penalties on repetition see the prompt. They must not see
            # padding, which depends on the batch, so it looks like more of the picture, which every row has.
            inputs["input_ids"] = input_ids.where(attention_mask.bool(), self._image_token_id)
        if options.samples:
            row_seeds = seeds if seeds is not None else [options.seed] * len(input_ids)
            inputs["logits_processor"] = LogitsProcessorList([RowwiseSampling(options, row_seeds, self.device)])
        tokens = self._language_model.generate(**inputs, **options.generate_kwargs())
        if not self._is_encoder_decoder:
            tokens = tokens[:, input_ids.shape[1] :]
        return [answer.strip() for answer in self._decoder.batch_decode(tokens, skip_special_tokens=True)]


def _size(image_processor: Any) -> tuple[int, int]:
    steps = ("do_convert_rgb", "do_resize", "do_rescale", "do_normalize")
    unsupported = not all(getattr(image_processor, step) for step in steps)
    size = image_processor.size
    if unsupported or getattr(image_processor, "do_center_crop", None) or not (size.height and size.width):
        raise StartupError(
            "the checkpoint's image processor is not BLIP-2's: it must convert to RGB, resize to a height and a width, "
            "rescale and normalise, and nothing else"
        )
    return size.height, size.width


def _normalised_levels(image_processor: Any) -> torch.Tensor:
    """The image processor's value for each channel and grey level: float32 of shape (3, 256).

    A table made by the processor itself is exact on every device, whatever the arithmetic there.
    """
    levels = np.broadcast_to(np.arange(256, dtype=np.uint8), (3, 1, 256))
    rescaled = image_processor.rescale(levels, image_processor.rescale_factor)
    normalised = image_processor.normalize(rescaled, image_processor.image_mean, image_processor.image_std)
    return torch.from_numpy(np.asarray(normalised, dtype=np.float32).reshape(3, 256))
