"""Generation options: validated, hashable, with defaults. The one place where an option is declared.

One `GenerationOptions` is what a client may choose for a document. Settings of the same names are derived from it, and
tests hold documents on the wire, config.yml and the documentation equal to it. Documents with equal options travel in
one batch, so options are put into a canonical form: what has no effect does not split a batch.
"""

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from executor.errors import DocumentError, ErrorCode
from executor.validation import describe_to_client

MOST_NEW_TOKENS = 256
"""In one answer: it bounds what a document can cost."""


class GenerationOptions(BaseModel):
    """Says how an answer is generated. The defaults are those of the original article: greedy, at most 20 new tokens.

    The meaning of each option is that of transformers' `GenerationConfig`. The ranges bound what one document can cost.
    Sampling is on where `do_sample` says so, or where it says nothing and `temperature`, `top_p` or `top_k` is given.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    max_new_tokens: int = Field(default=20, ge=1, le=MOST_NEW_TOKENS, description="longest answer, in tokens")
    min_new_tokens: int = Field(default=0, ge=0, le=MOST_NEW_TOKENS, description="shortest answer, in tokens")
    num_beams: int = Field(default=1, ge=1, le=16, description="beams of the search; 1 is greedy")
    length_penalty: float = Field(
        default=1.0, ge=-10, le=10, description="with beams: above 0 favours long answers, below 0 short ones"
    )
    repetition_penalty: float = Field(default=1.0, ge=0.1, le=10, description="above 1 discourages repetition")
    no_repeat_ngram_size: int = Field(default=0, ge=0, le=20, description="n-grams of this size occur once; 0 is off")
    do_sample: bool | None = Field(
        default=None,
        description="draw tokens at random; unset: where `temperature`, `top_p` or `top_k` is given",
    )
    temperature: float | None = Field(
        default=None,
        ge=0.01,
        le=10,
        description="sampling: the distribution is flatter above 1 and sharper below",
    )
    top_p: float | None = Field(
        default=None, gt=0, le=1, description="sampling: only the likeliest tokens that have this mass together"
    )
    top_k: int | None = Field(
        default=None, ge=1, le=1000, description="sampling: only this many of the likeliest tokens"
    )
    seed: int | None = Field(
        default=None, ge=0, lt=2**31, description="sampling: makes the answer repeatable, alone and in any batch"
    )

    @model_validator(mode="after")
    def _agree(self) -> "GenerationOptions":
        if self.min_new_tokens > self.max_new_tokens:
            raise ValueError(f"min_new_tokens ({self.min_new_tokens}) is above max_new_tokens ({self.max_new_tokens})")
        if self.samples and self.num_beams > 1:
            raise ValueError("sampling (do_sample, temperature, top_p, top_k) needs num_beams 1")
        return self

    @property
    def samples(self) -> bool:
        """Tells whether tokens are drawn at random."""
        if self.do_sample is not None:
            return self.do_sample
        return any(value is not None for value in (self.temperature, self.top_p, self.top_k))

    def merged(self, *overrides: Mapping[str, Any]) -> "GenerationOptions":
        """Returns these options with `overrides` on top, the last one winning.

        Raises:
            DocumentError: `INVALID_OPTIONS` for an unknown name, a wrong type or a value out of range.
        """
        values = self.model_dump()
        for override in overrides:
            values |= override
        try:
            return GenerationOptions(**values)
        except ValidationError as error:
            options = ", ".join(GenerationOptions.model_fields)
            message = f"{describe_to_client(error)}. The options are: preset, {options}."
            raise DocumentError(ErrorCode.INVALID_OPTIONS, message) from None

    def canonical(self) -> "GenerationOptions":
        """Returns equal options for those that generate the same: what has no effect here is at its default.

        The last step: what has no effect now may have one once more options are merged.
        """
        without_effect: dict[str, Any] = {"do_sample": self.samples}
        if not self.samples:
            without_effect |= {"temperature": None, "top_p": None, "top_k": None, "seed": None}
        if self.num_beams == 1:
            without_effect |= {"length_penalty": 1.0}
        return self.model_copy(update=without_effect)

    def generate_kwargs(self) -> dict[str, Any]:
        """Returns arguments for `generate` of transformers, all of them explicit: a checkpoint has no say.

        Sampling is not among them: that is `executor.model.sampling`'s, on top of a greedy search.
        """
        kwargs = self.model_dump(exclude={"do_sample", "temperature", "top_p", "top_k", "seed"})
        return kwargs | {"do_sample": False}


OPTION_NAMES = frozenset(GenerationOptions.model_fields)
