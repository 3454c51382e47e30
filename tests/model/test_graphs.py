"""Captured programs without a GPU: the same code, with a tracer in the place of CUDA's.

`make_fx` records every operation of a function once and runs the record from then on. As with a CUDA graph, Python's
values at the time are baked in, reading a tensor's value while recording is an error, and only what tensors hold later
counts.
"""

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import Blip2Config, Blip2ForConditionalGeneration

from demo.service import CHECKPOINT
from executor.checkpoints import loading
from executor.errors import DocumentError
from executor.model import warmup
from executor.model.blip2 import Blip2Model
from executor.model.shapes import Shape, Shapes
from executor.model.t5 import T5
from executor.model.vision import Vision
from executor.questions.options import GenerationOptions
from tests.model.test_blip2 import PROMPTS, as_tensor, draw_pictures

BEAMS = GenerationOptions(num_beams=3, length_penalty=-1.0, max_new_tokens=10)
SAMPLED = GenerationOptions(temperature=2.0, seed=1).canonical()
PENALISED = GenerationOptions(repetition_penalty=1.5, no_repeat_ngram_size=2, min_new_tokens=6)
SHAPES = Shapes(batches=(1, 4, 8), lengths=(16, 32), beams=(1, 3))
PICTURES = as_tensor(draw_pictures(10))


class Traces:
    """Records programs, and counts how often each is run."""

    def __init__(self) -> None:
        self.runs: list[int] = []

    def __call__(self, function: Callable[..., Any], *tensors: torch.Tensor) -> Callable[[], Any]:
        with torch.no_grad():
            record = make_fx(lambda *given: function(*given))(*tensors)
        place = len(self.runs)
        self.runs.append(0)

        def run() -> Any:
            self.runs[place] += 1
            return record(*tensors)

        return run


def load(folder: Path) -> Blip2Model:
    return Blip2Model(loading.load(str(folder), device="cpu"), max_prompt_tokens=64)


def ask(model: Blip2Model, places: list[int], options: GenerationOptions) -> list[str]:
    prompts = model.pad([model.tokenize(PROMPTS[place % len(PROMPTS)]) for place in places])
    return model.generate(model.encode_images(PICTURES[places]), prompts, options, places)


@pytest.fixture(scope="module")
def captured(tiny_t5) -> tuple[Blip2Model, Traces]:
    model, traces = load(tiny_t5), Traces()
    yields = sum(1 for _ in model.capture(SHAPES, traces))
    assert yields == model.programs(SHAPES) == 3 + 3 * 2 * 2
    assert len(traces.runs) == 3 + 3 * 2 * (1 + 2)
    return model, traces


@pytest.mark.parametrize("options", [GenerationOptions(), BEAMS, SAMPLED, PENALISED])
def test_recorded_programs_answer_as_the_code_does(captured, tiny_t5, options):
    model, traces = captured
    plain = load(tiny_t5)
    random_numbers = random.Random(1)
    before = sum(traces.runs)
    for batch in (1, 8, 3, 5, 2, 8, 1):  # shapes are used again after others had the same memory
        places = random_numbers.choices(range(len(PICTURES)), k=batch)
        assert ask(model, places, options) == ask(plain, places, options)
    assert sum(traces.runs) > before + 2 * 7


@pytest.mark.parametrize(
    ("batch", "options"),
    [
        (9, GenerationOptions()),
        (2, GenerationOptions(num_beams=2)),
        (2, GenerationOptions(max_new_tokens=100, min_new_tokens=50)),
    ],
    ids=["more documents", "other beams", "longer answers"],
)
def test_what_fits_no_shape_runs_without_programs(captured, tiny_t5, batch, options):
    model, traces = captured
    ask(model, [0], GenerationOptions())
    places = list(range(batch))
    before = list(traces.runs)
    answers = ask(model, places, options)
    assert traces.runs[3:] == before[3:]
    assert answers == ask(load(tiny_t5), places, options)


def test_what_is_not_a_number_in_one_batch_does_not_reach_the_next(captured, tiny_t5):
    model, _ = captured
    places = [0, 1, 2]
    prompts = model.pad([model.tokenize(PROMPTS[place]) for place in places])
    features = model.encode_images(PICTURES[places])
    with pytest.raises(DocumentError, match="MODEL_FAILED"):
        model.generate(torch.full_like(features, torch.nan), prompts, GenerationOptions(min_new_tokens=20))
    assert ask(model, places, GenerationOptions()) == ask(load(tiny_t5), places, GenerationOptions())


class HostTensors(TorchDispatchMode):
    """Notes every operation that touches a tensor of the host: a copy that a CUDA graph cannot hold."""

    def __init__(self) -> None:
        super().__init__()
        self.operations: list[str] = []

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = function(*args, **(kwargs or {}))
        tensors = [leaf for leaf in tree_leaves((args, kwargs, result)) if isinstance(leaf, torch.Tensor)]
        if any(tensor.device.type == "cpu" for tensor in tensors):
            self.operations.append(str(function))
        return result


def test_programs_touch_no_tensor_of_the_host():
    loaded = loading.load(str(CHECKPOINT), device="cpu")
    with torch.device("meta"):
        model = Blip2ForConditionalGeneration(Blip2Config.from_pretrained(CHECKPOINT)).eval()
    model.language_model.generation_config = loaded.model.language_model.generation_config
    device = torch.device("meta")
    t5, vision = T5(model.language_model, 32), Vision(model, loaded.processor.image_processor, device)
    ids = torch.ones(4, 48, dtype=torch.int64, device=device)
    features = torch.zeros(4, model.config.num_query_tokens, model.config.text_config.d_model, device=device)
    cross_cache, cross_bias = t5.new_cross_cache(4, 48), t5.new_cross_bias(4, 48)
    pixels = torch.zeros(4, 3, 96, 96, dtype=torch.uint8, device=device)
    with torch.inference_mode(), HostTensors() as seen:
        vision.encode(pixels)
        t5.encode(features, ids, ids, cross_cache, cross_bias)
        t5.step(ids[0, :8], ids[0, :1], t5.new_self_cache(8, 32), cross_cache, cross_bias)
        assert seen.operations == []
        torch.tensor(1)
    assert seen.operations  # it does notice


def test_shapes_fit_with_little_waste():
    shapes = Shapes.up_to(max_batch=24, picture_tokens=32, max_prompt_tokens=512, beams={1, 5})
    assert shapes.batches == (1, 2, 4, 8, 16, 24)
    assert shapes.lengths == (48, 64, 96, 160)
    assert shapes.fit(17, 49, 5, 10) == Shape(24, 64, 5, 32)
    assert shapes.fit(25, 49, 5, 10) is shapes.fit(1, 161, 1, 10) is shapes.fit(1, 48, 2, 10) is None
    assert Shapes.up_to(1, 32, 20, {1}).lengths == (48, 56)


class Unready(Traces):
    """Fails at its n-th program."""

    def __init__(self, at: int, error: Exception) -> None:
        super().__init__()
        self._at, self._error = at, error

    def __call__(self, function: Callable[..., Any], *tensors: torch.Tensor) -> Callable[[], Any]:
        if len(self.runs) == self._at:
            raise self._error
        return super().__call__(function, *tensors)


@pytest.mark.parametrize("at", [0, 2, 5])
def test_what_cannot_be_captured_runs_without_and_says_why_in_one_line(tiny_t5, monkeypatch, at):
    model = load(tiny_t5)
    error = torch.OutOfMemoryError("CUDA out of memory.\nTried to allocate")
    monkeypatch.setattr(warmup, "CudaGraphs", lambda device, fuse: Unready(at, error))
    monkeypatch.setattr(warmup, "_why_no_graphs", lambda model: None)
    lines: list[str] = []
    assert warmup.warm_up(model, "max", 2, GenerationOptions(), lines.append) == "off"
    assert lines == [
        "compile 'max' is not possible: OutOfMemoryError: CUDA out of memory.; going on with 'graphs'",
        "compile 'graphs' is not possible: OutOfMemoryError: CUDA out of memory.; going on with 'off'",
    ]
    assert ask(model, [0, 1], GenerationOptions()) == ask(load(tiny_t5), [0, 1], GenerationOptions())


@pytest.mark.parametrize("language_model", ["t5", "opt"])
def test_warming_up_captures_everything_that_can_be(request, monkeypatch, language_model):
    folder = request.getfixturevalue(f"tiny_{language_model}")
    model, traces = load(folder), Traces()
    monkeypatch.setattr(warmup, "CudaGraphs", lambda device, fuse: traces)
    monkeypatch.setattr(warmup, "_why_no_graphs", lambda model: None)
    lines: list[str] = []
    assert warmup.warm_up(model, "graphs", 2, GenerationOptions(), lines.append) == "graphs"
    assert lines == []
    assert sum(traces.runs) > 0
    assert ask(model, [0, 1], GenerationOptions()) == ask(load(folder), [0, 1], GenerationOptions())


def test_a_cpu_needs_no_graphs_and_says_so(tiny_t5):
    lines: list[str] = []
    assert warmup.warm_up(load(tiny_t5), "graphs", 2, GenerationOptions(), lines.append) == "off"
    assert lines == ["compile 'graphs' is not possible: graphs need CUDA, and the device is cpu; going on with 'off'"]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("options", [GenerationOptions(), BEAMS, SAMPLED, PENALISED])
@pytest.mark.parametrize("compile", ["off", "graphs", "max"])
def test_cuda_graphs_answer_as_the_cpu_does(tiny_t5, compile, options):
    on_cuda = Blip2Model(loading.load(str(tiny_t5), device="cuda", dtype="float32"), max_prompt_tokens=64)
    assert warmup.warm_up(on_cuda, compile, 8, options, pytest.fail) == compile
    for batch in (1, 3, 8):
        places = list(range(batch))
        assert ask(on_cuda, places, options) == ask(load(tiny_t5), places, options)
