"""A model in several places, as accelerate's `device_map` leaves it: the CPU and the disk stand in for two GPUs.

What is on disk has no values until accelerate brings them for a module that is called, so whatever were read past
accelerate would fail here.
"""

import dataclasses
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from accelerate import infer_auto_device_map
from transformers import Blip2ForConditionalGeneration

from demo.service import CHECKPOINT
from executor.checkpoints import loading
from executor.checkpoints.loading import Checkpoint
from executor.errors import StartupError
from executor.model.blip2 import Blip2Model
from executor.model.stopwatch import Stopwatch
from executor.model.warmup import warm_up
from executor.questions.options import GenerationOptions

PROMPTS = ("Question: how many cats are there? Short answer:", "a photo of", "Question: what colour is it? Answer:")


@pytest.fixture(scope="module")
def whole() -> Checkpoint:
    return loading.load(str(CHECKPOINT), device="cpu")


@pytest.fixture(scope="module")
def spread(whole, tmp_path_factory) -> Checkpoint:
    places = infer_auto_device_map(
        whole.model,
        max_memory={"cpu": 6_400_000, "disk": 10**9},
        no_split_module_classes=["T5Block", "Blip2EncoderLayer", "Blip2QFormerLayer"],
    )
    model = Blip2ForConditionalGeneration.from_pretrained(
        CHECKPOINT, device_map=places, offload_folder=tmp_path_factory.mktemp("disk")
    )
    devices = {parameter.device.type for parameter in model.language_model.parameters()}
    assert devices == {"cpu", "meta"}  # the latter is on disk
    return dataclasses.replace(whole, model=model.eval().requires_grad_(False))


def answers(loaded: Checkpoint, options: GenerationOptions) -> list[str]:
    model = Blip2Model(loaded, 128)
    numbers = torch.Generator().manual_seed(1)
    pixels = torch.randint(0, 256, (3, 3, *model.image_size), dtype=torch.uint8, generator=numbers)
    prompts = model.pad([model.tokenize(prompt) for prompt in PROMPTS])
    return model.generate(model.encode_images(pixels), prompts, options, [1, 2, 3], Stopwatch(model.device))


@pytest.mark.parametrize(
    "options",
    [GenerationOptions(), GenerationOptions(num_beams=3), GenerationOptions(do_sample=True, temperature=2.0)],
    ids=["greedy", "beams", "sampled"],
)
def test_a_spread_model_gives_the_answers_of_a_whole_one(whole, spread, options):
    assert answers(spread, options) == answers(whole, options)


def test_a_spread_model_goes_without_graphs(spread, monkeypatch):
    model: Any = Blip2Model(spread, 128)
    model.device = SimpleNamespace(type="cuda")
    monkeypatch.setattr(model, "answer_blank", lambda *_: None)
    told: list[str] = []
    assert warm_up(model, "graphs", 2, GenerationOptions(), told.append) == "off"
    assert "the model is spread over several devices" in told[0]


def test_without_gpus_the_start_ends():
    with pytest.raises(
        StartupError, match=r"'device_map' is 'auto', .* but the device is cpu; set device_map to 'none'"
    ):
        loading.load(str(CHECKPOINT), device="cpu", device_map="auto")


@pytest.mark.parametrize("place", ["cpu", "disk"])
def test_what_does_not_fit_the_gpus_is_not_put_elsewhere(place):
    model = SimpleNamespace(hf_device_map={"vision_model": 0, "language_model": place})
    with pytest.raises(StartupError, match="model 'xxl' does not fit into the free memory"):
        loading._device_of_pictures("xxl", model)


def test_pictures_go_where_a_spread_model_begins(tiny_t5: Path):
    model: Any = loading.load(str(tiny_t5), device="cpu").model
    model.hf_device_map = {"vision_model": 0, "language_model": 1}
    assert loading._device_of_pictures("tiny", model) == torch.device("cpu")
