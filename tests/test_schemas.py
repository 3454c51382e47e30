"""Documents on the wire, as clients of other ages and places send them."""

import mimetypes

import pytest
from docarray import BaseDoc, DocList
from docarray.proto import DocProto, NodeProto
from docarray.typing import ImageBytes, ImageUrl

from executor import ErrorCode, ImagePrompt, Response


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


def test_every_code_is_its_own_name():
    assert {code.name: code.value for code in ErrorCode} == {code.name: code.name for code in ErrorCode}


def test_what_is_no_such_document_is_read_with_its_fault_and_its_id():
    sent = DocProto(data={"id": NodeProto(text="7"), "prompt": NodeProto(integer=5)})
    document = ImagePrompt.from_protobuf(sent)
    assert document.id == "7"
    assert document.fault is not None
    assert "prompt" in document.fault
    assert ImagePrompt(prompt="a photo of").fault is None
