"""BLIP-2 as a service: visual question answering over gRPC, as a Jina Executor."""

import os
import warnings

from executor.server import signals as beginning

# Jina reports every start to a public host unless this variable exists. It is read when the server starts, which is
# after this import.
os.environ.setdefault("JINA_OPTOUT_TELEMETRY", "1")

# Said by a dependency of Jina at its import; setuptools is pinned for it.
warnings.filterwarnings("ignore", message="pkg_resources is deprecated")

if beginning.is_program():
    beginning.exit_on_signals()
    beginning.import_jina()

__version__ = "0.1.0"

from executor.errors import ErrorCode  # noqa: E402
from executor.jina_adapter import mends as jina_fixes  # noqa: E402
from executor.jina_adapter.executor import Blip2Executor  # noqa: E402
from executor.schemas import ImagePrompt, Response  # noqa: E402

jina_fixes.apply()

__all__ = ["Blip2Executor", "ErrorCode", "ImagePrompt", "Response"]
