"""The tensors of one shape of batch, and the two programs that run on them: encode the prompts, take one step.

Made anew for a batch, or once for all batches of a shape, whose programs are then captured: the code is the same.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from executor.model.graphs import Capture, call_directly
from executor.model.shapes import Shape
from executor.model.t5 import T5


class Prompts(NamedTuple):
    """Prompts of one batch, the picture's tokens first: int64 tensors of shape (batch, length) on the device."""

    input_ids: Tensor
    attention_mask: Tensor


class PromptTensors(NamedTuple):
    """What `T5.encode` takes, for one shape of batch."""

    features: Tensor
    input_ids: Tensor
    attention_mask: Tensor
    cross_cache: Tensor
    cross_bias: Tensor


class Workspace:
    """Where one batch is answered; a `search.Step` once it has begun.

    Args:
        t5: the model.
        shape: of the batch.
        prompt: tensors of this shape.
        encode: the program on them.
        self_cache: as `T5.new_self_cache` makes it.
        capture: makes the program of a step.
    """

    def __init__(
        self,
        t5: T5,
        shape: Shape,
        prompt: PromptTensors,
        encode: Callable[[], Any],
        self_cache: Tensor,
        capture: Capture = call_directly,
    ) -> None:
        self._shape = shape
        self._prompt = prompt
        self._encode = encode
        self._self_cache = self_cache
        rows = shape.batch * shape.beams
        self._token_ids = torch.zeros(rows, dtype=torch.int64, device=t5.device)
        self._position = torch.zeros(1, dtype=torch.int64, device=t5.device)
        self._step = capture(
            t5.step, self._token_ids, self._position, self_cache, prompt.cross_cache, prompt.cross_bias
        )
        self._rows = rows

    def begin(self, features: Tensor, prompts: Prompts, pad_token_id: int) -> None:
        """Encodes a batch, which may be smaller than the workspace.

        Args:
            features: of shape (batch, num_query_tokens, hidden).
            prompts: of shape (batch, length).
            pad_token_id: behind shorter prompts.
        """
        batch, length = prompts.input_ids.shape
        for mine, theirs, padding in (
            (self._prompt.input_ids, prompts.input_ids, pad_token_id),
            (self._prompt.attention_mask, prompts.attention_mask, 0),
        ):
            mine[:batch, :length] = theirs
            mine[:, length:] = padding
        self._prompt.features[:batch] = features
        for tensor in self._prompt[:3]:
            tensor[batch:] = tensor[:1]  # rows of nobody: like a row of somebody
        # What an earlier batch left is masked, but 0 x NaN is NaN.
        self._self_cache.zero_()
        self._rows = batch * self._shape.beams
        self._encode()

    def __call__(self, token_ids: Tensor, position: int, parents: Tensor | None) -> Tensor:
        """One step; see `search.Step`."""
        if parents is not None:
            past = self._self_cache[:, :, : self._rows, :, :position]
            past.copy_(past.index_select(2, parents))
        self._token_ids[: self._rows] = token_ids
        self._position.fill_(position)
        logits: Tensor = self._step()
        return logits[: self._rows]
