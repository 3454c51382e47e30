"""Our T5 and our searches against transformers' own `generate`, token for token."""

import itertools
import random

import pytest
import torch
from transformers import T5Config, T5ForConditionalGeneration

from executor.model.buffers import PromptBatch
from executor.model.language import LanguageModel, T5LanguageModel, TransformersLanguageModel
from executor.model.stopwatch import Stopwatch
from executor.model.t5 import T5
from executor.questions.options import GenerationOptions

PAD, END, VOCABULARY, QUERY_TOKENS, HIDDEN = 0, 1, 40, 4, 32
IMAGE_TOKEN = VOCABULARY - 1
CPU = torch.device("cpu")
OPTIONS = [
    GenerationOptions(),
    GenerationOptions(max_new_tokens=1),
    GenerationOptions(min_new_tokens=7, max_new_tokens=9),
    GenerationOptions(repetition_penalty=1.7),
    GenerationOptions(no_repeat_ngram_size=2, max_new_tokens=30),
    GenerationOptions(temperature=1.5, top_k=20, top_p=0.9, do_sample=True),
    *(
        GenerationOptions(num_beams=beams, length_penalty=penalty, max_new_tokens=length)
        for beams, penalty, length in itertools.product((2, 5), (-1.0, 0.0, 1.0, 3.0), (1, 6, 25))
    ),
    GenerationOptions(num_beams=4, repetition_penalty=0.6, no_repeat_ngram_size=3, min_new_tokens=5),
    GenerationOptions(num_beams=16, max_new_tokens=12),
]


def build(gated: bool, end_token_ids: int | list[int] = END, seed: int = 0) -> T5ForConditionalGeneration:
    """A T5 with random weights whose answers end at all lengths."""
    config = T5Config(
        vocab_size=VOCABULARY,
        d_model=HIDDEN,
        d_kv=8,
        d_ff=48,
        num_layers=2,
        num_decoder_layers=2,
        num_heads=4,
        feed_forward_proj="gated-gelu" if gated else "relu",
    )
    config.tie_word_embeddings, config.decoder_start_token_id = not gated, PAD
    torch.manual_seed(seed)
    model = T5ForConditionalGeneration(config).eval().requires_grad_(False)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.35)
    model.lm_head.weight[END] *= 1.5
    model.generation_config.eos_token_id = end_token_ids
    return model


def draw_batch(batch: int, seed: int = 0) -> tuple[torch.Tensor, PromptBatch]:
    """Features, and prompts of different lengths."""
    random_numbers = random.Random(seed)
    lengths = [random_numbers.randint(1, 12) for _ in range(batch)]
    ids = torch.full((batch, QUERY_TOKENS + max(lengths)), PAD)
    ids[:, :QUERY_TOKENS] = IMAGE_TOKEN
    mask = torch.zeros_like(ids)
    for row, length in enumerate(lengths):
        ids[row, QUERY_TOKENS : QUERY_TOKENS + length] = torch.tensor(random_numbers.choices(range(2, 38), k=length))
        mask[row, : QUERY_TOKENS + length] = 1
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(batch, QUERY_TOKENS, HIDDEN, generator=generator), PromptBatch(ids, mask)


def answers(model: LanguageModel, batch: int, options: GenerationOptions, seed: int = 0) -> list[list[int]]:
    """Tokens of each answer up to its end."""
    features, prompts = draw_batch(batch, seed)
    with torch.inference_mode():
        tokens = model.generate(features, prompts, options.canonical(), list(range(batch)), Stopwatch(CPU))
    return [list(itertools.takewhile(lambda token: token not in (PAD, END, 2), row[1:])) for row in tokens.tolist()]


@pytest.fixture(scope="module", params=[(True, END), (False, [END, 2])], ids=["gated", "tied, two end tokens"])
def models(request) -> tuple[LanguageModel, LanguageModel]:
    # transformers first: our own joins weights of the same model.
    return T5LanguageModel(build(*request.param)), TransformersLanguageModel(build(*request.param), IMAGE_TOKEN)


@pytest.mark.parametrize("options", OPTIONS, ids=lambda options: repr(options.model_dump(exclude_defaults=True)))
def test_tokens_are_those_of_transformers(models, options):
    ours, theirs = models
    for batch, seed in ((1, 1), (6, 2), (3, 3)):
        assert answers(ours, batch, options, seed) == answers(theirs, batch, options, seed)


def test_the_answers_compared_are_of_many_lengths(models):
    ours, _ = models
    lengths = {len(answer) for seed in range(10) for answer in answers(ours, 6, GenerationOptions(num_beams=2), seed)}
    assert len(lengths) > 5


def test_sharing_weights_leaves_transformers_own_model_as_it_was():
    model = build(gated=True)
    before = answers(TransformersLanguageModel(model, IMAGE_TOKEN), 4, GenerationOptions())
    ours = T5LanguageModel(model)
    assert (
        answers(TransformersLanguageModel(model, IMAGE_TOKEN), 4, GenerationOptions())
        == before
        == answers(ours, 4, GenerationOptions())
    )


def test_a_search_ends_with_its_last_answer():
    ends = list(range(1, 20))
    ours, stopwatch = T5LanguageModel(build(gated=True, end_token_ids=ends)), Stopwatch(CPU)
    features, prompts = draw_batch(6)
    with torch.inference_mode():
        tokens = ours.generate(features, prompts, GenerationOptions(max_new_tokens=200), [None] * 6, stopwatch)
    lengths = [next(place for place, token in enumerate(row) if token in ends) for row in tokens.tolist()]
    assert stopwatch.steps == max(lengths) < 200
    assert len(set(lengths)) > 1


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("wo_dtype", [None, torch.float32], ids=["all", "wo in float32"])
def test_in_half_precision_first_scores_are_close_to_those_of_float32(dtype, wo_dtype):
    def first_scores(model: T5ForConditionalGeneration) -> torch.Tensor:
        t5 = T5(model, 4)
        features, prompts = draw_batch(4)
        cross_cache, cross_bias = (
            new(4, prompts.input_ids.shape[1]) for new in (t5.new_cross_cache, t5.new_cross_bias)
        )
        t5.encode(features, *prompts, cross_cache, cross_bias)
        step = (torch.zeros(4, dtype=torch.int64), torch.zeros(1, dtype=torch.int64), t5.new_self_cache(4, 4))
        return t5.step(*step, cross_cache, cross_bias).float()

    half = build(gated=True).to(dtype)
    if wo_dtype is not None:
        for block in (*half.encoder.block, *half.decoder.block):
            block.layer[-1].DenseReluDense.wo.to(wo_dtype)
    exact = first_scores(build(gated=True))
    tolerance = 40 * torch.finfo(dtype).eps * exact.abs().max()
    torch.testing.assert_close(first_scores(half), exact, rtol=0, atol=tolerance.item())
