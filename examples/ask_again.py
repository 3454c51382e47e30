import asyncio
from pathlib import Path

from jina import Client
from retrying import ask

from executor import ImagePrompt

picture = Path("demo/pictures/two-cats.jpg").read_bytes()
prompt = ImagePrompt(img_bytes=picture, prompt="how many cats are there?")
print(asyncio.run(ask(Client(port=54321, asyncio=True), prompt)).answer)
