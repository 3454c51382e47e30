"""Peer: LitServe, with its batching and one worker. JSON: {"image": base64, "prompt": text} -> {"answer": text}."""

import argparse
import base64
import os
from typing import Any

import litserve

from benchmarks.peers.batched import BatchedBlip2


class Blip2Api(litserve.LitAPI):
    """The hooks in the order in which LitServe calls them."""

    def setup(self, device: str) -> None:
        self.model = BatchedBlip2()

    def decode_request(self, request: dict[str, str]) -> tuple[bytes, str]:
        return base64.b64decode(request["image"]), request["prompt"]

    def batch(self, inputs: list[tuple[bytes, str]]) -> list[tuple[bytes, str]]:
        return inputs

    def predict(self, inputs: list[tuple[bytes, str]]) -> list[str]:
        return self.model.answer([picture for picture, _ in inputs], [prompt for _, prompt in inputs])

    def unbatch(self, output: list[str]) -> list[str]:
        return output

    def encode_response(self, output: str) -> dict[str, Any]:
        return {"answer": output}


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, required=True)
    port = parser.parse_args().port
    api = Blip2Api(max_batch_size=int(os.environ["PEER_BATCH"]), batch_timeout=float(os.environ["PEER_WAIT_MS"]) / 1000)
    server = litserve.LitServer(api, accelerator="auto", devices=1, workers_per_device=1, timeout=600)
    server.run(host="127.0.0.1", port=port, generate_client_file=False, num_api_servers=1, log_level="warning")
