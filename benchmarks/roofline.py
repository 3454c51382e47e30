"""The least time that a batch can take: its arithmetic at the device's peak, or its bytes at full bandwidth.

Operations are counted by PyTorch as the code runs on a model without memory, bytes are those of the weights and of the
caches; both peaks are measured first, on this device, with a large matrix product and a large copy.
"""

import time
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import Blip2ForConditionalGeneration

from executor.checkpoints.loading import Checkpoint
from executor.model.t5 import T5
from executor.model.vision import Vision


class Peaks(NamedTuple):
    """Of a device: floating point operations and bytes per second."""

    flops: float
    bandwidth: float


class Ideal(NamedTuple):
    """Seconds that the stages of a batch take at least, and the whole."""

    encode_s: float
    prefill_s: float
    step_s: float

    def total(self, new_tokens: int) -> float:
        """With answers of this many tokens."""
        return self.encode_s + self.prefill_s + new_tokens * self.step_s


def _seconds(work: Callable[[], Any], device: torch.device, repeats: int) -> float:
    best = float("inf")
    for _ in range(repeats):
        _wait(device)
        started = time.perf_counter()
        work()
        _wait(device)
        best = min(best, time.perf_counter() - started)
    return best


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def measure_peaks(device: torch.device, dtype: torch.dtype) -> Peaks:
    """The best of several tries."""
    size, copied = (8192, 2**31) if device.type == "cuda" else (1536, 2**28)
    left, right = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    source = torch.randint(0, 255, (copied,), dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    flops = 2 * size**3 / _seconds(lambda: left @ right, device, 10)
    return Peaks(flops, 2 * copied / _seconds(lambda: target.copy_(source), device, 10))


def ideal(checkpoint: Checkpoint, peaks: Peaks, batch: int, prompt_tokens: int, new_tokens: int) -> Ideal:
    """For greedy answers to `batch` different pictures."""
    with torch.device("meta"):
        model: Any = Blip2ForConditionalGeneration(checkpoint.model.config)
        model.to(checkpoint.dtype).eval().requires_grad_(False)
    text, device, queries = model.language_model, torch.device("meta"), model.config.num_query_tokens
    text.generation_config = checkpoint.model.language_model.generation_config
    length = queries + prompt_tokens
    vision, t5 = Vision(model, checkpoint.processor.image_processor, device), T5(text, new_tokens)
    size = model.config.vision_config.image_size
    ids = torch.zeros(1, length, dtype=torch.int64, device=device)
    cross_cache, cross_bias = t5.new_cross_cache(1, length), t5.new_cross_bias(1, length)
    self_cache = t5.new_self_cache(1, new_tokens)
    features = torch.zeros(1, queries, text.config.d_model, dtype=t5.dtype, device=device)
    stages = (
        lambda: vision.encode(torch.zeros(1, 3, size, size, dtype=torch.uint8, device=device)),
        lambda: t5.encode(features, ids, torch.ones_like(ids), cross_cache, cross_bias),
        lambda: t5.step(ids[0, :1], ids[0, :1], self_cache, cross_cache, cross_bias),
    )
    model, text = checkpoint.model, checkpoint.model.language_model
    seen = _bytes(model.vision_model, model.qformer, model.language_projection)
    prompts = _bytes(text.encoder.block, *(block.layer[1].EncDecAttention.k for block in text.decoder.block))
    answers = _bytes(text.decoder.block, text.lm_head) + batch * (cross_cache.nbytes + self_cache.nbytes / 2)
    seconds = []
    for stage, read in zip(stages, (seen, prompts, answers), strict=True):
        with torch.inference_mode(), FlopCounterMode(display=False) as counter:
            stage()
        seconds.append(max(batch * counter.get_total_flops() / peaks.flops, read / peaks.bandwidth))
    return Ideal(*seconds)


def _bytes(*modules: torch.nn.Module) -> int:
    return sum(parameter.nbytes for module in modules for parameter in module.parameters())
