"""What happens before the service is ready: programs for all shapes of batches are captured, and everything runs once.

What cannot be captured on this machine runs without graphs: slower, with the same answers, and one line in the log.
Knows which machines and checkpoints can have graphs. It must not know what the programs compute.
"""

from collections.abc import Callable
from typing import Literal

import torch
from tqdm import tqdm

from executor.model.blip2 import Blip2Model
from executor.model.graphs import Capture, CudaGraphs
from executor.model.shapes import Shapes
from executor.questions.options import GenerationOptions
from executor.questions.presets import PRESETS

Compile = Literal["off", "graphs", "max"]
_NEXT: dict[Compile, Compile] = {"max": "graphs", "graphs": "off"}
_PRESETS_BEAMS = {preset.options.num_beams for preset in PRESETS.values()}


def warm_up(
    model: Blip2Model, compile: Compile, max_batch: int, options: GenerationOptions, log: Callable[[str], None]
) -> Compile:
    """Makes `model` ready for batches of up to `max_batch` documents.

    Args:
        model: the checkpoint on its device.
        compile: `off`; `graphs`, CUDA graphs for each shape of batch; `max`, compiled by TorchInductor before that.
        max_batch: most documents in one batch.
        options: of documents that choose nothing.
        log: told in one line when something is not possible.

    Returns:
        What was possible: `compile`, or less.
    """
    reason = _why_no_graphs(model)
    if compile != "off" and reason is not None:
        log(f"compile '{compile}' is not possible: {reason}; going on with 'off'")
        compile = "off"
    while compile != "off":
        shapes = Shapes.up_to(
            max_batch, model.num_query_tokens, model.max_prompt_tokens, _PRESETS_BEAMS | {options.num_beams}
        )
        failure = _capture(model, shapes, CudaGraphs(model.device, fuse=compile == "max"))
        if failure is None:
            break
        log(f"compile '{compile}' is not possible: {failure}; going on with '{_NEXT[compile]}'")
        compile = _NEXT[compile]
    # Libraries make their handles and choose their kernels in the first call.
    for batch in sorted({1, max_batch}):
        model.answer_blank(batch, options)
    return compile


def _why_no_graphs(model: Blip2Model) -> str | None:
    if model.device.type != "cuda":
        return f"graphs need CUDA, and the device is {model.device}"
    if model.is_spread:
        return "the model is spread over several devices"
    if model.is_quantized:
        return "bitsandbytes' layers look at their numbers on the host"
    return None


def _capture(model: Blip2Model, shapes: Shapes, capture: Capture) -> str | None:
    """Captures, or says in a few words why not."""
    try:
        total = model.programs(shapes)
        # `disable=None`: only a terminal sees the progress bar, and no file and no log of JSON.
        for _ in tqdm(model.capture(shapes, capture), desc="Capturing", total=total, unit="graph", disable=None):
            pass
    except (RuntimeError, AssertionError, ImportError) as error:  # what drivers, kernels and compilers raise
        model.release()
        torch.cuda.empty_cache()
        return f"{type(error).__name__}: {(str(error).strip() or 'no message').splitlines()[0][:200]}"
    return None
