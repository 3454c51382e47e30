"""Peer: BentoML with adaptive batching. JSON: {"questions": [{"image": base64, "prompt": text}]} -> [text]."""

import base64
import os

import bentoml
from pydantic import BaseModel

from benchmarks.peers.batched import BatchedBlip2


class Question(BaseModel):
    image: str
    prompt: str


@bentoml.service(workers=1, traffic={"timeout": 600, "max_concurrency": 4096})
class Blip2:
    """A batch at a time, of BentoML's making."""

    def __init__(self) -> None:
        self.model = BatchedBlip2()

    @bentoml.api(
        batchable=True, max_batch_size=int(os.environ["PEER_BATCH"]), max_latency_ms=int(os.environ["PEER_WAIT_MS"])
    )
    def answer(self, questions: list[Question]) -> list[str]:
        pictures = [base64.b64decode(question.image) for question in questions]
        return self.model.answer(pictures, [question.prompt for question in questions])
