"""Linear layers of fewer bits: which ones, and that the start says what it lacks.

Answers are measured by `python -m benchmarks.agreement --quantization`.
"""

import importlib.util
from pathlib import Path

import pytest
import torch
from transformers import BitsAndBytesConfig, Blip2ForConditionalGeneration

from demo.service import CHECKPOINT
from executor.checkpoints import loading
from executor.errors import StartupError
from executor.model.blip2 import Blip2Model
from executor.model.warmup import warm_up
from executor.questions.options import GenerationOptions

KINDS = {
    "int8": BitsAndBytesConfig(load_in_8bit=True),
    "int4": BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=torch.float32),
}
LAYERS = {"int8": "Linear8bitLt", "int4": "Linear4bit"}


@pytest.mark.parametrize("quantization", KINDS)
def test_without_bitsandbytes_the_start_ends_and_says_what_to_install(tiny_t5, monkeypatch, quantization):
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *rest: None if name == "bitsandbytes" else find_spec(name, *rest)
    )
    with pytest.raises(StartupError, match=f"'quantization' is '{quantization}', which needs bitsandbytes; install"):
        loading.load(str(tiny_t5), device="cpu", quantization=quantization)


def layers(model: torch.nn.Module, kind: str) -> set[str]:
    return {name for name, module in model.named_modules() if type(module).__name__ == kind}


@pytest.mark.parametrize("quantization", KINDS)
def test_the_layers_that_keep_their_precision_are_those_of_transformers(tiny_t5: Path, quantization):
    ours = loading.load(str(tiny_t5), device="cpu", quantization=quantization).model
    theirs = Blip2ForConditionalGeneration.from_pretrained(tiny_t5, quantization_config=KINDS[quantization])
    kept = layers(ours, "Linear")
    assert kept == layers(theirs, "Linear")
    assert layers(ours, LAYERS[quantization]) == layers(theirs, LAYERS[quantization]) != set()
    assert {name.split(".")[0] if name.startswith("qformer") else name.rsplit(".")[-1] for name in kept} == {
        *("qformer", "wo", "lm_head")
    }
    plain = loading.load(str(tiny_t5), device="cpu").model
    assert kept | layers(ours, LAYERS[quantization]) == layers(plain, "Linear")


@pytest.mark.parametrize("quantization", KINDS)
@pytest.mark.parametrize("options", [GenerationOptions(), GenerationOptions(num_beams=3)], ids=["greedy", "beams"])
def test_our_engine_answers_as_transformers_does_with_the_same_layers(quantization, options):
    loaded = loading.load(str(CHECKPOINT), device="cpu", quantization=quantization)
    model = Blip2Model(loaded, max_prompt_tokens=64)
    pixels = torch.randint(0, 256, (3, *model.image_size), dtype=torch.uint8, generator=torch.manual_seed(1))
    prompt = "Question: how many cats are there ? Answer:"
    (answer,) = model.generate(
        model.encode_images(model.upload_pictures([pixels])), model.pad([model.tokenize(prompt)]), options
    )
    inputs = loaded.processor(images=pixels, text=prompt, return_tensors="pt", do_resize=False)
    with torch.inference_mode():
        tokens = loaded.model.generate(**inputs, **options.generate_kwargs())
    assert answer == loaded.processor.batch_decode(tokens, skip_special_tokens=True)[0].strip()
    assert answer


def test_quantised_layers_run_without_graphs_and_say_so(tiny_t5: Path, monkeypatch):
    model = Blip2Model(loading.load(str(tiny_t5), device="cpu", quantization="int8"), max_prompt_tokens=64)
    monkeypatch.setattr(model, "device", torch.device("cuda"))
    monkeypatch.setattr(model, "answer_blank", lambda *_: None)
    said: list[str] = []
    assert warm_up(model, "graphs", 4, GenerationOptions(), said.append) == "off"
    assert "bitsandbytes" in " ".join(said)
