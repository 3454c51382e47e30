import pytest

from executor.errors import DocumentError, ErrorCode
from executor.questions.options import OPTION_NAMES, GenerationOptions
from executor.schemas import ImagePrompt


def test_defaults_are_greedy_with_twenty_new_tokens():
    kwargs = GenerationOptions().generate_kwargs()
    assert (kwargs["num_beams"], kwargs["do_sample"], kwargs["max_new_tokens"]) == (1, False, 20)


def test_the_last_override_wins():
    merged = GenerationOptions(max_new_tokens=5).merged({"num_beams": 2, "max_new_tokens": 6}, {"max_new_tokens": 7})
    assert (merged.num_beams, merged.max_new_tokens) == (2, 7)


def test_whole_floats_are_integers_as_protobuf_makes_them():
    assert GenerationOptions().merged({"max_new_tokens": 10.0, "num_beams": 5.0}).max_new_tokens == 10


@pytest.mark.parametrize(
    "override",
    [
        {"num_beams": 0},
        {"num_beams": 17},
        {"num_beams": 2.5},
        {"num_beams": "many"},
        {"max_new_tokens": 100_000},
        {"min_new_tokens": 9, "max_new_tokens": 8},
        {"length_penalty": float("nan")},
        {"temperature": 0.0},
        {"top_p": 1.5},
        {"seed": -1},
        {"do_sample": True, "num_beams": 2},
        {"num_beans": 5},
        {"max_new_tokens": None},
    ],
)
def test_what_is_out_of_range_or_unknown_is_refused(override):
    with pytest.raises(DocumentError) as refused:
        GenerationOptions().merged(override)
    assert refused.value.code is ErrorCode.INVALID_OPTIONS


def test_an_error_names_the_option_and_never_the_clients_value():
    with pytest.raises(DocumentError, match="'num_beams'") as refused:
        GenerationOptions().merged({"num_beams": "s3cret"})
    assert "s3cret" not in str(refused.value)


def test_temperature_top_p_or_top_k_switch_sampling_on_unless_it_is_said_otherwise():
    assert GenerationOptions().merged({"temperature": 0.7}).samples
    assert GenerationOptions().merged({"top_k": 5}).samples
    assert not GenerationOptions().merged({"temperature": 0.7, "do_sample": False}).samples
    assert not GenerationOptions().merged({"seed": 1}).samples


def test_options_without_effect_do_not_split_a_batch():
    def canonical(**options: object) -> GenerationOptions:
        return GenerationOptions().merged(options).canonical()

    assert canonical(length_penalty=-1.0) == canonical()
    assert canonical(temperature=0.7, do_sample=False, seed=3) == canonical()
    assert hash(canonical(top_p=0.5, do_sample=False)) == hash(canonical())
    assert canonical(num_beams=2, length_penalty=-1.0) != canonical()


def test_what_has_no_effect_by_itself_has_one_when_more_is_merged():
    assert GenerationOptions().merged().merged({"temperature": 0.7}).samples
    resting = GenerationOptions().merged({"temperature": 0.7, "do_sample": False})
    assert resting.merged({"do_sample": True}).canonical().temperature == 0.7
    assert GenerationOptions().merged({"length_penalty": -1.0}).merged({"num_beams": 2}).length_penalty == -1.0


def test_a_document_has_a_field_for_every_option():
    assert set(ImagePrompt.model_fields) >= OPTION_NAMES
