"""The model against transformers' own `Blip2Processor` and `generate`, called one picture at a time."""

import functools
import random
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import Blip2ForConditionalGeneration, Blip2Processor

from demo.service import CHECKPOINT
from executor.checkpoints import loading
from executor.errors import DocumentError, ErrorCode
from executor.model.blip2 import Blip2Model, use_threads
from executor.model.vision import normalised_levels
from executor.questions.options import GenerationOptions

PROMPTS = [
    "Question: how many cats are there ? Answer:",
    "a photo of",
    "Question: is there a dog ? Answer: one. Question: what is red ? Answer:",
    "how",
    "are there three blue cats ?",
]
GREEDY = GenerationOptions()
BEAMS = GenerationOptions(num_beams=5, length_penalty=-1.0, min_new_tokens=4, max_new_tokens=10)
PENALISED = GenerationOptions(repetition_penalty=1.5, no_repeat_ngram_size=2, min_new_tokens=6)


@pytest.fixture(scope="module", params=["t5", "opt"])
def tiny(request: pytest.FixtureRequest) -> Path:
    folder: Path = request.getfixturevalue(f"tiny_{request.param}")
    return folder


@pytest.fixture(scope="module")
def model(tiny: Path) -> Blip2Model:
    return Blip2Model(loading.load(str(tiny), device="cpu"), max_prompt_tokens=64)


def draw_pictures(count: int, seed: int = 0) -> list[Image.Image]:
    random_numbers = np.random.default_rng(seed)
    return [Image.fromarray(random_numbers.integers(0, 256, (32, 32, 3), dtype=np.uint8)) for _ in range(count)]


def as_tensor(pictures: list[Image.Image]) -> torch.Tensor:
    return torch.stack([torch.from_numpy(np.array(picture)).permute(2, 0, 1) for picture in pictures])


@functools.cache
def load_reference(folder: Path) -> tuple[Blip2Processor, Blip2ForConditionalGeneration]:
    processor = Blip2Processor.from_pretrained(folder, backend="pil")
    return processor, Blip2ForConditionalGeneration.from_pretrained(folder, dtype=torch.float32)


def reference(folder: Path, picture: Image.Image, prompt: str, options: GenerationOptions) -> str:
    processor, transformers_model = load_reference(folder)
    inputs = processor(images=picture, text=prompt, return_tensors="pt")
    tokens: torch.Tensor = transformers_model.generate(**inputs, **options.generate_kwargs())
    if not transformers_model.language_model.config.is_encoder_decoder:
        tokens = tokens[:, inputs.input_ids.shape[1] :]
    return str(processor.decode(tokens[0], skip_special_tokens=True)).strip()


@pytest.mark.parametrize("options", [GREEDY, BEAMS, PENALISED], ids=["greedy", "beams", "penalised"])
def test_a_batch_answers_as_transformers_does_one_by_one(model, tiny, options):
    pictures = draw_pictures(len(PROMPTS))
    answers = model.generate(
        model.encode_images(as_tensor(pictures)), model.pad([model.tokenize(p) for p in PROMPTS]), options
    )
    assert answers == [reference(tiny, *asked, options) for asked in zip(pictures, PROMPTS, strict=True)]
    assert len(set(answers)) > 1


def test_a_row_does_not_depend_on_its_batch(model):
    features = model.encode_images(as_tensor(draw_pictures(len(PROMPTS))))
    prompts = [model.tokenize(prompt) for prompt in PROMPTS]
    together = model.generate(features, model.pad(prompts), GREEDY)
    order = random.Random(1).sample(range(len(PROMPTS)), len(PROMPTS))
    shuffled = model.generate(features[order], model.pad([prompts[place] for place in order]), GREEDY)
    assert shuffled == [together[place] for place in order]


def test_the_prompt_is_not_echoed(model):
    features = model.encode_images(as_tensor(draw_pictures(1)))
    answer = model.generate(features, model.pad([model.tokenize(PROMPTS[0])]), GenerationOptions(max_new_tokens=3))[0]
    assert len(answer.split()) <= 3


def test_the_picture_changes_what_the_language_model_sees(model):
    one, other = model.encode_images(as_tensor(draw_pictures(2)))
    assert not torch.allclose(one, other)


def test_special_tokens_in_a_prompt_are_plain_text(model):
    special = {model._pad_token_id, model._image_token_id}
    for text in ("<image>", "how <image><image> many </s> cats <pad>"):
        assert not special & set(model.tokenize(text))
    features = model.encode_images(as_tensor(draw_pictures(2)))
    prompts = [model.tokenize("how many <image> cats ?"), model.tokenize("how many cats ?")]
    alone = model.generate(features[1:], model.pad(prompts[1:]), GREEDY)
    assert model.generate(features, model.pad(prompts), GREEDY)[1:] == alone


@pytest.mark.parametrize("prompt", ["cats " * 100, "x" * 1_000_000])
def test_a_prompt_over_the_limit_is_refused(model, prompt):
    with pytest.raises(DocumentError, match="max_prompt_tokens") as refused:
        model.tokenize(prompt)
    assert refused.value.code is ErrorCode.PROMPT_TOO_LONG


def test_a_seed_repeats_a_sampled_answer_and_leaves_other_random_numbers_alone(model):
    features = model.encode_images(as_tensor(draw_pictures(1)))
    prompt = model.pad([model.tokenize(PROMPTS[0])])
    sampled = GenerationOptions(temperature=2.0, seed=7)
    state = torch.random.get_rng_state()
    first = model.generate(features, prompt, sampled)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert model.generate(features, prompt, sampled) == first
    others = {model.generate(features, prompt, sampled.model_copy(update={"seed": seed}))[0] for seed in range(8)}
    assert len(others) > 1


def test_normalisation_is_the_processors_bit_for_bit():
    loaded = loading.load(str(CHECKPOINT), device="cpu")
    model = Blip2Model(loaded, max_prompt_tokens=64)
    height, width = model.image_size
    pixels = torch.arange(3 * height * width).remainder(256).to(torch.uint8).view(1, 3, height, width)
    picture = Image.fromarray(pixels[0].permute(1, 2, 0).numpy())
    expected = loaded.processor.image_processor(picture, return_tensors="pt").pixel_values
    channels = torch.arange(3).view(1, 3, 1, 1)
    assert torch.equal(normalised_levels(loaded.processor.image_processor)[channels, pixels.long()], expected)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_on_cuda_the_default_is_float16_and_answers_are_those_of_the_cpu(tiny, model):
    on_cuda = loading.load(str(tiny), device="auto", dtype="float32")
    assert on_cuda.device.type == "cuda"
    features = as_tensor(draw_pictures(len(PROMPTS)))
    cuda_model = Blip2Model(on_cuda, max_prompt_tokens=64)
    answers = [
        each.generate(each.encode_images(features), each.pad([each.tokenize(prompt) for prompt in PROMPTS]), GREEDY)
        for each in (cuda_model, model)
    ]
    assert answers[0] == answers[1]


@pytest.mark.parametrize(("asked", "environment", "threads"), [(0, None, 3), (0, "1", 1), (2, "1", 2)])
def test_threads_are_those_asked_for_else_of_the_environment_else_one_per_core(
    asked, environment, threads, monkeypatch
):
    if environment is None:
        monkeypatch.delenv("OMP_NUM_THREADS")
    else:
        monkeypatch.setenv("OMP_NUM_THREADS", environment)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)  # as PyTorch does where the environment says so
        assert use_threads(asked, cores=3) == torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)
