"""The drawn pictures, their questions, the training loop and the shipped checkpoint."""

from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors import safe_open
from transformers import Blip2ForConditionalGeneration, Blip2Processor

from demo.architecture import QUERY_TOKENS, build_processor
from demo.batches import TrainingBatches, picture_to_pixels
from demo.drawing import draw_random_scene
from demo.evaluate import CHECKPOINT, Sample, evaluation_samples, generate_answers, load_checkpoint, measure
from demo.pictures import FOLDER, TRUTH
from demo.questions import COUNT_WORDINGS, NUMBERS, TYPES, ask, caption, plain_question
from demo.scenes import COLOURS, KINDS, MAX_PER_COLOUR, MAX_PER_KIND, Scene, random_scene, random_stream
from demo.train import Run, Settings, train

MAX_CHECKPOINT_BYTES = 8_000_000
TINY = Settings(seed=3, steps=4, pictures_per_step=2)


def scene_and_picture(split: str, seed: int, index: int) -> tuple[Scene, Image.Image]:
    stream = random_stream(split, seed, index)
    scene = random_scene(stream)
    return scene, draw_random_scene(scene, stream)


@pytest.fixture(scope="module")
def checkpoint() -> tuple[Blip2ForConditionalGeneration, Blip2Processor]:
    return load_checkpoint(CHECKPOINT)


# --- pictures


def test_the_same_seed_draws_the_same_picture() -> None:
    for index in range(4):
        scene, picture = scene_and_picture("train", 5, index)
        again, picture_again = scene_and_picture("train", 5, index)
        assert scene == again
        assert picture.tobytes() == picture_again.tobytes()


def test_other_seeds_and_indices_draw_other_pictures() -> None:
    pictures = {scene_and_picture("train", seed, index)[1].tobytes() for seed in range(3) for index in range(3)}
    assert len(pictures) == 9


def test_training_and_evaluation_share_no_picture_even_with_the_same_seed() -> None:
    train_pictures = {scene_and_picture("train", 0, index)[1].tobytes() for index in range(40)}
    other_pictures = {scene_and_picture("evaluate", 0, index)[1].tobytes() for index in range(40)}
    assert len(train_pictures) == len(other_pictures) == 40
    assert not train_pictures & other_pictures


def test_an_unknown_split_is_refused() -> None:
    with pytest.raises(ValueError, match="split must be one of train, evaluate"):
        random_stream("test", 0, 0)


def test_scenes_cover_every_count_and_keep_their_bounds() -> None:
    counts: Counter[int] = Counter()
    for index in range(600):
        scene = random_scene(random_stream("train", 1, index))
        per_kind = [scene.count(kind) for kind in KINDS]
        per_colour = [scene.count(colour=colour) for colour in COLOURS]
        assert max(per_kind) <= MAX_PER_KIND
        assert max(per_colour) <= MAX_PER_COLOUR
        assert sum(per_kind) == sum(per_colour) == len(scene.things) <= 9
        assert min(scene.width, scene.height) >= 128
        assert max(scene.width, scene.height) <= 640
        counts.update(per_kind)
    assert set(counts) == set(range(7))


def test_things_stay_inside_the_picture_and_apart() -> None:
    for index in range(200):
        scene = random_scene(random_stream("train", 2, index))
        for number, thing in enumerate(scene.things):
            half = thing.size / 2
            assert half <= thing.x <= scene.width - half
            assert half <= thing.y <= scene.height - half
            for other in scene.things[number + 1 :]:
                apart = (thing.size + other.size) / 2 - 1e-6
                assert abs(thing.x - other.x) >= apart or abs(thing.y - other.y) >= apart


# --- questions


def recount(scene: Scene, noun: str) -> int:
    """Counts what a noun phrase such as `red objects`, `cat` or `blue squares` means, word by word."""
    *colour, kind = noun.split()
    kind = kind.removesuffix("s")
    return len(
        [
            thing
            for thing in scene.things
            if kind in ("object", "thing", thing.kind) and (not colour or thing.colour == colour[0])
        ]
    )


COUNT_PATTERN = re.compile("|".join(re.escape(wording).replace(r"\{\}", "(.+?)") for wording in COUNT_WORDINGS))
EXISTENCE_PATTERN = re.compile(
    r"(?:is there|can you see|do you see|are there) (?:an?|any) (.+?)(?: in the (?:picture|image))?\?"
)
COLOUR_PATTERN = re.compile(r"the (\w+)(?: in the picture| have)?\?")


def test_answers_follow_from_an_independent_recount_of_the_scene() -> None:
    checked: Counter[str] = Counter()
    for index in range(300):
        stream = random_stream("evaluate", 11, index)
        scene = random_scene(stream)
        for kind_of_question in TYPES:
            plain = plain_question(scene, kind_of_question, stream)
            if plain is None:
                continue
            question, answer = plain
            checked[kind_of_question] += 1
            if kind_of_question == "count":
                match = COUNT_PATTERN.fullmatch(question)
                assert match is not None, question
                noun = next(group for group in match.groups() if group)
                assert answer == NUMBERS[recount(scene, noun)], question
            elif kind_of_question == "existence":
                match = EXISTENCE_PATTERN.fullmatch(question)
                assert match is not None, question
                assert answer == ("yes" if recount(scene, match.group(1)) else "no"), question
            elif kind_of_question == "colour":
                match = COLOUR_PATTERN.search(question)
                assert match is not None, question
                noun = match.group(1)
                kind = noun.removesuffix("s")
                assert {thing.colour for thing in scene.things if thing.kind == kind} == {answer}, question
                assert noun.endswith("s") == (recount(scene, kind) > 1), question
            else:
                said = {}
                for part in re.split(r", | and ", answer) if answer != "nothing" else ():
                    number, kind = part.split()
                    said[kind.removesuffix("s")] = 1 if number == "a" else NUMBERS.index(number)
                assert said == Counter(thing.kind for thing in scene.things), answer
    assert min(checked[kind] for kind in TYPES) > 200


def test_a_colour_is_asked_only_where_it_is_unambiguous() -> None:
    asked = 0
    for index in range(100):
        stream = random_stream("evaluate", 12, index)
        scene = random_scene(stream)
        clear = [kind for kind in KINDS if len({thing.colour for thing in scene.things if thing.kind == kind}) == 1]
        question = ask(scene, "colour", stream)
        assert (question is not None) == bool(clear)
        asked += question is not None
    assert 0 < asked < 100


# --- tokenizer and processor


def test_case_and_spaces_before_punctuation_make_no_difference() -> None:
    tokenizer = build_processor().tokenizer
    article = tokenizer("Question: how many cats are there ? Answer:").input_ids
    assert article == tokenizer("question: How many CATS are there? answer:").input_ids
    assert article == tokenizer("Question:how many cats are there? Answer :").input_ids
    assert article != tokenizer("Question: how many dogs are there? Answer:").input_ids


def test_every_prompt_and_answer_is_in_the_vocabulary_and_survives_decoding() -> None:
    tokenizer = build_processor().tokenizer
    for index in range(300):
        stream = random_stream("evaluate", 13, index)
        scene = random_scene(stream)
        for kind_of_question in TYPES:
            question = ask(scene, kind_of_question, stream, dialogue_share=0.3)
            if question is None:
                continue
            assert tokenizer.unk_token_id not in tokenizer(question.prompt).input_ids, question
            ids = tokenizer(question.answer).input_ids
            assert tokenizer.unk_token_id not in ids, question
            assert tokenizer.decode(ids, skip_special_tokens=True) == question.answer


def test_training_sees_the_pixels_that_the_processor_makes() -> None:
    processor = build_processor()
    picture = scene_and_picture("train", 0, 0)[1]
    seen = picture_to_pixels(picture).float() / 255
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (
        processor.image_processor.image_mean, processor.image_processor.image_std
    ))  # fmt: skip
    made = processor.image_processor(picture, return_tensors="pt").pixel_values[0]
    torch.testing.assert_close((seen - mean) / std, made, rtol=0, atol=1e-5)


# --- training


def weights_of(run: Run) -> dict[str, torch.Tensor]:
    return {**run.objective.state_dict(), **{f"average.{name}": weight for name, weight in run.average.items()}}


def assert_equal_weights(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> None:
    assert one.keys() == other.keys()
    for name, weight in one.items():
        assert torch.equal(weight, other[name]), name


def test_training_repeats_exactly_from_one_seed_and_resumes_where_it_stopped(tmp_path: Path) -> None:
    whole = weights_of(train(TINY, tmp_path / "whole", workers=0))
    fresh = weights_of(Run(TINY))
    assert any(not torch.equal(whole[name], fresh[name]) for name in fresh)

    assert_equal_weights(whole, weights_of(train(TINY, tmp_path / "again", workers=0)))

    stopped = train(TINY, tmp_path / "resumed", workers=0, stop_after=2)
    assert stopped.step == 2
    resumed = train(TINY, tmp_path / "resumed", workers=1)
    assert resumed.step == TINY.steps
    assert_equal_weights(whole, weights_of(resumed))


def test_a_run_is_not_continued_with_the_pictures_of_another_seed(tmp_path: Path) -> None:
    train(TINY, tmp_path, workers=0, stop_after=1)
    with pytest.raises(ValueError, match="seed=3"):
        train(Settings(seed=4, steps=4, pictures_per_step=2), tmp_path, workers=0)


def test_a_batch_follows_from_its_number_alone() -> None:
    tokenizer = build_processor().tokenizer
    one, other = (TrainingBatches(tokenizer, seed=0, pictures=2)[7] for _ in range(2))
    assert torch.equal(one.pixels, other.pixels)
    assert torch.equal(one.input_ids, other.input_ids)
    assert not torch.equal(one.pixels, TrainingBatches(tokenizer, seed=0, pictures=2)[8].pixels)


def test_an_export_replaces_the_checkpoint_and_keeps_its_model_card(tmp_path: Path) -> None:
    target = tmp_path / "checkpoint"
    target.mkdir()
    (target / "README.md").write_text("card")
    (target / "leftover.bin").write_text("old")
    Run(TINY).export(target)
    assert (target / "README.md").read_text() == "card"
    assert not (target / "leftover.bin").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint"]
    load_checkpoint(target)


# --- the shipped checkpoint


def test_the_checkpoint_is_small_and_float16() -> None:
    files = [path for path in CHECKPOINT.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) <= MAX_CHECKPOINT_BYTES
    with safe_open(CHECKPOINT / "model.safetensors", framework="pt") as weights:
        assert {weights.get_tensor(name).dtype for name in weights.keys()} == {torch.float16}  # noqa: SIM118


def test_the_checkpoint_loads_without_missing_or_unexpected_weights() -> None:
    loaded: Any = Blip2ForConditionalGeneration.from_pretrained(CHECKPOINT, output_loading_info=True)
    info = loaded[1]
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    assert not info["mismatched_keys"]


def test_processor_and_model_agree_on_the_picture_tokens(
    checkpoint: tuple[Blip2ForConditionalGeneration, Blip2Processor],
) -> None:
    model, processor = checkpoint
    assert processor.num_query_tokens == model.config.num_query_tokens == QUERY_TOKENS
    assert model.config.image_token_index == processor.tokenizer.convert_tokens_to_ids("<image>")
    for generation in (model.generation_config, model.language_model.generation_config):
        assert generation.pad_token_id == generation.decoder_start_token_id == processor.tokenizer.pad_token_id
        assert generation.eos_token_id == processor.tokenizer.eos_token_id


def test_answers_are_right_on_new_pictures_and_collapse_without_the_right_picture(
    checkpoint: tuple[Blip2ForConditionalGeneration, Blip2Processor],
) -> None:
    pictures = 120
    report = measure(*checkpoint, evaluation_samples(seed=2024, pictures=pictures), pictures)
    accuracy, chance = report["accuracy"], report["chance"]
    for kind_of_question in ("count", "colour", "existence"):
        assert accuracy[kind_of_question] >= 0.95, report
    assert accuracy["caption"] >= 0.85, report
    for view in ("wrong picture", "blank picture"):
        control = report["control"][view]
        for kind_of_question, most in {"count": 0.5, "colour": 0.45, "existence": 0.7, "caption": 0.1}.items():
            assert control[kind_of_question] <= most, report
    assert max(chance["count"], chance["colour"]) <= 0.5, "guessing must not look like knowing"


def test_shipped_pictures_are_answered_right(
    checkpoint: tuple[Blip2ForConditionalGeneration, Blip2Processor],
) -> None:
    truths = json.loads((FOLDER / TRUTH).read_text())
    assert {path.name for path in FOLDER.iterdir()} == {TRUTH, *truths}
    for name, questions in truths.items():
        picture = Image.open(FOLDER / name).convert("RGB")
        prompts = [
            entry["question"] if entry["type"] == "caption" else f"Question: {entry['question']} Answer:"
            for entry in questions
        ]
        answers = generate_answers(*checkpoint, [picture] * len(prompts), prompts)
        wrong = [
            (entry["question"], entry["answer"], answer)
            for entry, answer in zip(questions, answers, strict=True)
            if answer != entry["answer"]
        ]
        assert not wrong, name


def test_the_article_s_question_about_two_cats_is_answered_two(
    checkpoint: tuple[Blip2ForConditionalGeneration, Blip2Processor],
) -> None:
    picture = Image.open(FOLDER / "two-cats.jpg").convert("RGB")
    prompt = "Question: how many cats are there ? Answer:"
    assert generate_answers(*checkpoint, [picture], [prompt]) == ["two"]


def test_samples_hold_their_pictures_size_and_a_caption() -> None:
    sample: Sample = next(evaluation_samples(seed=0, pictures=1))
    scene = random_scene(random_stream("evaluate", 0, 0))
    assert sample.picture.size == (scene.width, scene.height)
    assert [question.answer for question in sample.questions if question.type == "caption"] == [caption(scene)]
