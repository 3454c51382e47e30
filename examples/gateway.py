"""`python examples/gateway.py --port 54321 10.0.0.1:54321 10.0.0.2:54321`: services of several hosts behind one port.

`executor.Flow` is Jina's own, mended: its gateway sends each request to the service with the fewest in flight, leaves
out those that do not serve, and tries elsewhere what a service that went away had not answered.
"""

from __future__ import annotations

import argparse
import signal
import sys

from executor import Flow


def main() -> None:
    """Serves until Ctrl-C or SIGTERM."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, default=54321, help="port to listen on (default: %(default)s)")
    parser.add_argument("services", nargs="+", metavar="host:port", help="each a `python -m executor`")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    with Flow(port=options.port).add(external=True, host=options.services) as flow:
        flow.block()


if __name__ == "__main__":
    main()
