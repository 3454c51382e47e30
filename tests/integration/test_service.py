"""What a client of a running service can rely on, over a real socket."""

import base64
import random

import pytest
from docarray import DocList
from jina import Client

from executor import ImagePrompt, Response
from tests.conftest import PICTURES

QUESTION = "Question: how many cats are there? Answer:"


@pytest.fixture(scope="module")
def client(service):
    return Client(port=service.port)


def post(client, *documents: ImagePrompt, **parameters: object) -> DocList[Response]:
    return client.post(
        on="/vqa", inputs=DocList[ImagePrompt](documents), return_type=DocList[Response], parameters=parameters
    )


def test_bytes_and_data_uri_get_the_same_answer(client, two_cats):
    uri = "data:image/jpeg;base64," + base64.b64encode(two_cats).decode()
    responses = post(client, ImagePrompt(img_bytes=two_cats, prompt=QUESTION), ImagePrompt(img=uri, prompt=QUESTION))
    assert [(response.answer, response.error) for response in responses] == [("two", ""), ("two", "")]


@pytest.mark.parametrize("path", ["/", "/vqa", "/bar", "/any/other/path"])
def test_every_path_answers(client, two_cats, path):
    prompt = ImagePrompt(img_bytes=two_cats, prompt=QUESTION)
    assert client.post(on=path, inputs=prompt, return_type=DocList[Response])[0].answer == "two"


def test_a_bare_question_is_answered_like_the_template(client, two_cats):
    texts = [QUESTION, "how many cats are there?", "How many CATS are there ?"]
    responses = post(client, *(ImagePrompt(img_bytes=two_cats, prompt=text) for text in texts))
    assert [response.answer for response in responses] == ["two"] * 3


def test_an_empty_request_gets_an_empty_answer(client):
    assert len(client.post(on="/", inputs=DocList[ImagePrompt](), return_type=DocList[Response])) == 0


def test_one_broken_document_leaves_its_batch_unharmed(client, two_cats):
    good = ImagePrompt(img_bytes=two_cats, prompt=QUESTION)
    broken = {
        "NO_IMAGE": ImagePrompt(prompt=QUESTION),
        "NOT_AN_IMAGE": ImagePrompt(img_bytes=b"not a picture", prompt=QUESTION),
        "CORRUPT_IMAGE": ImagePrompt(img_bytes=two_cats[: len(two_cats) // 2], prompt=QUESTION),
        "UNSUPPORTED_SCHEME": ImagePrompt(img="/etc/passwd", prompt=QUESTION),
        "FETCH_FAILED": ImagePrompt(img="http://127.0.0.1:1/cat.jpg", prompt=QUESTION),
        "EMPTY_PROMPT": ImagePrompt(img_bytes=two_cats, prompt="  "),
        "PROMPT_TOO_LONG": ImagePrompt(img_bytes=two_cats, prompt="cats " * 5000),
        "INVALID_OPTIONS": ImagePrompt(img_bytes=two_cats, prompt=QUESTION, num_beams=1000),
    }
    documents = [document for pair in broken.values() for document in (good.model_copy(update={"id": pair.id}), pair)]
    responses = post(client, *documents)
    assert [response.id for response in responses] == [document.id for document in documents]
    assert [response.answer for response in responses[::2]] == ["two"] * len(broken)
    assert [response.answer for response in responses[1::2]] == [""] * len(broken)
    assert [response.error.partition(":")[0] for response in responses[1::2]] == list(broken)


def test_an_error_tells_nothing_about_the_server(client):
    for response in post(
        client, ImagePrompt(img="file:///etc/passwd", prompt="x?"), ImagePrompt(img="data:,x", prompt="x")
    ):
        assert "/etc" not in response.error
        assert "Traceback" not in response.error


def test_order_and_ids_survive_batches_of_several_kinds(client):
    random_numbers = random.Random(3)
    pictures = {"two-cats.jpg": "two", "one-dog.jpg": "zero", "cats-and-dogs.jpg": "three", "three-dogs.png": "zero"}
    asked = random_numbers.choices(list(pictures), k=60)
    documents = [
        ImagePrompt(img_bytes=(PICTURES / name).read_bytes(), prompt=QUESTION, num_beams=random_numbers.choice([1, 3]))
        for name in asked
    ]
    responses = post(client, *documents)
    assert [response.id for response in responses] == [document.id for document in documents]
    assert [response.answer for response in responses] == [pictures[name] for name in asked]


def test_options_come_from_parameters_and_a_documents_own_win(client, two_cats):
    one, other = post(
        client,
        ImagePrompt(img_bytes=two_cats, prompt="a photo of"),
        ImagePrompt(img_bytes=two_cats, prompt="a photo of", max_new_tokens=20),
        max_new_tokens=1,
    )
    assert one.answer == "two"
    assert other.answer.startswith("two cats")


def test_an_unknown_parameter_is_every_documents_error(client, two_cats):
    responses = post(client, *[ImagePrompt(img_bytes=two_cats, prompt=QUESTION)] * 2, num_beans=2)
    assert all(response.error.startswith("INVALID_OPTIONS: there is no option 'num_beans'") for response in responses)


def test_a_sampled_answer_with_a_seed_is_the_same_alone_and_in_any_batch(client, two_cats):
    sampled = ImagePrompt(img_bytes=two_cats, prompt="a photo of", temperature=3.0, seed=11)
    alone = post(client, sampled)[0].answer
    others = [sampled.model_copy(update={"id": str(seed), "seed": seed}) for seed in range(6)]
    responses = post(client, *others[:3], sampled, *others[3:])
    assert responses[3].answer == alone
    assert len({response.answer for response in responses}) > 1
