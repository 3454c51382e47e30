import pytest

from executor.errors import DocumentError, ErrorCode
from executor.questions.templates import VQA_TEMPLATE, render


def test_bare_question_is_put_into_the_template():
    assert render("how many cats are there?") == "Question: how many cats are there? Answer:"
    assert render("  how many cats are there ? \n") == "Question: how many cats are there ? Answer:"


def test_template_can_be_chosen():
    assert render("why?", "Question: {} Short answer:") == "Question: why? Short answer:"


@pytest.mark.parametrize(
    "prompt",
    [
        "Question: how many cats are there ? Answer:",
        "Question: is it a cat? Answer: yes. Question: what colour is it?",
        "question: is it a cat?",
        "a photo of",
        "Is it a cat? I think so.",
        " leading and trailing space ",
    ],
)
def test_every_other_prompt_is_left_as_it_is(prompt):
    assert render(prompt) == prompt


def test_braces_of_a_question_are_not_a_template():
    assert render("what is {} or {0}?") == VQA_TEMPLATE.replace("{}", "what is {} or {0}?")


@pytest.mark.parametrize("prompt", [None, "", "  \n\t "])
def test_empty_prompt_is_refused(prompt):
    with pytest.raises(DocumentError) as refused:
        render(prompt)
    assert refused.value.code is ErrorCode.EMPTY_PROMPT
