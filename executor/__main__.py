"""The command line: `python -m executor` serves, `prepare` and `health` are for what stands beside serving.

Serving is one process on purpose: there is no parent that could outlive a dead worker, and memory holds PyTorch once.
Libraries are imported by what needs them, after signals have their first handler: see `executor.server.signals`.
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

from executor.errors import StartupError
from executor.server import signals

_CONFIG = Path(__file__).resolve().parent.parent / "config.yml"
_ENV_PREFIX = "BLIP2_"
"""As in `executor.settings`, whose import takes longer than asking for health."""


def main(argv: list[str] | None = None) -> int:
    """Does what the command line says. Returns the exit status.

    Of serving: 0 after a signal, 1 without a start or with a lost device. Of `prepare`: 0, or 1 with one line that says
    why. Of `health`: 0 where the service says SERVING.
    """
    options = _parse(argv)
    try:
        return int(options.command(options))
    except StartupError as error:
        return _fail(f"cannot {options.doing}: {error}")


def _parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m executor",
        description="Serves BLIP-2 over gRPC.",
        epilog="Settings are in config.yml; each is overridable by an environment variable, e.g. BLIP2_MODEL.",
    )
    parser.set_defaults(command=_serve, doing="start")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: %(default)s)")
    parser.add_argument("--port", type=_port, default=54321, help="port to listen on (default: %(default)s)")
    parser.add_argument("--config", type=Path, default=_CONFIG, help="config.yml to use (default: the project's)")
    commands = parser.add_subparsers(title="instead of serving", metavar="")

    preparing = commands.add_parser(
        "prepare", help="write a copy of a checkpoint that is quick to load, with checksums"
    )
    preparing.set_defaults(command=_prepare, doing="prepare")
    preparing.add_argument("--model", required=True, help="checkpoint: hub id or local directory")
    preparing.add_argument("--revision", default="main", help="branch, tag or commit (default: %(default)s)")
    preparing.add_argument("--dtype", default="float16", help="float16, bfloat16, float32 (default: %(default)s)")
    preparing.add_argument("--output", type=Path, required=True, help="directory to write; must not exist, or be empty")

    asking = commands.add_parser("health", help="ask a running service over gRPC whether it serves; plaintext")
    asking.set_defaults(command=_health, doing="ask")
    asking.add_argument("--host", default="127.0.0.1", help="default: %(default)s")
    # A text, so that it is looked at where health is asked for, and nowhere else.
    port = os.environ.get(f"{_ENV_PREFIX}HEALTH_PORT") or "54321"
    asking.add_argument("--port", type=_port, default=port, help="default: BLIP2_HEALTH_PORT, else 54321")
    asking.add_argument("--timeout", type=float, default=3.0, help="seconds (default: %(default)s)")
    return parser.parse_args(argv)


def _port(text: str) -> int:
    if not (text.isdecimal() and 0 < int(text) < 65536):
        raise argparse.ArgumentTypeError(f"{text} is no port, which is a number from 1 to 65535")
    return int(text)


def _prepare(options: argparse.Namespace) -> int:
    signals.exit_on_signals()
    from executor.checkpoints.prepare import prepare

    prepare(options.model, options.output, options.revision, options.dtype)
    print(f"blip2: prepared {options.output}; serve it with BLIP2_MODEL={options.output} BLIP2_DTYPE={options.dtype}")
    return 0


def _health(options: argparse.Namespace) -> int:
    from executor.server.health import ask

    return ask(options.host, options.port, options.timeout)


def _serve(options: argparse.Namespace) -> int:
    _import_jina()
    import yaml
    from jina.excepts import BadConfigSource

    from executor.server.process import LoadingPort, Runtime

    uses = _uses(options)
    # Before the port is bound: who sees it may send a signal, and that is an orderly end.
    signals.end_at_once(lambda _: 0)
    try:
        port = LoadingPort(options.host, options.port)
    except OSError as error:
        raise StartupError(_why_not_bound(error, options.host, options.port)) from None
    try:
        runtime = Runtime(_pod(uses, options.host, options.port), port)
    except (yaml.YAMLError, BadConfigSource) as error:
        raise StartupError(f"{options.config} cannot be read: {_why_not_read(error)}") from None
    # What was made up to here stays: looking through it for garbage would stop all requests for a fifth of a second,
    # every few thousand of them.
    gc.collect()
    gc.freeze()
    with runtime:
        runtime.run_forever()
    return runtime.exit_status


def _import_jina() -> None:
    """It makes a directory for its cache."""
    try:
        with signals.keeping_handlers():
            import executor.jina_adapter  # noqa: F401
    except OSError as error:
        raise StartupError(f"{error.filename} cannot be made ({error.strerror}); set HOME to a writable one") from None


def _uses(options: argparse.Namespace) -> str | dict[str, Any]:
    """What Jina is to load: config.yml, less what it would load a second time where the class is ours."""
    if not options.config.is_file():
        raise StartupError(f"there is no configuration file {options.config}")
    configured = _read(options.config)
    if not isinstance(configured, dict):
        raise StartupError(f"{options.config} cannot be read: it is no mapping of keys to values")
    for section in ("with", "metas", "requests", "dynamic_batching"):
        if not isinstance(configured.get(section) or {}, dict):
            raise StartupError(f"{options.config} cannot be read: its `{section}:` is no mapping of names to values")
    settings = configured.get("with") or {}
    if _unresolved(settings, "log_format") == "json":  # so that what ends the start is told in JSON too
        from executor.telemetry import logs

        logs.set_up("json")
    for name in ("health_port", "metrics_port"):
        if str(_unresolved(settings, name)) == str(options.port):
            raise StartupError(f"{name} {options.port} is the port of gRPC; choose another")
    modules = configured.get("py_modules") or []
    is_ours = all(Path(module).parts[-2:] == ("executor", "__init__.py") for module in _as_list(modules))
    if configured.get("jtype") != "Blip2Executor" or not is_ours:
        return str(options.config)
    return {key: value for key, value in configured.items() if key != "py_modules"}


def _as_list(names: Any) -> list[str]:
    return [names] if isinstance(names, str) else [str(name) for name in names]


def _pod(uses: str | dict[str, Any], host: str, port: int) -> argparse.Namespace:
    from jina.parsers import set_pod_parser

    pod: argparse.Namespace = set_pod_parser().parse_args(["--name", "blip2"])
    pod.uses, pod.host, pod.port = uses, host, port
    return pod


def _read(config: Path) -> Any:
    """What is in it; nothing where Jina, which reads it again, is to say why it cannot be read."""
    import yaml

    with suppress(yaml.YAMLError, OSError, UnicodeDecodeError):
        return yaml.safe_load(config.read_text())
    return {}


def _unresolved(configured: dict[str, Any], name: str) -> Any:
    """A setting's value before the settings are resolved, which happens where Jina loads the Executor."""
    return os.environ.get(f"{_ENV_PREFIX}{name.upper()}") or configured.get(name)


def _why_not_read(error: Exception) -> str:
    import yaml

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
    logs = sys.modules.get("executor.telemetry.logs")
    if logs is not None and logs.is_json():
        logging.getLogger("blip2").critical(message)
    else:
        print(f"blip2: {message}", file=sys.stderr)
    return 1


def _exit_now(status: int) -> None:
    """Without waiting for threads: one may wait for a name server, long after the last answer."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


if __name__ == "__main__":
    signals.end_at_once()
    _exit_now(main())
