"""`python -m executor`: the service in one process, on a gRPC port.

One process on purpose: there is no parent that could outlive a dead worker, and memory holds PyTorch once. Signals:
SIGTERM and SIGINT end it. So does a device that is lost for good: health says NOT_SERVING, clients are told, and the
exit status is 1, so that whoever watches the process starts it again.
"""

import argparse
import asyncio
import gc
import sys
import threading
from pathlib import Path

import yaml
from jina.excepts import BadConfigSource, PortAlreadyUsed
from jina.parsers import set_pod_parser
from jina.serve.runtimes.asyncio import AsyncNewLoopRuntime
from jina.serve.runtimes.worker.request_handling import WorkerRequestHandler

from .errors import StartupError

_LAST_ANSWERS_S = 1.0
"""Between a lost device and the end: what was in flight gets its error, and health checks see NOT_SERVING."""

_CONFIG = Path(__file__).resolve().parent.parent / "config.yml"


def _parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m executor",
        description="Serves BLIP-2 over gRPC.",
        epilog="Settings are in config.yml; each is overridable by an environment variable, e.g. BLIP2_MODEL.",
    )
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: %(default)s)")
    parser.add_argument("--port", type=_port, default=54321, help="port to listen on (default: %(default)s)")
    parser.add_argument("--config", type=Path, default=_CONFIG, help="config.yml to use (default: the project's)")
    return parser.parse_args(argv)


def _port(text: str) -> int:
    port = int(text)
    if not 0 < port < 65536:
        raise ValueError
    return port


def main(argv: list[str] | None = None) -> int:
    """Serves until a signal. Returns the exit status: 0 after a signal, 1 without a start or with a lost device."""
    options = _parse(argv)
    if not options.config.is_file():
        return _fail(f"there is no configuration file {options.config}")
    # fmt: off
    args = set_pod_parser().parse_args([
        "--name", "blip2", "--uses", str(options.config), "--host", options.host, "--port", str(options.port),
    ])
    # fmt: on
    args.host = args.host[0] if isinstance(args.host, list) else args.host
    args.port = args.port[0] if isinstance(args.port, list) else args.port
    try:
        runtime = AsyncNewLoopRuntime(args, req_handler_cls=WorkerRequestHandler)
    except PortAlreadyUsed:
        return _fail(f"port {options.port} is in use; choose another with --port")
    except (yaml.YAMLError, BadConfigSource) as error:
        return _fail(f"{options.config} cannot be read: {' '.join(str(error).split())}")
    except Exception as error:
        if "Failed to bind" in str(error):
            return _fail(f"{options.host} is no address of this machine that port {options.port} can be bound to")
        # The Executor is loaded a second time under Jina's name for it, so the class is compared by name.
        if type(error).__name__ == StartupError.__name__:
            return _fail(str(error))
        raise
    # What was made up to here stays: looking through it for garbage would stop all requests for a fifth of a second,
    # every few thousand of them.
    gc.collect()
    gc.freeze()
    with runtime:
        lost = _end_with_the_device(runtime)
        runtime.run_forever()
    return 1 if lost.is_set() else 0


def _end_with_the_device(runtime: AsyncNewLoopRuntime) -> threading.Event:
    """Has `runtime` end when its Executor loses the device. Returns an event that is set when that happens."""
    lost = threading.Event()

    async def end() -> None:
        await runtime.server.health_servicer.enter_graceful_shutdown()
        await asyncio.sleep(_LAST_ANSWERS_S)
        runtime.is_cancel.set()

    def on_device_lost() -> None:
        lost.set()
        asyncio.run_coroutine_threadsafe(end(), runtime._loop)

    runtime.server._request_handler._executor.on_device_lost = on_device_lost
    return lost


def _fail(message: str) -> int:
    print(f"blip2: cannot start: {message}", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
