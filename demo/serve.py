"""`python -m demo.serve`: keeps a service with the demo checkpoint up and prints a client to paste. Ctrl-C ends it."""

from __future__ import annotations

import argparse

from demo.service import ROOT, Service

CLIENT = """\
from docarray import BaseDoc, DocList
from jina import Client

class ImagePrompt(BaseDoc):
    img_bytes: bytes
    prompt: str

class Response(BaseDoc):
    answer: str
    error: str

picture = open("{picture}", "rb").read()
prompt = ImagePrompt(img_bytes=picture, prompt="Question: how many cats are there? Answer:")
print(Client(port={port}).post(on="/", inputs=prompt, return_type=DocList[Response])[0].answer)
"""


def main() -> None:
    """Serves until Ctrl-C."""
    parser = argparse.ArgumentParser(prog="python -m demo.serve", description=__doc__)
    parser.add_argument("--port", type=int, default=54321, help="port to listen on (default: %(default)s)")
    options = parser.parse_args()
    with Service(port=options.port) as service:
        print(
            f"\nServing demo/checkpoint on 127.0.0.1:{service.port}. Ctrl-C ends it. A client, to paste into Python:\n"
        )
        print(CLIENT.format(picture=ROOT / "demo" / "pictures" / "two-cats.jpg", port=service.port), flush=True)
        try:
            service.process.wait()
        except KeyboardInterrupt:
            print("Stopping ...")


if __name__ == "__main__":
    main()
