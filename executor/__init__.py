"""BLIP-2 as a service: visual question answering over gRPC, as a Jina Executor.

Importing this package loads nothing else and changes nothing: each name below is imported when it is asked for.
`Deployment` and `Flow` are Jina's own, mended as this service needs them (see `executor.jina_adapter.mends`); with
`Blip2Executor` they come mended too.
"""

import importlib
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from executor.errors import ErrorCode
    from executor.jina_adapter import Blip2Executor, Deployment, Flow
    from executor.schemas import ImagePrompt, Response
    from executor.version import __version__

__all__ = ["Blip2Executor", "Deployment", "ErrorCode", "Flow", "ImagePrompt", "Response", "__version__"]

_MODULES = {
    "Blip2Executor": "jina_adapter",
    "Deployment": "jina_adapter",
    "ErrorCode": "errors",
    "Flow": "jina_adapter",
    "ImagePrompt": "schemas",
    "Response": "schemas",
    "__version__": "version",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"executor.{_MODULES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


if __name__ != "executor":
    # Jina loads this file by its path, under a name of its own (`py_modules` of config.yml). What it looks for is the
    # class, which registers itself where it is defined; so the package is loaded once, under its own name.
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
    importlib.import_module("executor.jina_adapter")
