"""What is asked and what must come back: transformers' own answers, and the codes of faults.

Knows Jina's protocol as bytes, and neither clients nor the service.
"""

import base64
import io
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from docarray.proto import DictOfAnyProto, NodeProto
from jina.proto import jina_pb2
from PIL import Image
from transformers import Blip2ForConditionalGeneration, Blip2Processor, LogitsProcessorList

from demo.evaluate import evaluation_samples
from demo.service import CHECKPOINT
from executor.model.sampling import RowwiseSampling
from executor.questions import templates
from executor.questions.options import GenerationOptions

_SEED = 31
_OPTIONS: tuple[dict[str, Any], ...] = (
    {},
    {"max_new_tokens": 3},
    {"num_beams": 3, "length_penalty": -1.0, "max_new_tokens": 10},
    {"temperature": 3.0, "seed": 5},
    {"temperature": 2.0, "top_k": 20, "top_p": 0.9, "seed": 2**31 - 1},
)
_CAPTION: dict[str, Any] = {"num_beams": 5, "max_new_tokens": 30}
"""What the preset `caption` stands for."""

Value = str | bytes | int | float | dict
_NODES = {str: "text", bytes: "blob", bool: "boolean", int: "integer", float: "float"}


@dataclass(frozen=True)
class Item:
    """A document and what must come back: an answer, or an error with this code."""

    fields: Mapping[str, Value]
    answer: str = ""
    code: str = ""


@dataclass(frozen=True)
class _Case:
    picture: int
    fields: Mapping[str, Value]
    answer: str


class Failed(Exception):
    """The service says that a request failed as a whole. `str()` of it is what it says."""


class Questions:
    """Drawn pictures, several questions about each, and plain transformers' answers to each of them alone.

    Args:
        pictures: how many; all different.
    """

    def __init__(self, pictures: int) -> None:
        processor = Blip2Processor.from_pretrained(CHECKPOINT, backend="pil")
        model = Blip2ForConditionalGeneration.from_pretrained(CHECKPOINT, dtype=torch.float32).eval()
        self.pictures: list[bytes] = []
        self._cases: list[_Case] = []
        for number, sample in enumerate(evaluation_samples(_SEED, pictures)):
            encoded = io.BytesIO()
            sample.picture.save(encoded, "PNG" if number % 2 else "JPEG")
            self.pictures.append(encoded.getvalue())
            decoded = Image.open(encoded).convert("RGB")
            asked = [(sample.questions[number % len(sample.questions)].prompt, options) for options in _OPTIONS]
            for prompt, options in [*asked, ("a photo of", _CAPTION)]:
                answer = _reference(processor, model, decoded, templates.render(prompt), options)
                sent = {"preset": "caption"} if options is _CAPTION else options
                self._cases.append(_Case(number, {"prompt": prompt, **sent}, answer))

    def sound(self, numbers: random.Random, url: str) -> Item:
        """A question with an answer; its picture comes as bytes, as a data: URI or from `url`."""
        case = numbers.choice(self._cases)
        picture = self.pictures[case.picture]
        way = numbers.random()
        if way < 0.7:
            reference: dict[str, Value] = {"img_bytes": picture}
        elif way < 0.85:
            reference = {"img": "data:image/png;base64," + base64.b64encode(picture).decode()}
        else:
            reference = {"img": f"{url}/{case.picture}"}
        return Item({**reference, **case.fields}, answer=case.answer)

    def plain(self) -> list[tuple[bytes, str, str]]:
        """(picture, prompt, answer) of the questions without options."""
        asked = [case for case in self._cases if set(case.fields) == {"prompt"}]
        return [(self.pictures[case.picture], str(case.fields["prompt"]), case.answer) for case in asked]

    def faulty(self, numbers: random.Random, urls: Mapping[str, str]) -> Item:
        """A document that no answer can be given to.

        Args:
            urls: of the servers `missing`, `broken`, `slow` and `dead`.
        """
        good = numbers.choice(self.pictures)
        sound: dict[str, Value | None] = {"img_bytes": good, "prompt": "how many cats are there?"}
        none: dict[str, Value | None] = {"img_bytes": None}
        changes: list[tuple[dict[str, Value | None], str]] = [
            ({"img_bytes": b"no picture"}, "NOT_AN_IMAGE"),
            ({"img_bytes": good[: len(good) // 2]}, "CORRUPT_IMAGE"),
            (none | {"img": "data:image/png;base64,!"}, "NOT_AN_IMAGE"),
            (none | {"img": f"{urls['missing']}/x"}, "IMAGE_NOT_FOUND"),
            (none | {"img": f"{urls['broken']}/x"}, "FETCH_FAILED"),
            (none | {"img": f"{urls['dead']}/x"}, "FETCH_FAILED"),
            (none | {"img": f"{urls['slow']}/x"}, "FETCH_TIMED_OUT"),
            (none | {"img": "http://10.0.0.1/x"}, "ADDRESS_NOT_ALLOWED"),
            (none | {"img": "/etc/passwd"}, "UNSUPPORTED_SCHEME"),
            ({"prompt": "  "}, "EMPTY_PROMPT"),
            ({"prompt": "cats " * 3000}, "PROMPT_TOO_LONG"),
            ({"prompt": 5}, "INVALID_DOCUMENT"),
            ({"img_bytes": {}}, "INVALID_DOCUMENT"),
            ({"num_beams": 1000}, "INVALID_OPTIONS"),
            ({"temperature": float("nan")}, "INVALID_OPTIONS"),
            ({"preset": "papers"}, "INVALID_OPTIONS"),
        ]
        fields, code = numbers.choice(changes)
        return Item({name: value for name, value in (sound | fields).items() if value is not None}, code=code)


def encode(items: Sequence[Item], parameters: Mapping[str, Any] | None = None) -> bytes:
    """A request's bytes; each document's id is its place."""
    request = jina_pb2.DataRequestProto()
    request.header.exec_endpoint = "/vqa"
    request.header.request_id = "soak"
    if parameters:
        request.parameters.update(parameters)
    for place, item in enumerate(items):
        document = request.data.docs.docs.add()
        document.data["id"].text = str(place)
        for name, value in item.fields.items():
            document.data[name].CopyFrom(_node(value))
    return bytes(request.SerializeToString())


def decode(reply: bytes, items: Sequence[Item]) -> list[tuple[str, str]]:
    """(answer, error) of each document.

    Raises:
        Failed: the service says that the whole request failed.
        ValueError: the documents of the reply are not those of the request.
    """
    request = jina_pb2.DataRequestProto.FromString(reply)
    if request.header.status.code == jina_pb2.StatusProto.ERROR:
        raise Failed(f"{request.header.status.description}{request.header.status.exception or ''}")
    documents = request.data.docs.docs
    if [document.data["id"].text for document in documents] != [str(place) for place in range(len(items))]:
        raise ValueError(f"{len(documents)} documents came back for {len(items)}, or in another order")
    return [(document.data["answer"].text, document.data["error"].text) for document in documents]


def _node(value: Value) -> Any:
    return NodeProto(dict=DictOfAnyProto()) if isinstance(value, dict) else NodeProto(**{_NODES[type(value)]: value})


@torch.inference_mode()
def _reference(processor: Any, model: Any, picture: Image.Image, prompt: str, options: Mapping[str, Any]) -> str:
    chosen = GenerationOptions(**options)
    # transformers cannot draw a row's tokens from a seed of its own: the drawing alone is ours.
    processors = [RowwiseSampling(chosen, [chosen.seed], torch.device("cpu"))] if chosen.samples else []
    inputs = processor(images=picture, text=prompt, return_tensors="pt")
    tokens = model.generate(**inputs, **chosen.generate_kwargs(), logits_processor=LogitsProcessorList(processors))
    return str(processor.decode(tokens[0], skip_special_tokens=True)).strip()
