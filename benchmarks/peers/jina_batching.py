"""Peer: an Executor behind Jina's own dynamic batching, with the batch answered in one pass.

The endpoint is synchronous, as in Jina's documentation: it runs in a thread, so that requests arrive meanwhile.
"""

import os
from typing import Any

from docarray import BaseDoc, DocList
from jina import Executor, requests

from benchmarks.peers.batched import BatchedBlip2
from benchmarks.peers.jina_runtime import serve


class ImagePrompt(BaseDoc):
    img_bytes: bytes
    prompt: str


class Response(BaseDoc):
    answer: str


class BatchingExecutor(Executor):
    """A batch at a time, of Jina's making."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.model = BatchedBlip2()

    @requests
    def vqa(self, docs: DocList[ImagePrompt], **kwargs: Any) -> DocList[Response]:
        answers = self.model.answer([doc.img_bytes for doc in docs], [doc.prompt for doc in docs])
        return DocList[Response](Response(answer=answer) for answer in answers)


if __name__ == "__main__":
    batching = {"preferred_batch_size": int(os.environ["PEER_BATCH"]), "timeout": float(os.environ["PEER_WAIT_MS"])}
    serve("BatchingExecutor", {"/default": batching})
