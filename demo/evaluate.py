"""How often the checkpoint is right on pictures it was never trained on: `python -m demo.evaluate`.

The controls put the same questions to another picture and to a blank one: a model that answers from the picture must
then fall to about `chance`, the share of the most frequent answer. The last line printed is JSON.
"""

from __future__ import annotations

import argparse
import json
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypedDict

import torch
from PIL import Image
from tqdm import tqdm
from transformers import Blip2ForConditionalGeneration, Blip2Processor

from demo.drawing import draw_random_scene
from demo.questions import TYPES, Question, ask
from demo.scenes import random_scene, random_stream

CHECKPOINT = Path(__file__).parent / "checkpoint"
QUESTIONS_PER_PICTURE = ("count", "count", "colour", "existence", "caption")
DIALOGUE = "dialogue"
ROWS = (*TYPES, DIALOGUE)
PICTURES_PER_BATCH = 25
VIEWS = ("right picture", "wrong picture", "blank picture")
BLANK_GREY = (200, 200, 200)


@dataclass(frozen=True)
class Sample:
    picture: Image.Image
    questions: tuple[Question, ...]


def load_checkpoint(checkpoint: Path) -> tuple[Blip2ForConditionalGeneration, Blip2Processor]:
    """The checkpoint in float32, as anybody would load it, with the Pillow image processor."""
    model = Blip2ForConditionalGeneration.from_pretrained(checkpoint, dtype=torch.float32)
    return model.eval(), Blip2Processor.from_pretrained(checkpoint, backend="pil")


def evaluation_samples(seed: int, pictures: int) -> Iterator[Sample]:
    """Pictures and questions from the `evaluate` split, which shares no random stream with training.

    Questions that follow an earlier one are a type of their own, `dialogue`: those are about counts and existence.
    """
    for index in range(pictures):
        stream = random_stream("evaluate", seed, index)
        scene = random_scene(stream)
        picture = draw_random_scene(scene, stream)
        questions = [ask(scene, wanted, stream, dialogue_share=0.0) for wanted in QUESTIONS_PER_PICTURE]
        dialogue = ask(scene, stream.choice(("count", "existence")), stream, dialogue_share=1.0)
        if dialogue is not None:
            questions.append(replace(dialogue, type=DIALOGUE))
        yield Sample(picture, tuple(question for question in questions if question is not None))


class Report(TypedDict):
    """Shares from 0 to 1 by type of question; `control` by view first; `questions` are numbers."""

    accuracy: dict[str, float]
    control: dict[str, dict[str, float]]
    chance: dict[str, float]
    questions: dict[str, int]


@torch.inference_mode()
def generate_answers(
    model: Blip2ForConditionalGeneration, processor: Blip2Processor, pictures: list[Image.Image], prompts: list[str]
) -> list[str]:
    """Greedy answers, one per picture and prompt, in lower case without outer spaces."""
    inputs = processor(images=pictures, text=prompts, padding=True, return_tensors="pt")
    tokens = model.generate(**inputs, do_sample=False, num_beams=1, max_new_tokens=20)
    return [text.strip().lower() for text in processor.batch_decode(tokens, skip_special_tokens=True)]


def measure(
    model: Blip2ForConditionalGeneration, processor: Blip2Processor, samples: Iterator[Sample], total: int
) -> Report:
    """Answers every question three times, from each view, and counts what is exactly right."""
    right: dict[str, Counter[str]] = {view: Counter() for view in VIEWS}
    truths: dict[str, Counter[str]] = defaultdict(Counter)
    progress = tqdm(total=total, unit="picture")
    for batch in _batches(samples):
        questions = [question for sample in batch for question in sample.questions]
        for question in questions:
            truths[question.type][question.answer] += 1
        for view, pictures in _views(batch).items():
            repeated = [picture for sample, picture in zip(batch, pictures, strict=True) for _ in sample.questions]
            answers = generate_answers(model, processor, repeated, [question.prompt for question in questions])
            for question, answer in zip(questions, answers, strict=True):
                right[view][question.type] += answer == question.answer
        progress.update(len(batch))
    progress.close()
    asked = {kind: truths[kind].total() for kind in ROWS}
    shares = {view: {kind: right[view][kind] / max(1, asked[kind]) for kind in ROWS} for view in VIEWS}
    return {
        "accuracy": shares["right picture"],
        "control": {view: shares[view] for view in VIEWS[1:]},
        "chance": {kind: max(truths[kind].values(), default=0) / max(1, asked[kind]) for kind in ROWS},
        "questions": asked,
    }


def _batches(samples: Iterator[Sample]) -> Iterator[list[Sample]]:
    batch: list[Sample] = []
    for sample in samples:
        batch.append(sample)
        if len(batch) == PICTURES_PER_BATCH:
            yield batch
            batch = []
    if batch:
        yield batch


def _views(batch: list[Sample]) -> dict[str, list[Image.Image]]:
    pictures = [sample.picture for sample in batch]
    blank = Image.new("RGB", (224, 224), BLANK_GREY)
    return dict(zip(VIEWS, (pictures, pictures[1:] + pictures[:1], [blank] * len(pictures)), strict=True))


def format_table(report: Report) -> str:
    accuracy, control, chance, asked = report["accuracy"], report["control"], report["chance"], report["questions"]
    rows = [f"{'':12}{'questions':>10}{'right':>9}{'wrong picture':>15}{'blank picture':>15}{'chance':>9}"]
    for kind in ROWS:
        rows.append(
            f"{kind:12}{asked[kind]:>10}{accuracy[kind]:>9.1%}{control['wrong picture'][kind]:>15.1%}"
            f"{control['blank picture'][kind]:>15.1%}{chance[kind]:>9.1%}"
        )
    return "\n".join(rows)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m demo.evaluate", description=__doc__)
    parser.add_argument("--seed", type=int, default=1, help="decides the pictures; never those of training")
    parser.add_argument("--pictures", type=int, default=1000)
    parser.add_argument("--checkpoint", type=Path, default=CHECKPOINT)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    if options.pictures < 2:
        parser.error("--pictures must be at least 2: the control needs another picture")
    torch.set_num_threads(options.threads)
    model, processor = load_checkpoint(options.checkpoint)
    report = measure(model, processor, evaluation_samples(options.seed, options.pictures), options.pictures)
    print(format_table(report))
    print(json.dumps(report))


if __name__ == "__main__":
    main()
