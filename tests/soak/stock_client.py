"""jina's own client in a process of its own: `python -m tests.soak.stock_client PORT TOKEN < requests.json`.

The input has rows of base64 picture and prompt; the output is one line of JSON: `answers` as pairs of answer and error,
or `failed`, what the client raised.
"""

import base64
import json
import sys

from docarray import DocList
from jina import Client

from executor import ImagePrompt, Response


def main() -> None:
    port, token = int(sys.argv[1]), sys.argv[2]
    documents = DocList[ImagePrompt](
        ImagePrompt(img_bytes=base64.b64decode(picture), prompt=prompt) for picture, prompt in json.load(sys.stdin)
    )
    try:
        responses = Client(port=port).post(
            "/vqa",
            documents,
            return_type=DocList[Response],
            request_size=3,
            metadata=(("authorization", f"Bearer {token}"),),
        )
    except Exception as error:  # noqa: BLE001 - whoever started this decides what it means
        print(json.dumps({"failed": f"{type(error).__name__}: {error}"}))
    else:
        print(json.dumps({"answers": [(response.answer, response.error) for response in responses]}))


if __name__ == "__main__":
    main()
