"""`python -m executor.healthcheck`: asks a running service over gRPC whether it serves, in a fraction of a second.

Imports grpc alone (`python -m` imports the package first, so `-m` costs what PyTorch's import costs; the container
calls this file by its path). Speaks plaintext: where the service speaks TLS, it needs a `health_port`.
"""

import argparse
import os
import sys

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc


def main(argv: list[str] | None = None) -> int:
    """Exit status 0 where the service says SERVING, 1 otherwise."""
    parser = argparse.ArgumentParser(description="Asks a service for its gRPC health.")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=int(os.environ.get("BLIP2_HEALTH_PORT") or 54321))
    parser.add_argument("--timeout", type=float, default=3.0, help="seconds (default: %(default)s)")
    options = parser.parse_args(argv)
    with grpc.insecure_channel(f"{options.host}:{options.port}") as channel:
        try:
            reply = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=options.timeout)
        except grpc.RpcError as error:
            print(f"no health: {error.code().name}", file=sys.stderr)
            return 1
    status = health_pb2.HealthCheckResponse.ServingStatus.Name(reply.status)
    print(status)
    return 0 if reply.status == health_pb2.HealthCheckResponse.SERVING else 1


if __name__ == "__main__":
    sys.exit(main())
