"""Pictures -> features: the image encoder, the Q-Former and the projection, in one program per size of batch.

Knows the checkpoint's image half. It must not know prompts, nor how pictures were decoded.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from executor.model.graphs import Capture


class Vision:
    """Encodes pictures into what the language model sees of them.

    Args:
        model: a `Blip2ForConditionalGeneration`, in inference mode.
        image_processor: its own, for the values of pixels.
        device: where pictures are.
    """

    def __init__(self, model: Any, image_processor: Any, device: torch.device) -> None:
        self._model = model
        self._device = device
        self._normalised = normalised_levels(image_processor).to(device)
        self._channels = torch.arange(3, device=device).view(1, 3, 1, 1)
        self._captured: dict[int, tuple[Tensor, Callable[[], Tensor]]] = {}

    def encode(self, pixels: Tensor) -> Tensor:
        """Encodes a batch of pictures.

        Args:
            pixels: uint8 tensor of shape (batch, 3, height, width).

        Returns:
            Tensor of shape (batch, num_query_tokens, hidden), in the language model's dtype, on the device. It may be a
            program's own, which the next call writes again.
        """
        batch = len(pixels)
        size = min((size for size in self._captured if size >= batch), default=None)
        if size is None:
            return self._encode(pixels.to(self._device))
        static, run = self._captured[size]
        static[:batch] = pixels
        static[batch:] = static[:1]
        return run()[:batch]

    def capture(self, batches: Sequence[int], image_size: tuple[int, int], capture: Capture) -> Iterator[None]:
        """Captures a program for each size of batch, the largest first; yields after each.

        They are used once all of them are there.

        Args:
            batches: numbers of pictures.
            image_size: (height, width) in pixels of the pictures.
            capture: makes each program.
        """
        self.release()
        captured = {}
        for batch in sorted(batches, reverse=True):
            static = torch.zeros(batch, 3, *image_size, dtype=torch.uint8, device=self._device)
            captured[batch] = (static, capture(self._encode, static))
            yield
        self._captured = captured

    def programs(self, batches: Sequence[int]) -> int:
        """Counts how often `capture` yields: once for each size of batch."""
        return len(batches)

    def release(self) -> None:
        """Forgets the captured programs, and goes on without."""
        self._captured = {}

    def _encode(self, pixels: Tensor) -> Tensor:
        pixel_values = self._normalised[self._channels, pixels.to(torch.int64)].to(self._model.vision_model.dtype)
        patches = self._model.vision_model(pixel_values=pixel_values).last_hidden_state
        # As `Blip2ForConditionalGeneration.get_image_features`, less a mask of ones over the patches: transformers
        # looks at its values to find that it masks nothing, and the device would have to be waited for.
        queries = self._model.qformer(
            query_embeds=self._model.query_tokens.expand(len(pixels), -1, -1), encoder_hidden_states=patches
        ).last_hidden_state
        features: Tensor = self._model.language_projection(queries.to(patches.dtype))
        return features.to(self._model.language_model.get_input_embeddings().weight.dtype)


def normalised_levels(image_processor: Any) -> Tensor:
    """Tabulates the image processor's value for each channel and grey level.

    A table made by the processor itself is exact on every device, whatever the arithmetic there.

    Returns:
        float32 tensor of shape (3, 256) on the CPU.
    """
    levels = np.broadcast_to(np.arange(256, dtype=np.uint8), (3, 1, 256))
    rescaled = image_processor.rescale(levels, image_processor.rescale_factor)
    normalised = image_processor.normalize(rescaled, image_processor.image_mean, image_processor.image_std)
    return torch.from_numpy(np.asarray(normalised, dtype=np.float32).reshape(3, 256))
