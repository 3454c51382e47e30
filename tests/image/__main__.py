"""`python -m tests.image`: installs what the tests of the image need, if it may, and runs them.

Other arguments are pytest's.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys

import pytest

from tests.image.building import base_image
from tests.image.podman import PACKAGES, TOOLS, why_not, why_not_run


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.image", description=__doc__)
    parser.add_argument("--if-possible", action="store_true", help="say why and succeed where no container can run")
    options, others = parser.parse_known_args()
    reason = _prepare()
    if reason is not None:
        print(f"image: not tested: {reason}", file=sys.stderr)
        return 0 if options.if_possible else 1
    return int(pytest.main(["-m", "image", "tests/image", *others]))


def _prepare() -> str | None:
    """Installs what is missing. Returns why no container can run here, or None."""
    missing = [tool for tool in TOOLS if shutil.which(tool) is None]
    if missing and os.geteuid() == 0 and shutil.which("apt-get"):
        print(f"image: installing {' '.join(PACKAGES)} ...", flush=True)
        environment = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
        for command in (["update"], ["install", "--yes", "--no-install-recommends", *PACKAGES]):
            done = subprocess.run(["apt-get", "-qq", *command], env=environment, check=False, capture_output=True)
            if done.returncode:
                return f"apt-get {command[0]} failed: {done.stderr.decode(errors='replace').strip()[-300:]}"
    reason = why_not()
    if reason is not None:
        return reason
    try:
        base = base_image()
    except (RuntimeError, subprocess.CalledProcessError) as error:
        return f"there is no base image: {error}"
    return why_not_run(base)


if __name__ == "__main__":
    sys.exit(main())
