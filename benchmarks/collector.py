"""A collector of traces on loopback: takes spans by OTLP over gRPC, and keeps or drops them.

    python -m benchmarks.collector --port 4317

drops them until it is stopped: what a benchmark sends its spans to. Tests keep them, in their own process.
"""

import argparse
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc
from opentelemetry.proto.trace.v1.trace_pb2 import Span


class Collector(trace_service_pb2_grpc.TraceServiceServicer):
    """Listens until `close`.

    Args:
        port: on 127.0.0.1; 0 is any free one.
        keep: whether spans are kept, in `spans`.

    Attributes:
        port: where it listens.
        resources: attributes of what sent something, the last of each sending.
    """

    def __init__(self, port: int = 0, keep: bool = True) -> None:
        self._keep = keep
        self._spans: list[Span] = []
        self._came = threading.Condition()
        self.resources: list[dict[str, str]] = []
        self._server = grpc.server(ThreadPoolExecutor(1), options=(("grpc.so_reuseport", 0),))
        trace_service_pb2_grpc.add_TraceServiceServicer_to_server(self, self._server)
        self.port = self._server.add_insecure_port(f"127.0.0.1:{port}")
        self._server.start()

    def Export(self, request: Any, context: grpc.ServicerContext) -> Any:
        if self._keep:
            with self._came:
                for resource in request.resource_spans:
                    self.resources.append({a.key: a.value.string_value for a in resource.resource.attributes})
                    for scope in resource.scope_spans:
                        self._spans.extend(scope.spans)
                self._came.notify_all()
        return trace_service_pb2.ExportTraceServiceResponse()

    def wait_for(self, enough: Callable[[Sequence[Span]], bool], timeout_s: float = 60) -> list[Span]:
        """All spans, once they are enough.

        Raises:
            TimeoutError: they are not.
        """
        with self._came:
            if not self._came.wait_for(lambda: enough(self._spans), timeout_s):
                raise TimeoutError(f"only {[span.name for span in self._spans]}")
            return list(self._spans)

    def close(self) -> None:
        """Lets go of the port."""
        self._server.stop(None).wait()

    def serve(self) -> None:
        """Returns when it is closed."""
        self._server.wait_for_termination()


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.collector", description=__doc__)
    parser.add_argument("--port", type=int, default=4317, help="default: %(default)s")
    Collector(parser.parse_args().port, keep=False).serve()


if __name__ == "__main__":
    main()
