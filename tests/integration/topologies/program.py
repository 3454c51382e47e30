"""A program that opens the service as Jina does: started, watched and killed by the tests.

`python -m tests.integration.topologies.program <how> <port> [<uses>]` says `ready` when it serves, leaves its `with`
block at the next line of its input or at its end, and then says `left`.
"""

import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

from jina import Deployment, Executor, Flow

from executor import Blip2Executor


class LoadsForEver(Executor):
    """An Executor that says `loading` and never is ready."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        print("loading", flush=True)
        while True:
            pass


HOW: dict[str, Callable[..., AbstractContextManager[Any]]] = {
    "gateway": lambda **options: Deployment(**options),
    "replicas": lambda **options: Deployment(replicas=2, **options),
    "devices": lambda **options: Deployment(replicas=2, env={"CUDA_VISIBLE_DEVICES": "RR"}, **options),
    "flow": lambda port, **options: Flow(port=port).add(**options),
    "no gateway": lambda **options: Deployment(include_gateway=False, **options),
    "loading": lambda port, **_: Deployment(uses=LoadsForEver, port=port, include_gateway=False, noblock_on_start=True),
}


def main(how: str, port: str, uses: str = "") -> None:
    with HOW[how](port=int(port), uses=uses or Blip2Executor):
        print("ready", flush=True)
        sys.stdin.readline()
    print("left", flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
