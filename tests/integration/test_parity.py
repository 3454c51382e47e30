"""Answers through the service against transformers' own, asked one by one, on 200 pictures and questions."""

import io
import random

import pytest
import torch
from docarray import DocList
from jina import Client
from transformers import Blip2ForConditionalGeneration, Blip2Processor

from demo.evaluate import evaluation_samples
from demo.service import CHECKPOINT
from executor import ImagePrompt, Response

SAMPLES = 200
SEED = 77


@pytest.fixture(scope="module")
def samples():
    """(picture, prompt) pairs: every kind of question in turn."""
    return [
        (sample.picture, sample.questions[place % len(sample.questions)].prompt)
        for place, sample in enumerate(evaluation_samples(SEED, SAMPLES))
    ]


@pytest.fixture(scope="module")
def reference():
    processor = Blip2Processor.from_pretrained(CHECKPOINT, backend="pil")
    model = Blip2ForConditionalGeneration.from_pretrained(CHECKPOINT, dtype=torch.float32).eval()

    def ask(picture, prompt, **options):
        inputs = processor(images=picture, text=prompt, return_tensors="pt")
        tokens = model.generate(**inputs, max_new_tokens=20, **options)
        return processor.decode(tokens[0], skip_special_tokens=True).strip()

    return ask


@pytest.mark.parametrize(
    "options", [{"num_beams": 1}, {"num_beams": 5, "length_penalty": -1.0}], ids=["greedy", "beams"]
)
def test_the_service_answers_as_transformers_does_whatever_the_batch(service, samples, reference, options):
    documents = []
    for picture, prompt in samples:
        encoded = io.BytesIO()
        picture.save(encoded, "PNG")
        documents.append(ImagePrompt(img_bytes=encoded.getvalue(), prompt=prompt))
    random.Random(SEED).shuffle(order := list(range(len(documents))))

    responses = Client(port=service.port).post(
        on="/",
        inputs=DocList[ImagePrompt]([documents[place] for place in order]),
        return_type=DocList[Response],
        request_size=37,
        parameters=options,
    )

    by_id = {response.id: response.answer for response in responses}
    answers = [by_id[document.id] for document in documents]
    expected = [reference(picture, templated(prompt), **options) for picture, prompt in samples]
    assert answers == expected
    assert len(set(answers)) > 20


def templated(prompt: str) -> str:
    """What docs/options.md promises for a bare question."""
    bare = prompt.endswith("?") and "Question:" not in prompt
    return f"Question: {prompt} Answer:" if bare else prompt
