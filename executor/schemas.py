"""The DocArray documents on the wire.

Only field names matter to DocArray: a client that declares just `ImagePrompt(img, prompt)` and `Response(answer)`
works. All other fields are optional and stay so.
"""

from typing import Any

from docarray import BaseDoc
from docarray.proto import DocProto
from pydantic import ValidationError

from executor.validation import describe_to_client


class ImagePrompt(BaseDoc):
    """Holds a picture and what is asked of it.

    `img` is an `http(s)://` URL or a `data:` URI; `img_bytes`, an encoded picture (JPEG, PNG, ...), wins over it. The
    generation options are those of `executor.questions.options.GenerationOptions` (a test holds them equal); where they
    are set, they win over the request's `parameters` and the service's defaults. `preset`, a name of
    `executor.questions.presets.PRESETS`, replaces both.
    """

    # Optional, so that a missing field becomes this document's error and not the whole request's.
    img: str | None = None
    prompt: str | None = None
    img_bytes: bytes | None = None

    preset: str | None = None
    max_new_tokens: int | None = None
    min_new_tokens: int | None = None
    num_beams: int | None = None
    length_penalty: float | None = None
    repetition_penalty: float | None = None
    no_repeat_ngram_size: int | None = None
    do_sample: bool | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    seed: int | None = None

    @classmethod
    def from_protobuf(cls, pb_msg: DocProto) -> "ImagePrompt":
        """Reads a document of the wire; an `UnreadablePrompt` where it is none, so that only this document fails."""
        # Not DocArray's own, which checks a client's `ImageUrl` again with this machine's MIME table: in slim
        # containers a `.webp` URL would fail the request. What is a picture, its bytes decide.
        fields: dict[str, Any] = {}
        for name, node in pb_msg.data.items():
            content = node.WhichOneof("content")
            if content is not None and name in cls.model_fields:
                fields[name] = getattr(node, content)
        try:
            return cls(**fields)
        except ValidationError as error:
            known = {"id": fields["id"]} if isinstance(fields.get("id"), str) else {}
            return UnreadablePrompt(**known, fault=describe_to_client(error))


class UnreadablePrompt(ImagePrompt):
    """Holds what a client sent that is no `ImagePrompt`.

    `fault` says why, in one line and without the client's own values.
    """

    fault: str


class Response(BaseDoc):
    """Holds the answer to one `ImagePrompt`, under the same `id`.

    Either `answer` is the model's text and `error` is empty, or `answer` is empty and `error` is
    `CODE: what is wrong and what to do`, with a code of `executor.errors.ErrorCode`.
    """

    answer: str = ""
    error: str = ""
