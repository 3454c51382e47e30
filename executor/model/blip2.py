"""The checkpoint on its device: encodes pictures, generates text.

Knows torch and transformers. It must not know Jina, requests or queues. `tokenize` belongs to one thread,
`encode_images` and `generate` to one other. `pad` and the uploads may run on any.
"""

import copy
import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch

from executor.checkpoints.loading import Checkpoint
from executor.errors import DocumentError, ErrorCode, StartupError
from executor.model.buffers import PromptBatch
from executor.model.graphs import Capture
from executor.model.language import language_model_of
from executor.model.shapes import Shapes
from executor.model.stopwatch import Stopwatch
from executor.model.vision import Vision
from executor.questions.options import GenerationOptions

_LONGEST_PIECE = 16
"""Characters; SentencePiece's default `max_sentencepiece_length`. Text is measured by it before it is tokenised."""


def use_threads(asked: int, cores: int) -> int:
    """Has PyTorch compute with so many threads on a CPU, in the whole process.

    Args:
        asked: number of threads; 0 is `OMP_NUM_THREADS` of the environment, and `cores` where that is not set.
        cores: that this process may use.

    Returns:
        The number of threads that PyTorch has now.
    """
    if asked or "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(asked or cores)
    return torch.get_num_threads()


class Blip2Model:
    """Answers prompts about pictures with BLIP-2, in batches.

    The same document gives the same answer alone and in any batch (exactly in float32): rows are padded on the right
    for encoder-decoder models and on the left, before the picture, for decoder-only ones.

    Args:
        checkpoint: from `executor.checkpoints.loading.load`.
        max_prompt_tokens: longest prompt, in tokens, without the picture's.

    Attributes:
        device: where the checkpoint is; of one that is spread, where it begins.
        dtype: of its weights.
        is_quantized: whether its linear layers are bitsandbytes'.
        is_spread: whether it is on more than one device.
        max_prompt_tokens: as given.
        num_query_tokens: tokens of a picture, in front of each prompt.
        image_size: (height, width) in pixels of the pictures.
        resample: Pillow's filter with which they were resized.

    Raises:
        StartupError: the checkpoint's image processor is not BLIP-2's.
    """

    def __init__(self, checkpoint: Checkpoint, max_prompt_tokens: int) -> None:
        model = checkpoint.model
        self._tokenizer = checkpoint.processor.tokenizer
        # A fast tokenizer refuses to encode in one thread while another one decodes ("Already borrowed").
        self._detokenizer = copy.deepcopy(self._tokenizer)
        self.device = checkpoint.device
        self.dtype = checkpoint.dtype
        self.is_quantized = checkpoint.is_quantized
        self.is_spread = len({parameter.device for parameter in model.parameters()}) > 1
        self.max_prompt_tokens = max_prompt_tokens
        self._is_encoder_decoder = bool(model.language_model.config.is_encoder_decoder)
        self._image_token_id = checkpoint.image_token_id
        self.num_query_tokens = int(model.config.num_query_tokens)
        self._pad_token_id = self._tokenizer.pad_token_id
        image_processor = checkpoint.processor.image_processor
        self.image_size = _image_size(image_processor)
        self.resample = int(image_processor.resample)
        self._vision = Vision(model, image_processor, self.device)
        self._language_model = language_model_of(model.language_model, self._image_token_id)

    def tokenize(self, prompt: str) -> list[int]:
        """Splits a prompt into token ids, with the tokenizer's own begin and end.

        Special tokens in the text (`<image>`, `</s>`, `<pad>`) are read as plain text. Called on one thread at a time,
        which may be another than `generate`'s.

        Raises:
            DocumentError: `PROMPT_TOO_LONG`, where there are more than `max_prompt_tokens`.
        """
        token_ids: list[int] = []
        if len(prompt) <= self.max_prompt_tokens * _LONGEST_PIECE:
            token_ids = self._tokenizer(prompt, split_special_tokens=True).input_ids
        if not 0 < len(token_ids) <= self.max_prompt_tokens:
            raise DocumentError(
                ErrorCode.PROMPT_TOO_LONG,
                f"the prompt has more than {self.max_prompt_tokens} tokens (max_prompt_tokens); send a shorter one.",
            )
        return token_ids

    def pad(self, prompts: Sequence[Sequence[int]]) -> PromptBatch:
        """Makes one batch of several prompts, on the device.

        Args:
            prompts: token ids of each, from `tokenize`.
        """
        picture = [self._image_token_id] * self.num_query_tokens
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
        return PromptBatch(self.upload(torch.tensor(ids)), self.upload(torch.tensor(mask)))

    def upload_pictures(self, pictures: Sequence[torch.Tensor]) -> torch.Tensor:
        """Copies pictures as one batch to the device.

        Args:
            pictures: uint8 tensors of shape (3, height, width) on the CPU.

        Returns:
            uint8 tensor of shape (batch, 3, height, width).
        """
        # Pinned memory comes from PyTorch's own pool, which keeps it for the next batch.
        shape = (len(pictures), *pictures[0].shape)
        batch = torch.empty(shape, dtype=torch.uint8, pin_memory=self.device.type == "cuda")
        torch.stack(list(pictures), out=batch)
        return batch.to(self.device, non_blocking=True)

    def upload(self, tensor: torch.Tensor) -> torch.Tensor:
        """Copies a tensor to the device: to CUDA through pinned memory, so that the calling thread does not wait."""
        if self.device.type != "cuda":
            return tensor.to(self.device)
        return tensor.pin_memory().to(self.device, non_blocking=True)

    @torch.inference_mode()
    def encode_images(self, pixels: torch.Tensor) -> torch.Tensor:
        """Encodes pictures into what the language model sees of them.

        Args:
            pixels: uint8 tensor of shape (batch, 3, height, width).

        Returns:
            Tensor of shape (batch, num_query_tokens, hidden), in the language model's dtype, on the device. The next
            call may overwrite it.
        """
        return self._vision.encode(pixels)

    @torch.inference_mode()
    def generate(
        self,
        features: torch.Tensor,
        prompts: PromptBatch,
        options: GenerationOptions,
        seeds: Sequence[int | None] | None = None,
        stopwatch: Stopwatch | None = None,
    ) -> list[str]:
        """Answers each prompt of a batch.

        Args:
            features: from `encode_images`, one row per prompt: of shape (batch, num_query_tokens, hidden).
            prompts: from `pad`.
            options: the same for every row.
            seeds: for each row what its random numbers depend on, instead of `options.seed`.
            stopwatch: measures the stages, and is told the steps and tokens.

        Returns:
            One answer per row, without special tokens and surrounding white space.

        Raises:
            DocumentError: `MODEL_FAILED`, where the scores of any row are not finite.
        """
        stopwatch = stopwatch or Stopwatch(self.device)
        tokens = self._language_model.generate(
            features,
            prompts,
            options,
            seeds if seeds is not None else [options.seed] * len(features),
            stopwatch,
        ).cpu()
        generated = tokens[:, 1:] if self._is_encoder_decoder else tokens  # less the start token
        stopwatch.tokens = int((generated != self._pad_token_id).sum())
        return [answer.strip() for answer in self._detokenizer.batch_decode(tokens, skip_special_tokens=True)]

    def capture(self, shapes: Shapes, capture: Capture) -> Iterator[None]:
        """Captures programs for batches of these shapes; yields as often as `programs` says.

        They are used once all of them are there.

        Args:
            shapes: of the batches.
            capture: makes each program.
        """
        with torch.inference_mode():
            yield from self._vision.capture(shapes.batches, self.image_size, capture)
            yield from self._language_model.capture(shapes, self.num_query_tokens, capture)

    def programs(self, shapes: Shapes) -> int:
        """Counts how often `capture` yields for these shapes."""
        return self._vision.programs(shapes.batches) + self._language_model.programs(shapes)

    def memory(self) -> tuple[Callable[[], int], Callable[[], int]] | None:
        """Gives two functions that tell how many bytes of CUDA's memory PyTorch holds, and how many there are.

        Neither waits for the device, so both may be called on any thread at any time.

        Returns:
            The two, in this order; None on a CPU.
        """
        if self.device.type != "cuda":
            return None
        total = int(torch.cuda.get_device_properties(self.device).total_memory)
        return lambda: torch.cuda.memory_reserved(self.device), lambda: total

    def release(self) -> None:
        """Forgets the captured programs, and goes on without."""
        self._vision.release()
        self._language_model.release()

    def answer_blank(self, batch: int, options: GenerationOptions) -> None:
        """Answers a question about black pictures, so that everything has run once.

        Args:
            batch: number of pictures.
            options: of the answers.
        """
        pictures = self.upload_pictures([torch.zeros(3, *self.image_size, dtype=torch.uint8)] * batch)
        self.generate(self.encode_images(pictures), self.pad([self.tokenize("a")] * batch), options)


def _image_size(image_processor: Any) -> tuple[int, int]:
    steps = ("do_convert_rgb", "do_resize", "do_rescale", "do_normalize")
    unsupported = not all(getattr(image_processor, step) for step in steps)
    size = image_processor.size
    if unsupported or getattr(image_processor, "do_center_crop", None) or not (size.height and size.width):
        raise StartupError(
            "the checkpoint's image processor is not BLIP-2's: it must convert to RGB, resize to a height and a width, "
            "rescale and normalise, and nothing else"
        )
    return size.height, size.width
