"""The service as a Jina Executor: the class, its contract with the mends of Jina, and the mends.

Whoever imports this package, or takes `Blip2Executor`, `Deployment` or `Flow` from `executor`, gets a mended Jina. It
is a door: it knows the service, and nothing below the service knows it.
"""

import os
import warnings

# Jina reports every start to a public host unless this variable exists. It is read when a server starts.
os.environ.setdefault("JINA_OPTOUT_TELEMETRY", "1")

# Said by a dependency of Jina at its import; setuptools is pinned for it.
warnings.filterwarnings("ignore", message="pkg_resources is deprecated")

from jina import Deployment, Flow  # noqa: E402 - after what its import reads

from executor.jina_adapter import mends  # noqa: E402
from executor.jina_adapter.executor import Blip2Executor  # noqa: E402

mends.apply()

__all__ = ["Blip2Executor", "Deployment", "Flow"]
