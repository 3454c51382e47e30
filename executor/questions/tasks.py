"""What can be asked of the service: each task with its endpoint, and what counts where a document says nothing.

An endpoint is an entry here. Every door reads this table: Jina's Executor has a method for each task, and
`dynamic_batching` knows their names. Knows nothing of documents on the wire, and nothing of how answers are found.
"""

from typing import NamedTuple

from executor.questions.presets import PresetName


class Task(NamedTuple):
    """Describes one thing that can be asked for.

    Attributes:
        name: of the Executor's method; its endpoint is `/<name>`.
        summary: a sentence for who reads the API.
        is_default: whether it answers on every path that is no task's.
        preset: how documents are answered that choose nothing; None is the setting `preset`.
        default_prompt: what a document without a prompt asks; None: such a document is refused with `EMPTY_PROMPT`.
    """

    name: str
    summary: str
    is_default: bool = False
    preset: PresetName | None = None
    default_prompt: str | None = None

    @property
    def path(self) -> str:
        """Returns the endpoint."""
        return f"/{self.name}"

    @property
    def aliases(self) -> tuple[str, ...]:
        """Returns what config.yml may call the endpoint; for Jina `/default` is every path that has no other."""
        return (self.path, *(("/default", "/") if self.is_default else ()), self.name)


VQA = Task("vqa", "Answers a question about a picture, or continues a text about it.", is_default=True)

TASKS = (VQA,)
