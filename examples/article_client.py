from docarray import BaseDoc, DocList
from docarray.typing import ImageUrl
from jina import Client


class ImagePrompt(BaseDoc):
    img: ImageUrl
    prompt: str


class Response(BaseDoc):
    answer: str


response = Client(port=12345).post(
    on="/",
    inputs=ImagePrompt(
        img="http://images.cocodataset.org/val2017/000000039769.jpg",
        prompt="Question: how many cats are there ? Answer:",
    ),
    return_type=DocList[Response],
)
print(response[0].answer)
