"""Ways to answer that have a name, and how what is chosen in several places becomes one.

A preset stands for everything: the template and every option. So choosing one replaces whatever was chosen before it,
and options chosen in the same place or later are changes to it. Knows names and options. It must not know where they
were chosen.
"""

from collections.abc import Mapping
from typing import Any, Literal, NamedTuple, get_args

from executor.errors import DocumentError, ErrorCode
from executor.questions.options import GenerationOptions
from executor.questions.templates import VQA_TEMPLATE

PresetName = Literal["article", "paper", "caption"]


class Generation(NamedTuple):
    """Says how a document is answered.

    Attributes:
        prompt_template: what a bare question is put into, at its `{}`.
        options: how the model generates the answer.
    """

    prompt_template: str
    options: GenerationOptions

    def merged(self, *choices: Mapping[str, Any]) -> "Generation":
        """Puts `choices` on top of this, the last one winning.

        Args:
            choices: options by name, and `preset`, which replaces all that comes before it.

        Raises:
            DocumentError: `INVALID_OPTIONS` for an unknown name, a wrong type or a value out of range.
        """
        if not any(choices):
            return self
        base, changes = self, list[Mapping[str, Any]]()
        for choice in choices:
            if "preset" in choice:
                base, changes = _named(choice["preset"]), []
            changes.append({name: value for name, value in choice.items() if name != "preset"})
        return Generation(base.prompt_template, base.options.merged(*changes))


PRESETS: dict[PresetName, Generation] = {
    # The original article's program: transformers' plain `generate`.
    "article": Generation(VQA_TEMPLATE, GenerationOptions()),
    # The reference implementation's setting for visual question answering (LAVIS, `predict_answers`). Its min_length of
    # 1 counts T5's start token, so there is no shortest answer.
    "paper": Generation(
        "Question: {} Short answer:", GenerationOptions(num_beams=5, length_penalty=-1.0, max_new_tokens=10)
    ),
    # The reference implementation's setting for captions (LAVIS, `generate`). A caption's prompt is no bare question.
    "caption": Generation(VQA_TEMPLATE, GenerationOptions(num_beams=5, max_new_tokens=30)),
}


def _named(name: Any) -> Generation:
    for known, generation in PRESETS.items():
        if name == known:
            return generation
    raise DocumentError(ErrorCode.INVALID_OPTIONS, f"'preset' must be one of: {', '.join(get_args(PresetName))}.")
