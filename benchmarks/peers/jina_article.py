"""Peer: the Executor of the article, with today's names (`BaseDoc`, `DocList`) and nothing else changed in kind.

A synchronous endpoint answers one document at a time. The picture comes as bytes and not as a URL: the article's own
way, a download for each document, would only be slower, and all servers get the same payload.
"""

import os
from typing import Any, cast

import torch
from docarray import BaseDoc, DocList
from docarray.typing import ImageBytes
from jina import Executor, requests
from transformers import Blip2ForConditionalGeneration, Blip2Processor

from benchmarks.peers.batch_log import BatchLog
from benchmarks.peers.jina_runtime import serve


class ImagePrompt(BaseDoc):
    img_bytes: ImageBytes
    prompt: str


class Response(BaseDoc):
    answer: str


class ArticleExecutor(Executor):
    """One document at a time."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        torch.set_num_threads(int(os.environ["PEER_THREADS"]))
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        dtype = torch.float16 if self.device.type == "cuda" else torch.float32
        self.processor = Blip2Processor.from_pretrained(os.environ["PEER_MODEL"], backend="pil")
        self.model = Blip2ForConditionalGeneration.from_pretrained(os.environ["PEER_MODEL"], dtype=dtype)
        cast(Any, self.model).to(self.device)
        self.log = BatchLog()

    @requests
    def vqa(self, docs: DocList[ImagePrompt], **kwargs: Any) -> DocList[Response]:
        responses = DocList[Response]()
        for doc in docs:
            inputs = self.processor(images=doc.img_bytes.load_pil(), text=doc.prompt, return_tensors="pt")
            inputs = inputs.to(self.device, self.model.dtype)
            tokens = self.model.generate(**inputs, max_new_tokens=20)
            answer = self.processor.batch_decode(tokens, skip_special_tokens=True)[0].strip()
            responses.append(Response(answer=answer))
            self.log.write(1)
        return responses


if __name__ == "__main__":
    serve("ArticleExecutor")
