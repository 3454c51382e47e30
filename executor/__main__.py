"""`python -m executor`: the service in one process, on a gRPC port; `python -m executor prepare`: see prepare.py.

One process on purpose: there is no parent that could outlive a dead worker, and memory holds PyTorch once. SIGTERM and
SIGINT drain it: nothing new is let in, what is in progress is finished. So does a device that is lost for good: health
says NOT_SERVING, clients are told, and the exit status is 1, so that whoever watches the process starts it again.
"""

import argparse
import errno
import gc
import logging
import os
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import yaml
from jina.excepts import BadConfigSource
from jina.parsers import set_pod_parser

from executor.checkpoints import prepare
from executor.errors import StartupError
from executor.server.process import LoadingPort, Runtime, exit_now
from executor.settings import ENV_PREFIX
from executor.telemetry import logs

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
    commands = parser.add_subparsers(title="instead of serving", metavar="")
    preparing = commands.add_parser(
        "prepare", help="write a copy of a checkpoint that is quick to load, with checksums"
    )
    prepare.add_arguments(preparing)
    preparing.set_defaults(instead=prepare.run)
    return parser.parse_args(argv)


def _port(text: str) -> int:
    if not (text.isdecimal() and 0 < int(text) < 65536):
        raise argparse.ArgumentTypeError(f"{text} is no port, which is a number from 1 to 65535")
    return int(text)


def main(argv: list[str] | None = None) -> int:
    """Serves until a signal. Returns the exit status: 0 after a signal, 1 without a start or with a lost device."""
    options = _parse(argv)
    if hasattr(options, "instead"):
        return int(options.instead(options))
    if not options.config.is_file():
        return _fail(f"there is no configuration file {options.config}")
    configured = _read(options.config)
    if not isinstance(configured, dict):
        return _fail(f"{options.config} cannot be read: it is no mapping of keys to values")
    settings = configured.get("with") or {}
    if not isinstance(settings, dict):
        return _fail(f"{options.config} cannot be read: its `with:` is no mapping of settings to values")
    if _unresolved(settings, "log_format") == "json":  # so that what ends the start is told in JSON too
        logs.set_up("json")
    for name in ("health_port", "metrics_port"):
        if str(_unresolved(settings, name)) == str(options.port):
            return _fail(f"{name} {options.port} is the port of gRPC; choose another")
    # fmt: off
    args = set_pod_parser().parse_args([
        "--name", "blip2", "--uses", str(options.config), "--host", options.host, "--port", str(options.port),
    ])
    # fmt: on
    args.host = args.host[0] if isinstance(args.host, list) else args.host
    args.port = args.port[0] if isinstance(args.port, list) else args.port
    try:
        port = LoadingPort(options.host, options.port)
    except OSError as error:
        return _fail(_why_not_bound(error, options.host, options.port))
    try:
        runtime = Runtime(args, port)
    except (yaml.YAMLError, BadConfigSource) as error:
        return _fail(f"{options.config} cannot be read: {_why_not_read(error)}")
    except Exception as error:
        # The Executor is loaded a second time under Jina's name for it, so the class is compared by name.
        if type(error).__name__ == StartupError.__name__:
            return _fail(str(error))
        raise
    # What was made up to here stays: looking through it for garbage would stop all requests for a fifth of a second,
    # every few thousand of them.
    gc.collect()
    gc.freeze()
    with runtime:
        runtime.run_forever()
    return runtime.exit_status


def _read(config: Path) -> Any:
    """What is in it; nothing where Jina, which reads it again, is to say why it cannot be read."""
    with suppress(yaml.YAMLError, OSError, UnicodeDecodeError):
        return yaml.safe_load(config.read_text())
    return {}


def _unresolved(configured: dict[str, Any], name: str) -> Any:
    """A setting's value before the settings are resolved, which happens where Jina loads the Executor."""
    return os.environ.get(f"{ENV_PREFIX}{name.upper()}") or configured.get(name)


def _why_not_read(error: Exception) -> str:
    if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark is not None:
        # Not `str(error)`, which quotes the line, and with it perhaps a token.
        return f"{error.problem} (line {error.problem_mark.line + 1}, column {error.problem_mark.column + 1})"
    return " ".join(str(error).split())


def _why_not_bound(error: OSError, host: str, port: int) -> str:
    if error.errno == errno.EADDRINUSE:
        return f"port {port} is in use; choose another with --port"
    if error.errno == errno.EACCES:
        return f"port {port} is not for this user; choose one above 1023 with --port"
    return f"{host} is no address of this machine that port {port} can be bound to"


def _fail(message: str) -> int:
    if logs.is_json():
        logging.getLogger("blip2").critical(f"cannot start: {message}")
    else:
        print(f"blip2: cannot start: {message}", file=sys.stderr)
    return 1


if __name__ == "__main__":
    exit_now(main())
