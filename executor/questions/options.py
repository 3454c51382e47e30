"""Generation options: validated, hashable, with defaults.

One `GenerationOptions` is what a client may choose for a document. Documents with equal options travel in one batch,
so options are put into a canonical form: what has no effect does not split a batch.
"""

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from executor.errors import ErrorCode, RequestError
from executor.validation import explain

MOST_NEW_TOKENS = 256
"""In one answer. It bounds what a document can cost."""

MaxNewTokens = Annotated[int, Field(ge=1, le=MOST_NEW_TOKENS, description="longest answer, in tokens")]
MinNewTokens = Annotated[int, Field(ge=0, le=MOST_NEW_TOKENS, description="shortest answer, in tokens")]
NumBeams = Annotated[int, Field(ge=1, le=16, description="beams of the search; 1 is greedy")]
LengthPenalty = Annotated[
    float, Field(ge=-10, le=10, description="with beams: above 0 favours long answers, below 0 short ones")
]
RepetitionPenalty = Annotated[float, Field(ge=0.1, le=10, description="above 1 discourages repetition")]
NoRepeatNgramSize = Annotated[int, Field(ge=0, le=20, description="n-grams of this size occur once; 0 is off")]
DoSample = Annotated[
    bool, Field(description="draw tokens at random; unset: where `temperature`, `top_p` or `top_k` is given")
]
Temperature = Annotated[
    float, Field(ge=0.01, le=10, description="sampling: the distribution is flatter above 1 and sharper below")
]
TopP = Annotated[
    float, Field(gt=0, le=1, description="sampling: only the likeliest tokens that have this mass together")
]
TopK = Annotated[int, Field(ge=1, le=1000, description="sampling: only this many of the likeliest tokens")]
Seed = Annotated[
    int, Field(ge=0, lt=2**31, description="sampling: makes the answer repeatable, alone and in any batch")
]


class GenerationOptions(BaseModel):
    """How an answer is generated. The defaults are those of the original article: greedy, at most 20 new tokens.

    The meaning of each option is that of transformers' `GenerationConfig`. The ranges bound what one document can cost.
    Sampling is on where `do_sample` says so, or where it says nothing and `temperature`, `top_p` or `top_k` is given.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    max_new_tokens: MaxNewTokens = 20
    min_new_tokens: MinNewTokens = 0
    num_beams: NumBeams = 1
    length_penalty: LengthPenalty = 1.0
    repetition_penalty: RepetitionPenalty = 1.0
    no_repeat_ngram_size: NoRepeatNgramSize = 0
    do_sample: DoSample | None = None
    temperature: Temperature | None = None
    top_p: TopP | None = None
    top_k: TopK | None = None
    seed: Seed | None = None

    @model_validator(mode="after")
    def _agree(self) -> "GenerationOptions":
        if self.min_new_tokens > self.max_new_tokens:
            raise ValueError(f"min_new_tokens ({self.min_new_tokens}) is above max_new_tokens ({self.max_new_tokens})")
        if self.samples and self.num_beams > 1:
            raise ValueError("sampling (do_sample, temperature, top_p, top_k) needs num_beams 1")
        return self

    @property
    def samples(self) -> bool:
        """Whether tokens are drawn at random."""
        if self.do_sample is not None:
            return self.do_sample
        return any(value is not None for value in (self.temperature, self.top_p, self.top_k))

    def merged(self, *overrides: Mapping[str, Any]) -> "GenerationOptions":
        """These options with `overrides` on top, the last one winning.

        Raises:
            RequestError: `INVALID_OPTIONS` for an unknown name, a wrong type or a value out of range.
        """
        values = self.model_dump()
        for override in overrides:
            values |= override
        try:
            return GenerationOptions(**values)
        except ValidationError as error:
            options = ", ".join(GenerationOptions.model_fields)
            message = f"{explain(error)}. The options are: preset, {options}."
            raise RequestError(ErrorCode.INVALID_OPTIONS, message) from None

    def canonical(self) -> "GenerationOptions":
        """Equal for options that generate the same: what has no effect here is at its default.

        The last step: what has no effect now may have one once more options are merged.
        """
        without_effect: dict[str, Any] = {"do_sample": self.samples}
        if not self.samples:
            without_effect |= {"temperature": None, "top_p": None, "top_k": None, "seed": None}
        if self.num_beams == 1:
            without_effect |= {"length_penalty": 1.0}
        return self.model_copy(update=without_effect)

    def generate_kwargs(self) -> dict[str, Any]:
        """Arguments for transformers' `generate`, all of them explicit: a checkpoint's own defaults have no say.

        Sampling is not among them: that is `executor.model.sampling`'s, on top of a greedy search.
        """
        kwargs = self.model_dump(exclude={"do_sample", "temperature", "top_p", "top_k", "seed"})
        return kwargs | {"do_sample": False}


OPTION_NAMES = frozenset(GenerationOptions.model_fields)
