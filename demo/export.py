"""Writes a trained model as a checkpoint that plain transformers loads: float16 weights, processor, model card."""

from __future__ import annotations

import copy
import os
import shutil
from pathlib import Path

import torch
from transformers import Blip2ForConditionalGeneration, Blip2Processor

MODEL_CARD = "README.md"


def export_checkpoint(
    weights: dict[str, torch.Tensor],
    architecture: Blip2ForConditionalGeneration,
    processor: Blip2Processor,
    target: Path,
) -> None:
    """Replaces the folder `target` by a complete one, so that a reader never meets half a checkpoint.

    `weights` is a state dict of `architecture`. The model card in `target` is kept.
    """
    model = copy.deepcopy(architecture)
    model.load_state_dict(weights)
    unfinished = target.with_name(target.name + ".new")
    shutil.rmtree(unfinished, ignore_errors=True)
    # All weights become float16 on disk only: transformers restores the dtype that the reader asks for.
    model.half().save_pretrained(unfinished)
    processor.save_pretrained(unfinished)
    for file in unfinished.iterdir():
        file.chmod(0o644)  # safetensors writes files that only their owner can read
    if (target / MODEL_CARD).exists():
        shutil.copy(target / MODEL_CARD, unfinished / MODEL_CARD)
    previous = target.with_name(target.name + ".old")
    shutil.rmtree(previous, ignore_errors=True)
    if target.exists():
        os.replace(target, previous)
    os.replace(unfinished, target)
    shutil.rmtree(previous, ignore_errors=True)
