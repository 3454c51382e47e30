"""Asks a running service over gRPC whether it serves, in a fraction of a second.

Imports grpc alone: a container asks every few seconds. Speaks plaintext: where the service speaks TLS, it is asked on
its `health_port`.
"""

import sys

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from executor.server.authority import authority_of


def ask(host: str, port: int, timeout_s: float) -> int:
    """Prints what a service says of its health. Returns the exit status: 0 where that is SERVING, 1 otherwise."""
    with grpc.insecure_channel(authority_of(host, port)) as channel:
        try:
            reply = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=timeout_s)
        except grpc.RpcError as error:
            print(f"no health: {error.code().name}", file=sys.stderr)
            return 1
    print(health_pb2.HealthCheckResponse.ServingStatus.Name(reply.status))
    return 0 if reply.status == health_pb2.HealthCheckResponse.SERVING else 1
