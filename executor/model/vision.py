"""Pictures -> features: the image encoder, the Q-Former and the projection, in one program per size of batch.

Knows the checkpoint's image half; knows nothing of prompts.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from executor.model.graphs import Capture


class Vision:
    """What the language model sees of pictures.

    Args:
        model: a `Blip2ForConditionalGeneration`.
        image_processor: its own, for the values of pixels.
        device: of the pictures.
    """

    def __init__(self, model: Any, image_processor: Any, device: torch.device) -> None:
        self._model = model
        self._device = device
        self._normalised = normalised_levels(image_processor).to(device)
        self._channels = torch.arange(3, device=device).view(1, 3, 1, 1)
        self._captured: dict[int, tuple[Tensor, Callable[[], Tensor]]] = {}

    def encode(self, pixels: Tensor) -> Tensor:
        """Features of pictures.

        Args:
            pixels: uint8 of shape (batch, 3, height, width).

        Returns:
            Of shape (batch, num_query_tokens, hidden), in the language model's dtype; a program's own tensor, which the
            next call may write again.
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
        """Captures a program for each size of batch, the largest first; yields after each. Used once all are there."""
        self.release()
        captured = {}
        for batch in sorted(batches, reverse=True):
            static = torch.zeros(batch, 3, *image_size, dtype=torch.uint8, device=self._device)
            captured[batch] = (static, capture(self._encode, static))
            yield
        self._captured = captured

    def release(self) -> None:
        """Goes on without what was captured."""
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
    """The image processor's value for each channel and grey level: float32 of shape (3, 256).

    A table made by the processor itself is exact on every device, whatever the arithmetic there.
    """
    levels = np.broadcast_to(np.arange(256, dtype=np.uint8), (3, 1, 256))
    rescaled = image_processor.rescale(levels, image_processor.rescale_factor)
    normalised = image_processor.normalize(rescaled, image_processor.image_mean, image_processor.image_std)
    return torch.from_numpy(np.asarray(normalised, dtype=np.float32).reshape(3, 256))
