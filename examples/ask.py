from pathlib import Path

from docarray import DocList
from jina import Client

from executor import ImagePrompt, Response

picture = Path("demo/pictures/two-cats.jpg").read_bytes()
questions = ["how many cats are there?", "is there a dog?", ""]
prompts = DocList[ImagePrompt](ImagePrompt(img_bytes=picture, prompt=question) for question in questions)
responses = Client(port=54321).post("/", prompts, return_type=DocList[Response], parameters={"max_new_tokens": 10})
for question, response in zip(questions, responses, strict=True):
    print(question, "->", response.answer or response.error)
