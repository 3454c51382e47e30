"""The engine without the service, for machines with PyTorch and transformers on which Jina does not install.

Importing this module first makes `executor` a plain folder of modules there, so that `executor.model.engine` and what
it needs (torch, transformers, accelerate, pydantic) can be imported without the package's front door, which imports
Jina.
"""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

if "executor" not in sys.modules and importlib.util.find_spec("jina") is None:
    package = ModuleType("executor")
    package.__path__ = [str(Path(__file__).resolve().parent.parent / "executor")]
    sys.modules["executor"] = package
