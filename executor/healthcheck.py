"""`python -m executor.healthcheck`: asks a running service over gRPC whether it serves, in a fraction of a second.

Imports grpc alone (`python -m` imports the package first, so `-m` costs what PyTorch's import costs; the container
calls this file by its path). A service with TLS is asked over TLS where the environment names its files, as it does in
a container: BLIP2_TLS_CERT, and with mutual TLS BLIP2_TLS_CLIENT_CA and BLIP2_TLS_KEY.
"""

import argparse
import os
import socket
import ssl
import sys
from pathlib import Path
from typing import Any

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc


def main(argv: list[str] | None = None) -> int:
    """Exit status 0 where the service says SERVING, 1 otherwise."""
    parser = argparse.ArgumentParser(description="Asks a service for its gRPC health.")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=54321)
    parser.add_argument("--timeout", type=float, default=3.0, help="seconds (default: %(default)s)")
    options = parser.parse_args(argv)
    try:
        with _channel(options.host, options.port, options.timeout) as channel:
            stub = health_pb2_grpc.HealthStub(channel)
            reply = stub.Check(health_pb2.HealthCheckRequest(), timeout=options.timeout)
    except grpc.RpcError as error:
        print(f"no health: {error.code().name}", file=sys.stderr)
        return 1
    except OSError as error:  # ssl.SSLError is one
        print(f"no health: {error}", file=sys.stderr)
        return 1
    status = health_pb2.HealthCheckResponse.ServingStatus.Name(reply.status)
    print(status)
    return 0 if reply.status == health_pb2.HealthCheckResponse.SERVING else 1


def _channel(host: str, port: int, timeout_s: float) -> grpc.Channel:
    cert = os.environ.get("BLIP2_TLS_CERT")
    if not cert:
        return grpc.insecure_channel(f"{host}:{port}")
    # Trusts the service's own certificate and nothing else, under whatever name it has.
    own = Path(cert).read_bytes()
    identity: tuple[bytes | None, bytes | None] = (None, None)
    if os.environ.get("BLIP2_TLS_CLIENT_CA"):
        identity = Path(os.environ["BLIP2_TLS_KEY"]).read_bytes(), own
    name = _name_in_certificate(host, port, cert, timeout_s)
    return grpc.secure_channel(
        f"{host}:{port}",
        grpc.ssl_channel_credentials(own, *identity),
        [("grpc.ssl_target_name_override", name)],
    )


def _name_in_certificate(host: str, port: int, cert: str, timeout_s: float) -> str:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    context.load_verify_locations(cert)
    context.set_alpn_protocols(["h2"])
    with (
        socket.create_connection((host, port), timeout_s) as connection,
        context.wrap_socket(connection, server_hostname=host) as secured,
    ):
        found: Any = secured.getpeercert() or {}
    for kind, name in found.get("subjectAltName", ()):
        if kind in ("DNS", "IP Address"):
            return str(name).replace("*", "health")
    raise OSError("the certificate names neither a host nor an address")


if __name__ == "__main__":
    sys.exit(main())
