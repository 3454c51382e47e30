"""The engine with the tiny checkpoints: what a batch shares, and what happens when the device fails."""

import random
from pathlib import Path

import pytest
import torch

from demo.service import CHECKPOINT, ROOT
from executor.checkpoints import loading as checkpoint
from executor.errors import DocumentError, ErrorCode
from executor.model.blip2 import Blip2Model
from executor.model.engine import Engine, Question, batch_key
from executor.model.stopwatch import Stopwatch
from executor.pictures.decoding import Decoder
from executor.pictures.limits import ImageLimits
from executor.questions.options import GenerationOptions
from executor.telemetry.observer import BatchReport
from tests.model.test_blip2 import BEAMS, GREEDY, PROMPTS, as_tensor, draw_pictures

CACHE_BYTES = 1_000_000
PICTURES = as_tensor(draw_pictures(6))


@pytest.fixture(scope="module", params=["t5", "opt"])
def model(request: pytest.FixtureRequest) -> Blip2Model:
    folder: Path = request.getfixturevalue(f"tiny_{request.param}")
    return Blip2Model(checkpoint.load(str(folder), device="cpu"), max_prompt_tokens=64)


def ask(engine: Engine, questions: list[Question]) -> list[str]:
    assert len({batch_key(question) for question in questions}) == 1
    return engine.run(engine.collate(questions))


def count_encoded(model: Blip2Model, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Grows by the number of pictures at each call of `encode_images`."""
    encoded: list[int] = []
    original = Blip2Model.encode_images

    def counting(self: Blip2Model, pixels: torch.Tensor) -> torch.Tensor:
        encoded.append(len(pixels))
        return original(self, pixels)

    monkeypatch.setattr(Blip2Model, "encode_images", counting)
    return encoded


@pytest.mark.parametrize("options", [GREEDY, BEAMS], ids=["greedy", "beams"])
def test_answers_from_the_cache_are_those_without_it(model, options):
    random_numbers = random.Random(5)
    cached, uncached = Engine(model, CACHE_BYTES), Engine(model, 0)
    for size in (1, 8, 3, 8):
        questions = [
            Question(
                PICTURES[random_numbers.randrange(len(PICTURES))],
                model.tokenize(random_numbers.choice(PROMPTS)),
                options,
            )
            for _ in range(size)
        ]
        answers = ask(cached, questions)
        assert answers == ask(uncached, questions)
        assert answers == [ask(Engine(model, 0), [question])[0] for question in questions]
    assert cached.cache_misses <= len(PICTURES) < cached.cache_hits


def test_one_picture_with_many_questions_is_encoded_once(model, monkeypatch):
    encoded = count_encoded(model, monkeypatch)
    engine = Engine(model, CACHE_BYTES)
    questions = [Question(PICTURES[0].clone(), model.tokenize(prompt), GREEDY) for prompt in PROMPTS]
    first = ask(engine, questions)
    assert ask(engine, questions) == first
    assert encoded == [1]


def test_only_new_pictures_of_a_batch_are_encoded(model, monkeypatch):
    encoded = count_encoded(model, monkeypatch)
    engine = Engine(model, CACHE_BYTES)
    token_ids = model.tokenize(PROMPTS[0])
    ask(engine, [Question(PICTURES[0], token_ids, GREEDY)])
    ask(engine, [Question(picture, token_ids, GREEDY) for picture in PICTURES])
    assert encoded == [1, len(PICTURES) - 1]


def test_sampled_questions_travel_together_and_answer_as_they_do_alone(model):
    engine = Engine(model, CACHE_BYTES)
    questions = [
        Question(
            PICTURES[place % len(PICTURES)],
            model.tokenize(PROMPTS[place % len(PROMPTS)]),
            GenerationOptions(temperature=1.5, top_k=12, top_p=0.95, seed=place).canonical(),
        )
        for place in range(12)
    ]
    together = ask(engine, questions)
    assert together == [ask(engine, [question])[0] for question in questions]
    assert ask(engine, questions[::-1]) == together[::-1]
    assert len(set(together)) > len(questions) // 2


def fail_with(error: BaseException, monkeypatch: pytest.MonkeyPatch) -> None:
    def generate(self: Blip2Model, *args: object) -> list[str]:
        raise error

    monkeypatch.setattr(Blip2Model, "generate", generate)


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory."),
        RuntimeError("[enforce fail at alloc_cpu.cpp:127] data. DefaultCPUAllocator: can't allocate memory"),
        MemoryError(),
    ],
    ids=["cuda", "cpu", "python"],
)
def test_out_of_memory_is_an_error_of_its_own_and_frees_what_is_kept(model, monkeypatch, error):
    engine = Engine(model, CACHE_BYTES)
    batch = engine.collate([Question(PICTURES[0], model.tokenize(PROMPTS[0]), GREEDY)])
    encoded = count_encoded(model, monkeypatch)
    with monkeypatch.context() as failing:
        fail_with(error, failing)
        with pytest.raises(DocumentError) as failed:
            engine.run(batch)
    assert failed.value.code is ErrorCode.OUT_OF_MEMORY
    assert failed.value.__context__ is None  # nothing holds the failed attempt's tensors
    engine.run(batch)
    assert encoded == [1]  # what is kept is freed by who may touch it, and by nobody else
    engine.recover(failed.value)
    engine.run(batch)
    assert encoded == [1, 1]


def test_only_a_lack_of_memory_frees_what_is_kept(model, monkeypatch):
    engine = Engine(model, CACHE_BYTES)
    batch = engine.collate([Question(PICTURES[0], model.tokenize(PROMPTS[0]), GREEDY)])
    encoded = count_encoded(model, monkeypatch)
    engine.run(batch)
    engine.recover(ValueError("a defect"))
    engine.recover(DocumentError(ErrorCode.MODEL_FAILED, "not finite"))
    engine.run(batch)
    assert encoded == [1]


def test_any_other_error_stays_what_it_is(model, monkeypatch):
    engine = Engine(model, CACHE_BYTES)
    batch = engine.collate([Question(PICTURES[0], model.tokenize(PROMPTS[0]), GREEDY)])
    fail_with(ValueError("a defect"), monkeypatch)
    with pytest.raises(ValueError, match="a defect"):
        engine.run(batch)


@pytest.mark.parametrize("sticky", [True, False], ids=["for good", "once"])
def test_a_cuda_device_is_lost_when_it_cannot_even_synchronise(tiny_t5, monkeypatch, sticky):
    model = Blip2Model(checkpoint.load(str(tiny_t5), device="cpu"), max_prompt_tokens=64)
    engine = Engine(model, CACHE_BYTES)
    batch = engine.collate([Question(PICTURES[0], model.tokenize(PROMPTS[0]), GREEDY)])
    cause = torch.AcceleratorError("CUDA error: device-side assert triggered")
    fail_with(cause, monkeypatch)

    def synchronise(device: torch.device) -> None:
        if sticky:
            raise cause

    monkeypatch.setattr(torch.cuda, "synchronize", synchronise)
    monkeypatch.setattr("executor.model.engine.Stopwatch", lambda device: Stopwatch(torch.device("cpu")))
    monkeypatch.setattr(Blip2Model, "encode_images", lambda self, pixels: torch.zeros(len(pixels), 4, 16))
    model.device = torch.device("cuda")
    if sticky:
        with pytest.raises(DocumentError) as failed:
            engine.run(batch)
        assert failed.value.code is ErrorCode.DEVICE_LOST
        assert failed.value.__cause__ is cause
    else:
        with pytest.raises(torch.AcceleratorError):
            engine.run(batch)


def test_a_lone_greedy_answer_has_a_token_for_each_step(model):
    reports: list[BatchReport] = []
    ask(Engine(model, 0, reports.append), [Question(PICTURES[0], model.tokenize(PROMPTS[0]), GREEDY)])
    assert reports[0].times.tokens == reports[0].times.steps > 0


@pytest.mark.parametrize("options", [GREEDY, GREEDY.merged({"num_beams": 3})], ids=["greedy", "beams"])
def test_tokens_are_those_of_the_answers_without_the_padding_of_their_batch(options):
    loaded = checkpoint.load(str(CHECKPOINT), device="cpu")
    model = Blip2Model(loaded, max_prompt_tokens=64)
    picture = Decoder(model.image_size, model.resample, ImageLimits())(
        (ROOT / "demo" / "pictures" / "two-cats.jpg").read_bytes()
    )
    reports: list[BatchReport] = []
    answers = ask(
        Engine(model, 0, reports.append),
        [
            Question(picture, model.tokenize(prompt), options)
            for prompt in ("Question: how many cats are there? Answer:", "a photo of")
        ],
    )
    lengths = [len(loaded.processor.tokenizer(answer).input_ids) for answer in answers]  # with their ends
    assert lengths[0] < lengths[1]
    assert reports[0].times.tokens == sum(lengths)
