"""The endpoint without a server: what no client should be able to provoke."""

import asyncio
import re
from pathlib import Path

import pytest
from docarray import DocList

from executor import Blip2Executor, ImagePrompt


@pytest.fixture
def executor(tiny_t5: Path):
    executor = Blip2Executor(model=str(tiny_t5), device="cpu")
    yield executor
    executor.close()


def test_an_unexpected_error_is_logged_and_reaches_only_its_document_as_a_reference(executor, two_cats, monkeypatch):
    logged = []
    monkeypatch.setattr(executor.logger, "error", lambda message, **options: logged.append((message, options)))
    pad = executor._model.pad

    def pad_unless_three_tokens(prompts):
        if any(len(prompt) == 3 for prompt in prompts):
            raise KeyError("/secret/path")
        return pad(prompts)

    monkeypatch.setattr(executor._model, "pad", pad_unless_three_tokens)
    prompts = ["how many cats", "a photo", "red cats are there"]
    documents = DocList[ImagePrompt]([ImagePrompt(img_bytes=two_cats, prompt=prompt) for prompt in prompts])
    responses = asyncio.run(executor.vqa(docs=documents))
    assert [response.error.partition(":")[0] for response in responses] == ["", "INTERNAL", ""]
    reference = re.search("reference ([0-9a-f]{12})", responses[1].error)
    assert reference
    assert "secret" not in responses[1].error
    ((message, options),) = logged
    assert reference.group(1) in message
    assert isinstance(options["exc_info"], KeyError)
