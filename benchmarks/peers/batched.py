"""BLIP-2 for a batch as transformers' documentation shows it: the part that all batching peers share.

Knows torch, transformers and Pillow, nothing of servers. Runs in every peer's own environment.
"""

import io
import os
from collections.abc import Sequence
from typing import Any, cast

import torch
from PIL import Image
from transformers import Blip2ForConditionalGeneration, Blip2Processor

from benchmarks.peers.batch_log import BatchLog

MAX_NEW_TOKENS = 20


class BatchedBlip2:
    """The checkpoint `PEER_MODEL`: on a CPU in float32, on CUDA, where there is any, in float16."""

    def __init__(self) -> None:
        torch.set_num_threads(int(os.environ["PEER_THREADS"]))
        on_cuda = torch.cuda.is_available()
        self._device = torch.device("cuda" if on_cuda else "cpu")
        self._processor = Blip2Processor.from_pretrained(os.environ["PEER_MODEL"], backend="pil")
        self._processor.tokenizer.padding_side = "right"  # on the left, pads would stand between picture and text
        self._model = Blip2ForConditionalGeneration.from_pretrained(
            os.environ["PEER_MODEL"], dtype=torch.float16 if on_cuda else torch.float32
        )
        cast(Any, self._model).to(self._device).eval()
        self._log = BatchLog()

    @torch.inference_mode()
    def answer(self, pictures: Sequence[bytes], prompts: Sequence[str]) -> list[str]:
        """Greedy answers, one for each encoded picture and its prompt, in one pass of `generate`."""
        images = [Image.open(io.BytesIO(picture)) for picture in pictures]
        inputs = self._processor(images=images, text=list(prompts), padding=True, return_tensors="pt").to(self._device)
        inputs["pixel_values"] = inputs["pixel_values"].to(self._model.dtype)
        tokens = self._model.generate(**inputs, do_sample=False, num_beams=1, max_new_tokens=MAX_NEW_TOKENS)
        answers = [answer.strip() for answer in self._processor.batch_decode(tokens, skip_special_tokens=True)]
        self._log.write(len(answers))
        return answers
