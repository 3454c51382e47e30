"""Drawing tokens at random, each row of a batch with random numbers of its own.

transformers draws for a whole batch from one generator, so that an answer depends on its neighbours. Here the random
numbers of a row depend on its seed alone, whatever it travels with. Knows scores. It must not know models or texts.
"""

from collections.abc import Sequence

import torch
from transformers import (
    LogitsProcessor,
    LogitsProcessorList,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from executor.questions.options import GenerationOptions


class RowwiseSampling(LogitsProcessor):
    """Leaves of each row's scores one token, drawn at random. It is the last processor of a greedy search.

    Args:
        options: `temperature`, `top_k` and `top_p`, applied in this order as transformers does; and `max_new_tokens`,
            the most steps.
        seeds: one per row; a row without one is drawn anew each time.
        device: where scores are.
    """

    def __init__(self, options: GenerationOptions, seeds: Sequence[int | None], device: torch.device) -> None:
        self._warpers = LogitsProcessorList()
        if options.temperature is not None:
            self._warpers.append(TemperatureLogitsWarper(options.temperature))
        if options.top_k is not None:
            self._warpers.append(TopKLogitsWarper(options.top_k))
        if options.top_p is not None:
            self._warpers.append(TopPLogitsWarper(options.top_p))
        # On the CPU and for all steps at once: the same numbers on every device, and one copy instead of one per token.
        uniform = [_uniform(seed, options.max_new_tokens) for seed in seeds]
        self._uniform = torch.stack(uniform, dim=1).unsqueeze(-1).to(device)
        self._step = 0

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """Draws the next token of each row.

        Args:
            input_ids: int64 tensor of shape (batch, length).
            scores: tensor of shape (batch, vocabulary).

        Returns:
            Scores with 0 at the drawn token of each row and minus infinity elsewhere.
        """
        # The inverse of the cumulative distribution, in float64: 32,000 float32 terms would lose the rarest tokens.
        warped: torch.Tensor = self._warpers(input_ids, scores)  # type: ignore[arg-type]  # says LongTensor
        mass = warped.double().softmax(-1).cumsum(-1)
        drawn = torch.searchsorted(mass, self._uniform[self._step] * mass[:, -1:], right=True)
        self._step += 1
        # Scores that are not numbers must not become an index outside: on CUDA that would lose the device.
        drawn = drawn.clamp(max=scores.shape[-1] - 1)
        return torch.full_like(scores, -torch.inf).scatter_(1, drawn, 0.0)


def _uniform(seed: int | None, count: int) -> torch.Tensor:
    """float64 of shape (count,), from 0 to below 1."""
    generator = torch.Generator()
    if seed is None:
        generator.seed()
    else:
        generator.manual_seed(seed)
    return torch.rand(count, generator=generator, dtype=torch.float64)
