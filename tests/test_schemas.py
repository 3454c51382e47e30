"""Documents on the wire, as clients of other ages and places send them."""

import mimetypes
from typing import Any

import numpy as np
import pytest
from docarray import BaseDoc, DocList
from docarray.typing import ImageBytes, ImageUrl

from executor import ErrorCode, ImagePrompt, Response
from executor.questions.options import GenerationOptions
from executor.schemas import UnreadablePrompt


class ArticlePrompt(BaseDoc):
    img: ImageUrl
    prompt: str


class ArticleResponse(BaseDoc):
    answer: str


class BytesPrompt(BaseDoc):
    img_bytes: ImageBytes
    prompt: str


def send(document: BaseDoc) -> ImagePrompt:
    sent = DocList.__class_getitem__(type(document))([document])
    return DocList[ImagePrompt].from_protobuf(sent.to_protobuf())[0]


def test_the_articles_two_field_prompt_is_understood():
    received = send(ArticlePrompt(id="7", img="http://example.com/cat.jpg", prompt="what?"))
    assert (received.id, received.img, received.prompt) == ("7", "http://example.com/cat.jpg", "what?")
    assert received.num_beams is None


def test_the_articles_one_field_response_is_what_its_client_reads():
    received = DocList[ArticleResponse].from_protobuf(DocList[Response]([Response(answer="two")]).to_protobuf())
    assert received[0].answer == "two"


def test_bytes_of_docarrays_own_type_arrive_as_bytes():
    assert send(BytesPrompt(img_bytes=b"\xff\xd8", prompt="what?")).img_bytes == b"\xff\xd8"


def test_an_image_url_is_not_refused_for_an_extension_that_this_machine_does_not_know(monkeypatch):
    prompt = ArticlePrompt(img="http://example.com/cat.webp", prompt="what?")
    monkeypatch.setattr(mimetypes, "guess_type", lambda *args, **kwargs: ("application/unknown", None))
    assert send(prompt).img == "http://example.com/cat.webp"


@pytest.mark.parametrize("url", ["http://a.example/image.php?id=1", "http://a.example/a.jpg:large", "data:,x"])
def test_a_url_needs_no_extension(url):
    assert send(ImagePrompt(img=url, prompt="what?")).img == url


def test_options_survive_the_wire_with_their_types():
    received = send(ImagePrompt(prompt="x", num_beams=5, length_penalty=-1.0, do_sample=False, seed=2**31 - 1))
    assert (received.num_beams, received.length_penalty, received.do_sample, received.seed) == (
        5,
        -1.0,
        False,
        2**31 - 1,
    )


def test_missing_fields_are_none():
    class Nothing(BaseDoc):
        pass

    received = send(Nothing())
    assert (received.img, received.prompt, received.img_bytes) == (None, None, None)


class Anything(BaseDoc):
    id: Any = "7"
    img: Any = None
    prompt: Any = None
    img_bytes: Any = None
    num_beams: Any = None


@pytest.mark.parametrize(
    ("fields", "fault"),
    [
        ({"prompt": 7}, "'prompt': input should be a valid string"),
        ({"img": {"url": "http://x"}}, "'img': input should be a valid string"),
        ({"img": [1.0, 2.0]}, "'img': input should be a valid string"),
        ({"img_bytes": np.zeros((2, 2))}, "'img_bytes': input should be a valid bytes"),
        ({"num_beams": "many"}, "'num_beams': input should be a valid integer, unable to parse string as an integer"),
        ({"num_beams": 1.5}, "'num_beams': input should be a valid integer, got a number with a fractional part"),
        ({"img": ArticleResponse(answer="s3cret")}, "'img': input should be a valid string"),
    ],
    ids=["number", "dict", "list", "array", "text", "fraction", "document"],
)
def test_a_field_of_a_wrong_type_is_that_documents_fault_and_its_value_is_not_repeated(fields, fault):
    sent = DocList[Anything]([Anything(**fields), Anything(prompt="what?")])
    wrong, right = DocList[ImagePrompt].from_protobuf(sent.to_protobuf())
    assert isinstance(wrong, UnreadablePrompt)
    assert (wrong.id, wrong.fault) == ("7", fault)
    assert (type(right), right.prompt) == (ImagePrompt, "what?")


def test_fields_that_the_service_does_not_know_are_passed_over():
    class Newer(BaseDoc):
        prompt: str
        colour: str

    received = send(Newer(prompt="what?", colour="red"))
    assert (type(received), received.prompt) == (ImagePrompt, "what?")


def test_every_code_is_its_own_name():
    assert {code.name: code.value for code in ErrorCode} == {code.name: code.name for code in ErrorCode}


def test_a_document_has_a_field_for_each_generation_option_and_for_nothing_else():
    own = {"id", "img", "img_bytes", "prompt", "preset"}
    fields = {name: field.annotation for name, field in ImagePrompt.model_fields.items() if name not in own}
    declared = {name: field.annotation for name, field in GenerationOptions.model_fields.items()}
    assert fields == {name: annotation | None for name, annotation in declared.items()}  # type: ignore[operator]
