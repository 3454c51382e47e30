"""The peers' virtual environments: made once, with the service's own versions of what computes.

torch, transformers and what they read pictures and text with have the versions of requirements.txt, so that servers
differ and arithmetic does not. pip's own configuration (an index with torch for CPUs, say) counts.
"""

import re
import subprocess
import sys
from pathlib import Path

from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parent.parent.parent
FOLDER = ROOT / "benchmarks" / "results" / "venvs"

PACKAGES = {"litserve": "litserve==0.2.*", "bentoml": "bentoml==1.4.*", "ray": "ray[serve]==2.60.*"}
"""What pip installs for each peer that has an environment of its own, beside `SHARED`."""

SHARED = ("torch", "transformers", "tokenizers", "safetensors", "pillow", "numpy")


def python(peer: str) -> str:
    """The interpreter for a peer: this one for what runs on Jina, else that of its environment, made where missing.

    Raises:
        subprocess.CalledProcessError: pip failed; its output says why.
    """
    if peer not in PACKAGES:
        return sys.executable
    environment = FOLDER / peer
    interpreter = environment / "bin" / "python"
    packages = [PACKAGES[peer], *_locked(SHARED)]
    stamp = environment / "installed.txt"
    if not stamp.is_file() or stamp.read_text().splitlines() != packages:
        print(f"installing {' '.join(packages)} into {environment} ...", file=sys.stderr, flush=True)
        subprocess.run([sys.executable, "-m", "venv", "--clear", environment], check=True)
        subprocess.run([interpreter, "-m", "pip", "install", "--quiet", *packages], check=True)
        stamp.write_text("\n".join(packages) + "\n")
    return str(interpreter)


def version(peer: str) -> str:
    """The version that is installed."""
    package = {"article": "jina", "jina": "jina"}.get(peer, peer)
    program = f"from importlib.metadata import version; print(version({package!r}))"
    return subprocess.run([python(peer), "-c", program], check=True, capture_output=True, text=True).stdout.strip()


def _locked(names: tuple[str, ...]) -> list[str]:
    lines = re.findall(r"^[\w.-]+==.*$", (ROOT / "requirements.txt").read_text(), re.MULTILINE)
    requirements = [Requirement(line) for line in lines]
    return [
        f"{requirement.name}{requirement.specifier}"
        for requirement in requirements
        if requirement.name in names and (requirement.marker is None or requirement.marker.evaluate())
    ]
