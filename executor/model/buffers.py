"""The tensors of one shape of batch, and the two programs that run on them: encode the prompts, take one step.

They are made anew for a batch, or once for all batches of a shape, whose programs are then captured: the code is the
same. Knows shapes and T5's two functions. It must not know how a search chooses tokens, nor options.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from executor.model.graphs import Capture, call_directly
from executor.model.shapes import Shape
from executor.model.t5 import T5


class PromptBatch(NamedTuple):
    """Holds the tokenised prompts of one batch on the device, as `Blip2Model.pad` makes them.

    Attributes:
        input_ids: int64 of shape (batch, length); each row begins with the picture's tokens, after padding on the left.
        attention_mask: int64 of shape (batch, length), 0 at padding and 1 elsewhere.
    """

    input_ids: Tensor
    attention_mask: Tensor


class PromptBuffers(NamedTuple):
    """Holds the tensors that `T5.encode` reads and writes, for one shape of batch.

    Attributes:
        features: of shape (batch, num_query_tokens, hidden), in T5's dtype.
        input_ids: int64 of shape (batch, length).
        attention_mask: int64 of shape (batch, length).
        cross_cache: as `T5.new_cross_cache` makes it.
        cross_bias: as `T5.new_cross_bias` makes it.
    """

    features: Tensor
    input_ids: Tensor
    attention_mask: Tensor
    cross_cache: Tensor
    cross_bias: Tensor


class BatchBuffers:
    """Holds all tensors with which one batch at a time is answered. It is a `search.Step` after `begin`.

    Args:
        t5: the model.
        shape: of the largest batch that fits.
        prompts: tensors for the prompts of such a batch.
        encode: runs `T5.encode` on `prompts`.
        self_cache: as `T5.new_self_cache` makes it for shape.batch x shape.beams rows.
        capture: makes the program of a step.
    """

    def __init__(
        self,
        t5: T5,
        shape: Shape,
        prompts: PromptBuffers,
        encode: Callable[[], Any],
        self_cache: Tensor,
        capture: Capture = call_directly,
    ) -> None:
        self._shape = shape
        self._prompts = prompts
        self._encode = encode
        self._self_cache = self_cache
        rows = shape.batch * shape.beams
        self._token_ids = torch.zeros(rows, dtype=torch.int64, device=t5.device)
        self._position = torch.zeros(1, dtype=torch.int64, device=t5.device)
        self._step = capture(
            t5.step, self._token_ids, self._position, self_cache, prompts.cross_cache, prompts.cross_bias
        )
        self._rows = rows

    def begin(self, features: Tensor, prompts: PromptBatch, pad_token_id: int) -> None:
        """Copies a batch into the buffers and encodes it. It may be smaller than they are.

        Args:
            features: of shape (batch, num_query_tokens, hidden).
            prompts: of shape (batch, length), padded on the right.
            pad_token_id: fills the rows behind shorter prompts.
        """
        batch, length = prompts.input_ids.shape
        for mine, theirs, padding in (
            (self._prompts.input_ids, prompts.input_ids, pad_token_id),
            (self._prompts.attention_mask, prompts.attention_mask, 0),
        ):
            mine[:batch, :length] = theirs
            mine[:, length:] = padding
        self._prompts.features[:batch] = features
        for tensor in self._prompts[:3]:
            tensor[batch:] = tensor[:1]  # rows of nobody: like a row of somebody
        # What an earlier batch left is masked, but 0 x NaN is NaN.
        self._self_cache.zero_()
        self._rows = batch * self._shape.beams
        self._encode()

    def __call__(self, token_ids: Tensor, position: int, parents: Tensor | None) -> Tensor:
        """Scores the next token of each row, as `search.Step` says."""
        if parents is not None:
            past = self._self_cache[:, :, : self._rows, :, :position]
            past.copy_(past.index_select(2, parents))
        self._token_ids[: self._rows] = token_ids
        self._position.fill_(position)
        logits: Tensor = self._step()
        return logits[: self._rows]
