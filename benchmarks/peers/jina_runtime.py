"""Runs an Executor as `jina executor --native` does: in one process, without a gateway, Jina's fastest way to serve."""

import argparse
from typing import Any

from jina.parsers import set_pod_parser
from jina.serve.runtimes.asyncio import AsyncNewLoopRuntime
from jina.serve.runtimes.worker.request_handling import WorkerRequestHandler


def serve(uses: str, dynamic_batching: dict[str, dict[str, Any]] | None = None) -> None:
    """Serves the Executor class of this name on loopback, on the port of `--port`, until a signal."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, required=True)
    port = parser.parse_args().port
    args = set_pod_parser().parse_args(["--name", "peer", "--uses", uses])
    args.host, args.port = "127.0.0.1", port
    args.uses_dynamic_batching = dynamic_batching
    with AsyncNewLoopRuntime(args, req_handler_cls=WorkerRequestHandler) as runtime:
        runtime.run_forever()
