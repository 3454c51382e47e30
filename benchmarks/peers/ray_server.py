"""Peer: Ray Serve with `@serve.batch`, one replica. JSON: {"image": base64, "prompt": text} -> {"answer": text}.

The batch is computed in a thread, so that the replica takes requests meanwhile: faster than in its event loop.
"""

import argparse
import asyncio
import base64
import os
import signal
import threading
from typing import Any, cast

import ray
from ray import serve
from starlette.requests import Request

from benchmarks.peers.batched import BatchedBlip2


@serve.deployment(num_replicas=1, max_ongoing_requests=4096, max_queued_requests=-1)
class Blip2:
    """A batch at a time, of Ray Serve's making."""

    def __init__(self) -> None:
        self.model = BatchedBlip2()

    @serve.batch(
        max_batch_size=int(os.environ.get("PEER_BATCH", 1)),
        batch_wait_timeout_s=float(os.environ.get("PEER_WAIT_MS", 0)) / 1000,
    )
    async def answer(self, questions: list[tuple[bytes, str]]) -> list[str]:
        pictures, prompts = zip(*questions, strict=True)
        return await asyncio.to_thread(self.model.answer, pictures, prompts)

    async def __call__(self, request: Request) -> dict[str, str]:
        body = await request.json()
        return {"answer": await self.answer((base64.b64decode(body["image"]), body["prompt"]))}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, required=True)
    port = parser.parse_args().port
    ended = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: ended.set())
    ray.init(include_dashboard=False, log_to_driver=False, configure_logging=False)
    try:
        serve.start(http_options={"host": "127.0.0.1", "port": port, "access_log": False})
        serve.run(cast(Any, Blip2).bind())
        ended.wait()
    finally:
        serve.shutdown()
        ray.shutdown()


if __name__ == "__main__":
    # By its name and not as __main__: the replica then imports it, instead of being sent a copy of the class.
    from benchmarks.peers import ray_server

    ray_server.main()
