"""The shapes of batches for which programs are captured: few enough to capture all, many enough to waste little.

Knows numbers. It must not know tensors, nor what a program does.
"""

from dataclasses import dataclass
from typing import NamedTuple

_PROMPT_TOKENS = (16, 32, 64, 128)
"""A question of VQAv2 in its template has 10 to 30 tokens of Flan-T5, a dialogue of some turns up to 100."""

_NEW_TOKENS = 32
"""Beyond all presets; longer answers run without graphs."""


class Shape(NamedTuple):
    """Says how large one batch is.

    Attributes:
        batch: documents.
        length: tokens of a prompt, its picture's among them.
        beams: beams of each document.
        new_tokens: tokens of an answer, at most.
    """

    batch: int
    length: int
    beams: int
    new_tokens: int


@dataclass(frozen=True)
class Shapes:
    """Holds the shapes of all combinations of these numbers, each in ascending order.

    Attributes:
        batches: numbers of documents.
        lengths: tokens of a prompt, its picture's among them.
        beams: numbers of beams.
        new_tokens: longest answer, in tokens.
    """

    batches: tuple[int, ...]
    lengths: tuple[int, ...]
    beams: tuple[int, ...]
    new_tokens: int = _NEW_TOKENS

    @classmethod
    def up_to(cls, max_batch: int, picture_tokens: int, max_prompt_tokens: int, beams: set[int]) -> "Shapes":
        """Chooses powers of two of documents up to `max_batch`, and prompts up to `max_prompt_tokens` or 128 tokens.

        Args:
            max_batch: most documents in one batch.
            picture_tokens: tokens of a picture, in front of each prompt.
            max_prompt_tokens: longest prompt, in tokens, without them.
            beams: numbers of beams.
        """
        batches = [2**power for power in range(max_batch.bit_length()) if 2**power < max_batch]
        prompts = [tokens for tokens in _PROMPT_TOKENS if tokens < max_prompt_tokens]
        prompts += [_round_up(max_prompt_tokens)] if len(prompts) < len(_PROMPT_TOKENS) else []
        return cls((*batches, max_batch), tuple(picture_tokens + tokens for tokens in prompts), tuple(sorted(beams)))

    def fit(self, batch: int, length: int, beams: int, new_tokens: int) -> Shape | None:
        """Finds the smallest shape with room for a batch.

        Args:
            batch: documents.
            length: tokens of its longest prompt, its picture's among them.
            beams: beams of each document; a shape has exactly as many.
            new_tokens: longest answer, in tokens.

        Returns:
            The shape, or None where there is none.
        """
        fitting_batch = next((size for size in self.batches if size >= batch), None)
        fitting_length = next((size for size in self.lengths if size >= length), None)
        if fitting_batch is None or fitting_length is None or beams not in self.beams or new_tokens > self.new_tokens:
            return None
        return Shape(fitting_batch, fitting_length, beams, self.new_tokens)


def _round_up(tokens: int) -> int:
    # Kernels of attention want lengths that are multiples of 8.
    return -(-tokens // 8) * 8
