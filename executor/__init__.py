"""BLIP-2 as a service: visual question answering over gRPC, as a Jina Executor."""

import os

# Jina reports every start to a public host unless this variable exists. It is read when the server starts, which is
# after this import.
os.environ.setdefault("JINA_OPTOUT_TELEMETRY", "1")

from .errors import ErrorCode
from .executor import Blip2Executor
from .schemas import ImagePrompt, Response

__all__ = ["Blip2Executor", "ErrorCode", "ImagePrompt", "Response"]
