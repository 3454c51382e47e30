"""The service without Jina and without a model: how a document passes its parts, and what each may do wrong."""

import asyncio
import logging
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import pytest
import torch

from executor.errors import DocumentError, ErrorCode
from executor.model.engine import Question
from executor.questions.tasks import VQA, Task
from executor.scheduling.dynamic_batching import BatchingOptions
from executor.service import Answer, Query, Service
from executor.settings import Settings

LOG = logging.getLogger("blip2-test")


class Echo:
    """Answers a question with its prompt and the colour of its picture; a prompt of `break` breaks its batch."""

    image_size = (4, 4)
    resample = 3
    cache_hits = cache_misses = 0

    def __init__(self) -> None:
        self.prompts: list[str] = []
        self.questions: list[Question] = []
        self.recovered: list[Exception] = []

    def tokenize(self, prompt: str) -> list[int]:
        self.prompts.append(prompt)
        return [len(self.prompts) - 1]

    def collate(self, questions: Sequence[Question]) -> Sequence[Question]:
        self.questions += questions
        return questions

    def run(self, batch: Sequence[Question]) -> list[str]:
        told = [f"{self.prompts[question.token_ids[0]]} {_colour(question.pixels)}" for question in batch]
        if any(text.startswith("break") for text in told):
            raise KeyError("/secret/path")
        return told

    def recover(self, error: Exception) -> None:
        self.recovered.append(error)

    def describe(self) -> Mapping[str, str]:
        return {"device": "none"}

    def device_memory(self) -> tuple[Callable[[], int], Callable[[], int]] | None:
        return None


def _colour(pixels: torch.Tensor) -> int:
    return int(pixels[0, 0, 0])


@pytest.fixture
def engine() -> Echo:
    return Echo()


@pytest.fixture
def service(engine) -> Iterator[Service]:
    service = Service(Settings.resolve({"max_queue": 8}), BatchingOptions(), engine, LOG)
    yield service
    service.close()


def ask(service: Service, *queries: Query, **arguments: Any) -> list[Answer]:
    return asyncio.run(service.answer(queries, **arguments))


def png(grey: int) -> bytes:
    import io

    from PIL import Image

    stream = io.BytesIO()
    Image.new("RGB", (4, 4), (grey, grey, grey)).save(stream, "PNG")
    return stream.getvalue()


def test_each_query_has_its_own_answer_in_order(service):
    queries = [Query(picture_bytes=png(grey), prompt=f"number {grey}") for grey in (10, 20, 30)]
    assert [answer.text for answer in ask(service, *queries)] == ["number 10 10", "number 20 20", "number 30 30"]


def test_a_bare_question_is_put_into_the_template_of_what_was_chosen(service, engine):
    ask(
        service,
        Query(picture_bytes=png(1), prompt="how many?"),
        Query(picture_bytes=png(1), prompt="how many?", options={"preset": "paper"}),
    )
    assert engine.prompts == ["Question: how many? Answer:", "Question: how many? Short answer:"]


def test_options_of_a_query_win_over_those_of_the_request_and_these_over_the_settings(service, engine):
    queries = [Query(picture_bytes=png(1), prompt="x", options=own) for own in ({}, {"num_beams": 3})]
    ask(service, *queries, parameters={"num_beams": 2, "max_new_tokens": 7})
    assert [(q.options.num_beams, q.options.max_new_tokens) for q in engine.questions] == [(2, 7), (3, 7)]


def test_a_fault_of_one_query_is_its_own(service):
    good = Query(picture_bytes=png(5), prompt="x")
    faults = {
        ErrorCode.NO_IMAGE: Query(prompt="x"),
        ErrorCode.NOT_AN_IMAGE: Query(picture_bytes=b"no picture", prompt="x"),
        ErrorCode.EMPTY_PROMPT: Query(picture_bytes=png(5), prompt=" "),
        ErrorCode.INVALID_OPTIONS: Query(picture_bytes=png(5), prompt="x", options={"num_beams": 99}),
        ErrorCode.INVALID_DOCUMENT: Query(fault="'prompt': input should be a valid string"),
    }
    answers = ask(service, good, *faults.values(), good)
    assert [answer.text for answer in (answers[0], answers[-1])] == ["x 5", "x 5"]
    assert [answer.error.code for answer in answers[1:-1] if answer.error is not None] == list(faults)


def test_an_unexpected_error_is_logged_and_reaches_only_its_query_as_a_reference(service, engine, caplog):
    answers = ask(service, *(Query(picture_bytes=png(1), prompt=prompt) for prompt in ("one", "break", "three")))
    assert [answer.text for answer in answers] == ["one 1", "", "three 1"]
    error = answers[1].error
    assert error is not None
    assert error.code is ErrorCode.INTERNAL
    reference = re.search("reference ([0-9a-f]{12})", str(error))
    assert reference
    assert "secret" not in str(error)
    (record,) = [record for record in caplog.records if record.exc_info]
    assert reference.group(1) in record.getMessage()
    assert record.exc_info is not None
    assert isinstance(record.exc_info[1], KeyError)
    assert all(isinstance(recovered, KeyError) for recovered in engine.recovered)


def test_documents_beyond_the_queue_are_told_so_and_a_door_can_ask_beforehand(engine):
    service = Service(Settings.resolve({"max_queue_mb": 1}), BatchingOptions(), engine, LOG)
    try:
        large = Query(picture_bytes=png(1) + bytes(600_000), prompt="x")

        async def both() -> list[list[Answer]]:
            return await asyncio.gather(*(service.answer([large]) for _ in range(2)))

        first, second = asyncio.run(both())
        assert first[0].text == "x 1"
        assert second[0].error is not None
        assert second[0].error.code is ErrorCode.OVERLOADED
        assert service.overload() is None
    finally:
        service.close()


def test_no_queries_have_no_answers(service):
    assert ask(service) == []


def test_a_task_is_an_entry_that_says_what_counts_where_a_query_says_nothing(service, engine):
    caption = Task("caption", "Describes a picture.", preset="caption", default_prompt="a photo of")
    picture = png(7)
    answers = ask(
        service,
        Query(picture_bytes=picture),
        Query(picture_bytes=picture, prompt="a drawing of", options={"num_beams": 2}),
        task=caption,
    )
    assert [answer.text for answer in answers] == ["a photo of 7", "a drawing of 7"]
    assert [(q.options.num_beams, q.options.max_new_tokens) for q in engine.questions] == [(5, 30), (2, 30)]
    assert ask(service, Query(picture_bytes=picture), task=VQA)[0].error is not None


def test_the_loss_of_the_device_is_told_to_whoever_runs_the_process(service, engine, monkeypatch):
    told: list[bool] = []
    service.on_device_lost = lambda: told.append(True)

    def lose(batch: object) -> list[str]:
        raise DocumentError(ErrorCode.DEVICE_LOST, "gone")

    lost = Echo()
    lost.run = lose  # type: ignore[method-assign]
    other = Service(Settings.resolve({}), BatchingOptions(), lost, LOG)
    other.on_device_lost = lambda: told.append(True)
    answers = ask(other, Query(picture_bytes=png(1), prompt="x"))
    other.close()
    assert told == [True]
    assert answers[0].error is not None
    assert answers[0].error.code is ErrorCode.DEVICE_LOST
