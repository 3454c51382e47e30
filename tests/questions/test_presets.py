import itertools

import pytest

from executor.errors import DocumentError, ErrorCode
from executor.questions.options import GenerationOptions
from executor.questions.presets import PRESETS, Generation
from executor.settings import Settings

ARTICLE, PAPER = PRESETS["article"], PRESETS["paper"]


def test_the_default_is_what_the_article_did():
    template, options = Settings.resolve({}).generation()
    assert template == "Question: {} Answer:"
    assert (options.num_beams, options.samples, options.max_new_tokens) == (1, False, 20)


def test_paper_is_the_references_setting_for_questions():
    template, options = ARTICLE.merged({"preset": "paper"})
    assert template == "Question: {} Short answer:"
    assert (options.num_beams, options.length_penalty, options.max_new_tokens) == (5, -1.0, 10)


def test_caption_is_the_references_setting_for_captions():
    options = ARTICLE.merged({"preset": "caption"}).options
    assert (options.num_beams, options.length_penalty, options.max_new_tokens) == (5, 1.0, 30)


PRESET_AT = {"service": "article", "request": "paper", "document": "caption"}
MAX_NEW_TOKENS_AT = {"service": 41, "request": 42, "document": 43}
WEAKEST_FIRST = [(place, kind) for place in PRESET_AT for kind in ("preset", "max_new_tokens")]


@pytest.mark.parametrize(
    "given", [given for size in range(1, 7) for given in itertools.combinations(WEAKEST_FIRST, size)], ids=str
)
def test_the_strongest_choice_counts(given):
    def choice(place: str) -> dict[str, object]:
        made = {"preset": PRESET_AT[place], "max_new_tokens": MAX_NEW_TOKENS_AT[place]}
        return {kind: value for kind, value in made.items() if (place, kind) in given}

    generation = Settings.resolve(choice("service")).generation().merged(choice("request"), choice("document"))
    place, kind = given[-1]
    if kind == "preset":
        assert generation == ARTICLE.merged({"preset": PRESET_AT[place]})
    else:
        assert generation.options.max_new_tokens == MAX_NEW_TOKENS_AT[place]


def test_a_preset_replaces_all_that_was_chosen_before_it():
    chosen = Generation("Q: {}", GenerationOptions(repetition_penalty=2.0)).merged(
        {"temperature": 0.7, "seed": 3}, {"preset": "paper"}
    )
    assert chosen == PAPER.merged()


def test_an_option_changes_that_one_value_of_the_preset():
    template, options = ARTICLE.merged({"max_new_tokens": 3, "preset": "paper"})
    assert template == PAPER.prompt_template
    assert options == PAPER.options.merged({"max_new_tokens": 3})


def test_an_option_without_a_preset_keeps_the_template():
    assert PAPER.merged({"max_new_tokens": 3}).prompt_template == PAPER.prompt_template


def test_a_document_can_sample_without_saying_so_twice():
    options = Settings.resolve({}).generation().merged({}, {"temperature": 0.7, "seed": 3}).options.canonical()
    assert (options.samples, options.temperature, options.seed) == (True, 0.7, 3)


@pytest.mark.parametrize("name", ["papers", "", None, 5.0, ["paper"], {"paper": 1}])
def test_an_unknown_preset_is_refused_with_the_known_ones(name):
    with pytest.raises(DocumentError, match="'preset' must be one of: article, paper, caption") as refused:
        ARTICLE.merged({"preset": name})
    assert refused.value.code is ErrorCode.INVALID_OPTIONS
