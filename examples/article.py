from docarray import BaseDoc, DocList
from docarray.typing import ImageUrl
from jina import Deployment

from executor import Blip2Executor


class ImagePrompt(BaseDoc):
    img: ImageUrl
    prompt: str


class Response(BaseDoc):
    answer: str


with Deployment(uses=Blip2Executor) as dep:
    response = dep.post(
        on="/bar",
        inputs=ImagePrompt(
            img="http://images.cocodataset.org/val2017/000000039769.jpg",
            prompt="Question: how many cats are there ? Answer:",
        ),
        return_type=DocList[Response],
    )
    print(response[0].answer)
