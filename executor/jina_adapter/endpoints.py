"""The endpoints of the Executor, made from the table of tasks.

Knows Jina's `@requests` and the documents on the wire; what a task means, the service knows.
"""

from typing import Any

from docarray import DocList
from jina import requests

from executor.errors import DocumentError
from executor.questions.options import OPTION_NAMES
from executor.questions.tasks import TASKS, Task
from executor.schemas import ImagePrompt, Response, UnreadablePrompt
from executor.service import Answer, Query

_JINA_PARAMETERS = frozenset({"__results__"})
"""Keys that Jina's own client and gateway put into every request's `parameters`."""

_CHOICES = ("preset", *OPTION_NAMES)
"""Fields of a document that say how it is answered."""

NAMES = tuple(name for task in TASKS for name in task.aliases)
"""Of all endpoints, as config.yml may call them."""


def with_endpoints(executor: type) -> type:
    """Gives an Executor class a method for each task, which its attribute `_service` answers."""
    for task in TASKS:
        method = requests(on=None if task.is_default else task.path)(_method(task))
        setattr(executor, task.name, method)
        method.__set_name__(executor, task.name)
    return executor


def _method(task: Task) -> Any:
    async def answer(
        self: Any,
        docs: DocList[ImagePrompt],
        parameters: dict = {},  # type: ignore[type-arg]  # noqa: B006 - as Jina's own methods have it
        **kwargs: Any,
    ) -> DocList[Response]:
        options = {name: value for name, value in (parameters or {}).items() if name not in _JINA_PARAMETERS}
        answers = await self._service.answer([_query(doc) for doc in docs], options, task)
        return DocList[Response](_response(doc, answer) for doc, answer in zip(docs, answers, strict=True))

    answer.__name__ = answer.__qualname__ = task.name
    answer.__doc__ = (
        f"{task.summary}\n\n"
        "Each document is answered in order, under its own id. A fault of one document is that document's `error`.\n\n"
        "Args:\n"
        "    docs: pictures and prompts.\n"
        "    parameters: generation options, and `preset`, for all documents of the request."
    )
    return answer


def _query(doc: ImagePrompt) -> Query:
    if isinstance(doc, UnreadablePrompt):
        return Query(fault=doc.fault)
    options = {name: value for name in _CHOICES if (value := getattr(doc, name)) is not None}
    return Query(doc.img, doc.img_bytes, doc.prompt, options)


def _response(doc: ImagePrompt, answer: Answer) -> Response:
    return Response(id=doc.id, answer=answer.text, error=_text(answer.error))


def _text(error: DocumentError | None) -> str:
    return "" if error is None else str(error)
