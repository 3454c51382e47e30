"""Random tokens against the distribution that they are drawn from."""

import pytest
import torch

from executor.model.sampling import RowwiseSampling
from executor.questions.options import GenerationOptions

ROWS = 4000
SCORES = torch.tensor([2.0, 1.0, 0.0, -1.0, -torch.inf, 1.5])
NO_INPUT_IDS = torch.empty(ROWS, 0, dtype=torch.long)


def shares(options: GenerationOptions) -> torch.Tensor:
    """How often each token is drawn for `ROWS` seeds."""
    sampling = RowwiseSampling(options, range(ROWS), torch.device("cpu"))
    drawn = sampling(NO_INPUT_IDS, SCORES.expand(ROWS, -1))
    assert torch.equal(drawn.isfinite().sum(-1), torch.ones(ROWS, dtype=torch.long))
    return torch.bincount(drawn.argmax(-1), minlength=len(SCORES)) / ROWS


# 4,000 draws: a share's standard deviation is at most 0.008.
@pytest.mark.parametrize(
    ("options", "scores"),
    [
        ({"temperature": 1.0}, SCORES),
        ({"temperature": 3.0}, SCORES / 3),
        ({"top_k": 2}, SCORES.where(SCORES > 1.2, -torch.inf)),
        ({"top_p": 0.7}, SCORES.where(SCORES > 1.2, -torch.inf)),
        ({"temperature": 0.5, "top_k": 3}, 2 * SCORES.where(SCORES > 0.5, -torch.inf)),
    ],
    ids=["plain", "flat", "top_k", "top_p", "both"],
)
def test_tokens_are_drawn_as_often_as_they_should(options, scores):
    torch.testing.assert_close(shares(GenerationOptions(**options)), scores.softmax(-1), atol=0.03, rtol=0)


def test_what_has_no_probability_is_never_drawn():
    assert shares(GenerationOptions(temperature=10.0))[4] == 0


def test_rows_without_a_seed_differ_from_each_other_and_from_time_to_time():
    drawn = [
        RowwiseSampling(GenerationOptions(), [None] * 100, torch.device("cpu"))(
            NO_INPUT_IDS[:100], torch.zeros(100, 1000)
        )
        for _ in range(2)
    ]
    assert len(drawn[0].argmax(-1).unique()) > 50
    assert not torch.equal(drawn[0], drawn[1])


def test_steps_draw_different_numbers():
    sampling = RowwiseSampling(GenerationOptions(), [1], torch.device("cpu"))
    tokens = {int(sampling(NO_INPUT_IDS[:1], torch.zeros(1, 1000)).argmax()) for _ in range(10)}
    assert len(tokens) > 5


def test_scores_that_are_not_numbers_do_not_point_outside_of_the_vocabulary():
    sampling = RowwiseSampling(GenerationOptions(), [1], torch.device("cpu"))
    assert sampling(NO_INPUT_IDS[:1], torch.full((1, 10), torch.nan)).shape == (1, 10)
