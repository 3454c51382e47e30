"""Greedy search, sampling and beam search over a decoder that gives one step at a time.

Token for token what transformers' `generate` finds, with two differences: nothing here waits for the device within an
answer, and nothing is made anew in each step that need not be. Knows scores and tokens. It must not know models.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor
from transformers import (
    LogitsProcessor,
    LogitsProcessorList,
    MinNewTokensLengthLogitsProcessor,
    NoRepeatNGramLogitsProcessor,
    RepetitionPenaltyLogitsProcessor,
)

from executor.model.sampling import RowwiseSampling
from executor.questions.options import GenerationOptions

_NEVER = -1.0e9
"""The score of what must not be chosen; transformers' value, part of its arithmetic."""


class Step(Protocol):
    """Scores the next token of each row, given the last one."""

    def __call__(self, token_ids: Tensor, position: int, parents: Tensor | None) -> Tensor:
        """Takes one step.

        Args:
            token_ids: int64 tensor of shape (rows,): the last token of each row.
            position: of these tokens; 0 for the start token.
            parents: int64 tensor of shape (rows,): the row whose past each row continues; None: its own.

        Returns:
            Logits of shape (rows, vocabulary).
        """


@dataclass(frozen=True)
class Vocabulary:
    """Names the tokens that mean something to a search.

    Attributes:
        start: id of the token that every answer begins with.
        pad: id of the token behind the end of an answer.
        ends: ids of the tokens that end an answer.
    """

    start: int
    pad: int
    ends: Sequence[int]


def search(
    step: Step,
    rows: int,
    options: GenerationOptions,
    seeds: Sequence[int | None],
    vocabulary: Vocabulary,
    device: torch.device,
    watch: LogitsProcessor,
) -> tuple[Tensor, int]:
    """Finds the answers: greedily, by sampling or by beams, as the options say.

    Args:
        step: the decoder, at the beginning of `rows` answers, or of `rows` x `num_beams` ones.
        rows: number of documents.
        options: the same for all rows.
        seeds: one per row, for sampling.
        vocabulary: the special tokens.
        device: where scores are.
        watch: sees the scores of every step before all else.

    Returns:
        int64 tensor of shape (rows, 1 + max_new_tokens), the start token first, filled with padding; and the number of
        steps taken.
    """
    processors = LogitsProcessorList([watch, *_processors(options, vocabulary, device)])
    if options.num_beams > 1:
        return _beams(step, rows, options, processors, vocabulary, device)
    if options.samples:
        processors.append(RowwiseSampling(options, seeds, device))
    return _greedy(step, rows, options, processors, vocabulary, device)


def _processors(options: GenerationOptions, vocabulary: Vocabulary, device: torch.device) -> LogitsProcessorList:
    """In the order of transformers' `generate`."""
    processors = LogitsProcessorList()
    if options.repetition_penalty != 1.0:
        processors.append(RepetitionPenaltyLogitsProcessor(options.repetition_penalty))
    if options.no_repeat_ngram_size > 0:
        processors.append(NoRepeatNGramLogitsProcessor(options.no_repeat_ngram_size))
    if options.min_new_tokens > 0:
        ends = torch.tensor(vocabulary.ends, device=device)
        processors.append(MinNewTokensLengthLogitsProcessor(1, options.min_new_tokens, ends))
    return processors


def _greedy(
    step: Step,
    rows: int,
    options: GenerationOptions,
    processors: LogitsProcessorList,
    vocabulary: Vocabulary,
    device: torch.device,
) -> tuple[Tensor, int]:
    tokens = torch.full((rows, 1 + options.max_new_tokens), vocabulary.pad, device=device)
    tokens[:, 0] = vocabulary.start
    is_end = _is_end(vocabulary, device)
    open_rows = torch.ones(rows, dtype=torch.bool, device=device)
    end = _End(device)
    for position in range(options.max_new_tokens):
        scores = step(tokens[:, position], position, None).float()
        chosen = processors(tokens[:, : position + 1], scores).argmax(-1)  # type: ignore[arg-type]  # says LongTensor
        chosen = chosen.where(open_rows, vocabulary.pad)
        tokens[:, position + 1] = chosen
        open_rows &= ~is_end(chosen)
        if end.reached(open_rows):
            break
    return tokens, position + 1


def _beams(
    step: Step,
    rows: int,
    options: GenerationOptions,
    processors: LogitsProcessorList,
    vocabulary: Vocabulary,
    device: torch.device,
) -> tuple[Tensor, int]:
    beams, length = options.num_beams, 1 + options.max_new_tokens
    # Beside each beam's best continuation there must be one that does not end.
    candidates = beams * max(2, 1 + len(vocabulary.ends))
    is_end = _is_end(vocabulary, device)
    end = _End(device)
    first_of_document = torch.arange(0, rows * beams, beams, device=device).unsqueeze(1)
    among_best = torch.arange(candidates, device=device) < beams

    running = torch.full((rows, beams, length), vocabulary.pad, device=device)
    running[:, :, 0] = vocabulary.start
    running_scores = torch.zeros(rows, beams, device=device)
    running_scores[:, 1:] = _NEVER  # all beams are equal at first: only one of them may be continued
    finished = running.clone()
    finished_scores = torch.full((rows, beams), _NEVER, device=device)
    is_finished = torch.zeros(rows, beams, dtype=torch.bool, device=device)
    open_rows = torch.ones(rows, 1, dtype=torch.bool, device=device)
    parents: Tensor | None = None

    for position in range(options.max_new_tokens):
        flat = running.view(rows * beams, length)
        scores = step(flat[:, position], position, parents).float().log_softmax(-1)
        scores = processors(flat[:, : position + 1], scores)  # type: ignore[arg-type]  # says LongTensor
        totals = scores.view(rows, beams, -1) + running_scores.unsqueeze(-1)
        best_scores, best = totals.flatten(1).topk(candidates)
        parent, token = best // scores.shape[-1], best % scores.shape[-1]
        continued = _rows_of(running, parent)
        continued[:, :, position + 1] = token
        ends = is_end(token) if position + 1 < options.max_new_tokens else torch.ones_like(token, dtype=torch.bool)

        running_scores, chosen = (best_scores + ends * _NEVER).topk(beams)
        running = _rows_of(continued, chosen)
        parents = (first_of_document + parent.gather(1, chosen)).flatten()

        # What ends here is finished if it is among the best and its document is still open.
        length_factor = (position + 1) ** options.length_penalty
        just_finished = ends & among_best
        scored = best_scores / length_factor + ~open_rows * _NEVER + ~just_finished * _NEVER
        finished_scores, kept = torch.cat((finished_scores, scored), dim=1).topk(beams)
        finished = _rows_of(torch.cat((finished, continued), dim=1), kept)
        is_finished = torch.cat((is_finished, just_finished), dim=1).gather(1, kept)

        # A document is closed once the best that runs, if it ended here, would not be among its finished ones.
        worst = finished_scores.amin(1, keepdim=True).where(is_finished, _NEVER)
        open_rows = open_rows & (running_scores[:, :1] / length_factor > worst).any(1, keepdim=True)
        if end.reached(open_rows):
            break
    return finished[:, 0], position + 1


def _rows_of(sequences: Tensor, chosen: Tensor) -> Tensor:
    return sequences.gather(1, chosen.unsqueeze(-1).expand(-1, -1, sequences.shape[-1]))


def _is_end(vocabulary: Vocabulary, device: torch.device) -> Callable[[Tensor], Tensor]:
    if len(vocabulary.ends) == 1:
        return lambda tokens: tokens == vocabulary.ends[0]
    ends = torch.tensor(vocabulary.ends, device=device)
    return lambda tokens: torch.isin(tokens, ends)


class _End:
    """Whether all rows are closed, without making the device wait.

    On CUDA the question of one step is answered in the next: by then the device has the next step to work on, so that
    it never idles for the answer. The step too many changes no answer, since closed rows stay as they are.
    """

    def __init__(self, device: torch.device) -> None:
        self._is_cuda = device.type == "cuda"
        self._asked: tuple[Tensor, torch.cuda.Event] | None = None

    def reached(self, open_rows: Tensor) -> bool:
        if not self._is_cuda:
            return not open_rows.any()
        answered = self._asked
        still_open = torch.empty((), dtype=torch.bool, pin_memory=True)
        still_open.copy_(open_rows.any(), non_blocking=True)
        copied = torch.cuda.Event()
        copied.record()
        self._asked = (still_open, copied)
        if answered is None:
            return False
        answered[1].synchronize()
        return not answered[0].item()
