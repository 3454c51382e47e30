"""Training batches: pictures, prompts with answers, and where every thing is, as tensors.

Batch i follows from the seed and i alone: the number of drawing processes and a resumed run change nothing.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch.utils.data import Dataset
from transformers import PreTrainedTokenizerFast

from demo.architecture import IMAGE_SIZE, PATCHES_PER_SIDE
from demo.drawing import draw_random_scene
from demo.questions import Question, ask
from demo.scenes import COLOURS, KINDS, Scene, colours_of, random_scene, random_stream

IGNORED_LABEL = -100
LABELLED_PAIRS = tuple((kind, colour) for kind in KINDS for colour in colours_of(kind))
# Dialogues are long: all in every fifth batch, they cost no padding in the four others.
DIALOGUE_EVERY, DIALOGUE_SHARE = 5, 0.6
QUESTIONS_PER_PICTURE = ("count", "count", "colour", "existence", "existence", "existence", "caption")


@dataclass(frozen=True)
class Batch:
    """B pictures with Q questions each, all of int64 unless said otherwise.

    pixels (B, 3, S, S) uint8; input_ids (B * Q, P) and labels (B * Q, A), right-padded, labels with -100;
    centre_kinds, cover_kinds, cover_colours (B, patches): 0 for none, else 1 + the index in KINDS or COLOURS of the
    thing whose centre is in the patch, or that covers the patch's centre; kind_counts (B, kinds), colour_counts
    (B, colours); pairs (B, kind-colour pairs) float32, 1 where the picture has such a thing.
    """

    pixels: torch.Tensor
    input_ids: torch.Tensor
    labels: torch.Tensor
    centre_kinds: torch.Tensor
    cover_kinds: torch.Tensor
    cover_colours: torch.Tensor
    kind_counts: torch.Tensor
    colour_counts: torch.Tensor
    pairs: torch.Tensor


class TrainingBatches(Dataset[Batch]):
    """`pictures` new pictures per batch, never the same twice."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast, seed: int, pictures: int) -> None:
        self._tokenizer = tokenizer
        self._seed = seed
        self._pictures = pictures

    def __getitem__(self, number: int) -> Batch:
        scenes, pixels, questions = [], [], []
        dialogue_share = 0.0 if number % DIALOGUE_EVERY else DIALOGUE_SHARE
        for index in range(number * self._pictures, (number + 1) * self._pictures):
            stream = random_stream("train", self._seed, index)
            scene = random_scene(stream)
            scenes.append(scene)
            pixels.append(picture_to_pixels(draw_random_scene(scene, stream)))
            for wanted in QUESTIONS_PER_PICTURE:
                question = ask(scene, wanted, stream, dialogue_share)
                question = question or ask(scene, "existence", stream, dialogue_share)
                assert question is not None
                questions.append(question)
        return self._collate(scenes, pixels, questions)

    def _collate(self, scenes: list[Scene], pixels: list[torch.Tensor], questions: list[Question]) -> Batch:
        centres, kinds, colours = zip(*(_patch_targets(scene) for scene in scenes), strict=True)
        labels = self._pad([question.answer for question in questions])
        return Batch(
            pixels=torch.stack(pixels),
            input_ids=self._pad([question.prompt for question in questions]),
            labels=labels.masked_fill(labels == self._tokenizer.pad_token_id, IGNORED_LABEL),
            centre_kinds=torch.stack(centres),
            cover_kinds=torch.stack(kinds),
            cover_colours=torch.stack(colours),
            kind_counts=torch.tensor([[scene.count(kind) for kind in KINDS] for scene in scenes]),
            colour_counts=torch.tensor([[scene.count(colour=colour) for colour in COLOURS] for scene in scenes]),
            pairs=torch.tensor([[float(scene.count(*pair) > 0) for pair in LABELLED_PAIRS] for scene in scenes]),
        )

    def _pad(self, texts: list[str]) -> torch.Tensor:
        ids: torch.Tensor = self._tokenizer(texts, padding=True, return_tensors="pt").input_ids
        return ids


def picture_to_pixels(picture: Image.Image) -> torch.Tensor:
    """What the checkpoint's image processor does before it scales: (3, S, S) uint8."""
    small = picture.convert("RGB").resize((IMAGE_SIZE, IMAGE_SIZE), Image.Resampling.BICUBIC)
    return torch.from_numpy(np.array(small)).permute(2, 0, 1).contiguous()


def _patch_targets(scene: Scene) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    side = PATCHES_PER_SIDE
    centre = torch.zeros(side, side, dtype=torch.int64)
    kind = torch.zeros_like(centre)
    colour = torch.zeros_like(centre)
    for thing in scene.things:
        x, y = thing.x / scene.width * side, thing.y / scene.height * side
        half_width, half_height = thing.size / scene.width * side / 2, thing.size / scene.height * side / 2
        columns = torch.arange(side) + 0.5
        covered = ((columns - y).abs() < half_height * 0.85)[:, None] & ((columns - x).abs() < half_width * 0.85)
        kind[covered] = 1 + KINDS.index(thing.kind)
        colour[covered] = 1 + COLOURS.index(thing.colour)
        centre[int(y), int(x)] = 1 + KINDS.index(thing.kind)
    return centre.flatten(), kind.flatten(), colour.flatten()
