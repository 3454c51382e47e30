"""`python -m demo.ask`: the whole way once. Starts the service with the demo checkpoint, asks, prints, stops it."""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

from docarray import BaseDoc, DocList
from jina import Client

from demo.service import ROOT, Service

PICTURE = ROOT / "demo" / "pictures" / "two-cats.jpg"
QUESTION = "Question: how many cats are there? Answer:"


class ImagePrompt(BaseDoc):
    """What this client sends: the fields it needs of the service's `ImagePrompt`."""

    img_bytes: bytes
    prompt: str


class Response(BaseDoc):
    """What this client reads of the service's `Response`."""

    answer: str
    error: str = ""


def main() -> None:
    """Asks one question about one picture."""
    parser = argparse.ArgumentParser(prog="python -m demo.ask", description=__doc__)
    parser.add_argument("--picture", type=Path, default=PICTURE, help="a picture file (default: %(default)s)")
    parser.add_argument("--question", default=QUESTION, help="default: %(default)s")
    options = parser.parse_args()
    prompt = ImagePrompt(img_bytes=options.picture.read_bytes(), prompt=options.question)

    print("Starting the service with demo/checkpoint on a free port ...", flush=True)
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder, Service(log=Path(folder, "service.log")) as service:
        print(f"Ready on port {service.port} after {time.perf_counter() - started:.1f} s.", flush=True)
        asked = time.perf_counter()
        response = Client(port=service.port).post(on="/", inputs=prompt, return_type=DocList[Response])[0]
        elapsed_ms = (time.perf_counter() - asked) * 1000
        print(f"Picture:  {_short(options.picture)}")
        print(f"Question: {options.question}")
        print(f"Answer:   {response.answer or response.error}")
        print(f"Time:     {elapsed_ms:.0f} ms, connecting included")
        status = service.stop()
    print(f"The service has stopped (exit status {status}).")


def _short(path: Path) -> Path:
    resolved = path.resolve()
    return resolved.relative_to(ROOT) if resolved.is_relative_to(ROOT) else resolved


if __name__ == "__main__":
    main()
