"""What is asked: drawn pictures as encoded bytes, a prompt for each, and the right answers of plain transformers.

Pictures are from the demo's `evaluate` split, at the size they were drawn (128 to 640 pixels a side), half JPEG and
half PNG, all different: no server gains by having seen one before. Prompts are complete ("Question: ... Answer:"), so
that no server has to know a template.
"""

import base64
import io
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image
from transformers import Blip2ForConditionalGeneration, Blip2Processor

from demo.evaluate import evaluation_samples
from executor.questions import templates

MAX_NEW_TOKENS = 20
_SEED = 9


@dataclass(frozen=True)
class Case:
    """An encoded picture, a prompt, and what transformers answers to them alone."""

    picture: bytes
    prompt: str
    answer: str


def build(model: Path, number: int) -> list[Case]:
    """Draws `number` pictures and asks plain transformers about each, one by one, greedily, in float32 on the CPU."""
    processor = Blip2Processor.from_pretrained(model, backend="pil")
    reference = Blip2ForConditionalGeneration.from_pretrained(model, dtype=torch.float32).eval()
    cases = []
    for picture, prompt in questions(number):
        inputs = processor(images=Image.open(io.BytesIO(picture)), text=prompt, return_tensors="pt")
        with torch.inference_mode():
            tokens = reference.generate(**inputs, do_sample=False, num_beams=1, max_new_tokens=MAX_NEW_TOKENS)
        cases.append(Case(picture, prompt, processor.decode(tokens[0], skip_special_tokens=True).strip()))
    return cases


def save(cases: list[Case], file: Path) -> None:
    """Writes cases as JSON."""
    rows = [[base64.b64encode(case.picture).decode(), case.prompt, case.answer] for case in cases]
    file.write_text(json.dumps(rows))


def questions(number: int) -> Iterator[tuple[bytes, str]]:
    """Encoded pictures and prompts."""
    for index, sample in enumerate(evaluation_samples(_SEED, number)):
        encoded = io.BytesIO()
        if index % 2:
            sample.picture.save(encoded, "PNG")
        else:
            sample.picture.save(encoded, "JPEG", quality=88)
        question = sample.questions[index // 2 % len(sample.questions)]
        yield encoded.getvalue(), templates.render(question.prompt)
