"""A client's own documents: the two-field classes of the original article."""

from docarray import BaseDoc
from docarray.typing import ImageUrl


class ImagePrompt(BaseDoc):
    img: ImageUrl
    prompt: str


class Response(BaseDoc):
    answer: str
