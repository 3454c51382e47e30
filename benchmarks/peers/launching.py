"""Starts a server, ours or a peer's, on a free port, waits until it answers, stops it and all that it started."""

import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import yaml

from benchmarks.peers import environments
from benchmarks.peers.batch_log import VARIABLE
from demo.service import ROOT, SERVE, Service

READY_TIMEOUT_S = 300


@dataclass(frozen=True)
class Kind:
    """A server to measure.

    Attributes:
        name: "ours" or a peer's.
        protocol: of `benchmarks.wire`.
        module: for `python -m`; or, for BentoML, what its command line serves.
        batch: most documents in a batch; None where there are no batches, or where it is configured elsewhere.
        wait_ms: the longest that a document waits for company.
        health: path that answers with status 200 when an HTTP server is ready.
        grid: (batch, wait_ms) that tuning tries.
    """

    name: str
    protocol: str
    module: str
    batch: int | None = None
    wait_ms: int | None = None
    health: str = ""
    grid: tuple[tuple[int, int], ...] = ()

    def tuned(self, batch: int, wait_ms: int) -> "Kind":
        return replace(self, batch=batch, wait_ms=wait_ms)


_GRID = tuple((batch, wait_ms) for batch in (16, 32) for wait_ms in (5, 20, 50, 100))
# BentoML's is no wait but the latency that it aims at: below what a batch takes it refuses questions.
_BENTOML_GRID = ((16, 1000), (32, 1000), (16, 10_000), (32, 10_000))

# batch and wait_ms are what `--tune` found best at concurrency 32: see RESULTS.md.
KINDS = {
    kind.name: kind
    for kind in (
        Kind("ours", "jina", "executor"),
        Kind("article", "jina", "benchmarks.peers.jina_article"),
        Kind("jina", "jina", "benchmarks.peers.jina_batching", 32, 50, grid=_GRID),
        Kind("litserve", "litserve", "benchmarks.peers.litserve_server", 16, 50, "/health", _GRID),
        Kind("bentoml", "bentoml", "benchmarks.peers.bentoml_server:Blip2", 16, 10_000, "/readyz", _BENTOML_GRID),
        Kind("ray", "ray", "benchmarks.peers.ray_server", 16, 100, "/-/healthz", _GRID),
    )
}


class Server(Service):
    """A running server of a kind. It prints into `folder`, and notes its batches in `batch_log` there.

    Args:
        kind: one of `KINDS`, perhaps tuned otherwise.
        model: directory of the checkpoint.
        threads: torch's threads.
        folder: for logs; exists.
        settings: of the service, where it is ours, beside its model.
    """

    def __init__(self, kind: Kind, model: Path, threads: int, folder: Path, settings: Mapping[str, object]) -> None:
        config = _counting_config(folder) if kind.name == "ours" else None
        log, settings = folder / f"{kind.name}.log", {"model": model, **settings}
        super().__init__(None, log, READY_TIMEOUT_S, config, _command(kind), **settings)
        self._kind = kind
        self.batch_log = folder / f"{kind.name}-batches.log"
        self.batch_log.touch()
        self.environment |= {
            "OMP_NUM_THREADS": str(threads),
            "HF_HUB_OFFLINE": "1",
            "PYTHONPATH": str(ROOT),
            VARIABLE: str(self.batch_log),
            "PEER_MODEL": str(model),
            "PEER_THREADS": str(threads),
            "PEER_BATCH": str(kind.batch),
            "PEER_WAIT_MS": str(kind.wait_ms),
            # Nobody is told that a server was started.
            "JINA_OPTOUT_TELEMETRY": "1",
            "BENTOML_DO_NOT_TRACK": "True",
            "RAY_USAGE_STATS_ENABLED": "0",
        }

    def is_ready(self) -> bool:
        if not self._kind.health:
            return super().is_ready()
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{self._kind.health}", timeout=5) as reply:
                return bool(reply.status == 200)
        except (urllib.error.URLError, ConnectionError, TimeoutError):
            return False


def _command(kind: Kind) -> Sequence[str]:
    """What starts it, less the port."""
    if kind.name == "ours":
        return SERVE
    python = environments.python(kind.name)
    if kind.name == "bentoml":
        return [python, "-m", "bentoml", "serve", kind.module, "--host", "127.0.0.1", "--working-dir", str(ROOT)]
    return [python, "-m", kind.module]


def _counting_config(folder: Path) -> Path:
    """The project's config.yml, but with the Executor that counts its batches."""
    config = yaml.safe_load((ROOT / "config.yml").read_text())
    config |= {"jtype": "CountedExecutor", "py_modules": [str(ROOT / "benchmarks" / "counted.py")]}
    file = folder / "config.yml"
    file.write_text(yaml.safe_dump(config, sort_keys=False))
    return file
