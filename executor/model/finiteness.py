"""Whether the model's numbers stayed numbers.

One document whose scores are not finite (an overflow in half precision, a damaged weight) would be answered with
whatever token comes first, and nobody would know. Knows scores. It must not know models.
"""

from typing import Any

import torch
from transformers import LogitsProcessor

from executor.errors import DocumentError, ErrorCode


class FiniteScores(LogitsProcessor):
    """Looks at the scores of every step and changes none. It does not wait for the device until `check`."""

    def __init__(self) -> None:
        self._is_broken: torch.Tensor | None = None

    def __call__(self, input_ids: Any, scores: torch.Tensor) -> torch.Tensor:
        """Notes the rows whose scores are not finite, and returns the scores as they are.

        Args:
            input_ids: not looked at.
            scores: of shape (rows, vocabulary).
        """
        is_broken = ~scores.amax(-1).isfinite()  # the largest is NaN where any is
        self._is_broken = is_broken if self._is_broken is None else self._is_broken | is_broken
        return scores

    def check(self) -> None:
        """Checks, after the last step, that all scores were finite. It waits for the device.

        Raises:
            DocumentError: `MODEL_FAILED`, where any row's scores were not finite.
        """
        if self._is_broken is not None and self._is_broken.any():
            raise DocumentError(
                ErrorCode.MODEL_FAILED,
                "the model's numbers overflowed on this document; ask about another picture, or have the service run "
                "in bfloat16 or float32 (dtype).",
            )
