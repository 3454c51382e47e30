"""Asks again what the service could not take: while it restarts, shuts down, or has too much to do.

Knows the documents and jina's client. Every document is a request of its own, so that only what failed is asked again.
"""

from __future__ import annotations

import asyncio
import random

from docarray import DocList
from jina import Client
from jina.excepts import BadServerFlow

from executor import ImagePrompt, Response

_AGAIN = ("OVERLOADED", "DEVICE_LOST")
_NOT_BEGUN = ("OVERLOADED", "StatusCode.CANCELLED")
"""The second is what gRPC says to a call that arrives in the very moment when a server closes."""


async def ask(client: Client, prompt: ImagePrompt, tries: int = 5, pause_s: float = 2.0) -> Response:
    """The answer to one document.

    Args:
        client: `Client(asyncio=True, ...)`.
        tries: in all.
        pause_s: before the second try, twice that before the third, and so on, each by chance up to half as long again:
            clients that failed together do not come back together. A restart takes as long as loading the model.

    Raises:
        ConnectionError: gRPC's UNAVAILABLE, in the last try.
        BadServerFlow: another error of gRPC.
    """
    for further in range(tries - 1):
        try:
            response = await _post(client, prompt)
            if not response.error.startswith(_AGAIN):
                return response
        except ConnectionError:
            pass  # what comes is the next try
        except BadServerFlow as error:
            if not any(known in str(error) for known in _NOT_BEGUN):
                raise
        await asyncio.sleep(pause_s * 2**further * random.uniform(1, 1.5))
    return await _post(client, prompt)


async def _post(client: Client, prompt: ImagePrompt) -> Response:
    # A stream that is refused at its first message may end with an internal error of gRPC's client instead of the code.
    replies = client.post("/", prompt, return_type=DocList[Response], stream=False)
    (response,) = [response async for responses in replies for response in responses]
    return response
