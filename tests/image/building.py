"""Builds the image as docs/containers.md says, with the host's pip configuration and certificates mounted into it.

Both are below one folder, mounted read-only on /mnt, which every base image has, empty: a mount point that were made
for the build would stay in the image.
"""

from __future__ import annotations

import ast
import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

from demo.service import ROOT
from tests.image.podman import podman

IMAGE = "localhost/blip2-executor:cpu"
IMAGE_WITH_CHECKPOINT = "localhost/blip2-executor:cpu-demo"
LOCAL_BASE = "localhost/blip2-executor/base:bookworm"
CPU_INDEX_URL = "https://download.pytorch.org/whl/cpu"
BUNDLE = Path("/etc/ssl/certs/ca-certificates.crt")
_INDEXES = ("index-url", "extra-index-url")
_KEPT = (*_INDEXES, "find-links", "no-index", "trusted-host", "timeout")


def base_image() -> str:
    """BASE_IMAGE of the environment, or a local Debian 12 with Python 3.11, made where it is not there yet."""
    given = os.environ.get("BASE_IMAGE")
    if given:
        return given
    if podman("image", "exists", LOCAL_BASE, check=False).returncode:
        with tempfile.TemporaryDirectory() as folder:
            archive = Path(folder, "base.tar")
            # Without manuals and translations, as the slim images of Debian are.
            options = [
                f"--dpkgopt=path-{rule}"
                for rule in (
                    "exclude=/usr/share/doc/*",
                    "include=/usr/share/doc/*/copyright",
                    "exclude=/usr/share/locale/*",
                    "exclude=/usr/share/man/*",
                )
            ]
            # mmdebstrap copies the host's name and name servers, which are no part of an image.
            hook = '--customize-hook=rm -f "$1/etc/resolv.conf" "$1/etc/hostname"'
            packages = "--include=python3.11-minimal,python3.11-venv"
            subprocess.run(
                ["mmdebstrap", "--quiet", "--variant=minbase", packages, *options, hook, "bookworm", str(archive)],
                check=True,
            )
            path = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
            podman("import", f"--change=ENV {path}", str(archive), LOCAL_BASE)
    return LOCAL_BASE


def host_pip_configuration() -> dict[str, str]:
    """The options of the host's pip that say where packages come from, the environment's on top."""
    done = subprocess.run([sys.executable, "-m", "pip", "config", "list"], check=True, capture_output=True, text=True)
    found: dict[str, str] = {}
    for line in sorted(done.stdout.splitlines(), key=lambda line: line.startswith(":env:")):
        match = re.fullmatch(r"(?:global|install|:env:)\.([\w-]+)=(.*)", line)
        if match and match[1] in (*_KEPT, "cert"):
            found[match[1]] = ast.literal_eval(match[2])
    return found


def package_sources() -> list[str]:
    """Every index and folder that the host's pip configuration names."""
    configured = host_pip_configuration()
    return [source for name in (*_INDEXES, "find-links") for source in configured.get(name, "").split()]


def build(image: str, base: str, **arguments: str) -> None:
    """Builds `image` on `base`; what was built before is used again.

    Args:
        arguments: build arguments beside those of the CPU variant.
    """
    with tempfile.TemporaryDirectory() as folder:
        mounts = _stage(Path(folder))
        given = {
            "BASE_IMAGE": base,
            "TORCH_INDEX_URL": _torch_index_url(),
            "PIP_CONFIG_FILE": "/mnt/pip.conf",
            **arguments,
        }
        podman(
            "build",
            "--format=docker",  # the OCI format has no HEALTHCHECK
            "--pull=never" if base.startswith("localhost/") else "--pull=missing",
            "--layers",
            *(f"--volume={host}:{inside}:ro" for host, inside in mounts),
            *(f"--build-arg={name}={value}" for name, value in given.items()),
            f"--tag={image}",
            str(ROOT),
            timeout_s=1800,
        )


def _torch_index_url() -> str:
    """PyTorch's index of CPU builds, unless the host's pip finds a CPU build without it."""
    locked = re.findall(r"^torch==\S+", (ROOT / "requirements.txt").read_text(), re.MULTILINE)[0]
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--dry-run", "--no-deps", "--ignore-installed"]
    done = subprocess.run([*pip, "--report=-", locked], check=True, capture_output=True, text=True)
    (found,) = json.loads(done.stdout)["install"]
    return "" if "+cpu" in found["metadata"]["version"] else CPU_INDEX_URL


def _stage(folder: Path) -> list[tuple[Path, str]]:
    """Fills `folder` with pip.conf, certificates and mount points. Returns what to mount where."""
    configured = host_pip_configuration()
    mounts = [(folder, "/mnt")]

    def inside(source: str, is_index: bool) -> str:
        path = Path(source.removeprefix("file://"))
        if not path.is_absolute():
            return source
        if not path.exists():
            return ""
        # An index links to files beside it.
        root = path.parent if is_index else path
        target = f"/mnt/{len(mounts)}"
        (folder / str(len(mounts))).mkdir()
        mounts.append((root, target))
        return f"file://{target}/{path.relative_to(root)}"

    certificates = Path(configured.pop("cert", BUNDLE))
    lines = ["[global]"]
    if certificates.exists():
        (folder / "ca.crt").write_bytes(certificates.read_bytes())
        lines.append("cert = /mnt/ca.crt")
    for name, value in configured.items():
        if name in (*_INDEXES, "find-links"):
            value = " ".join(filter(None, (inside(source, name in _INDEXES) for source in value.split())))
        lines.append(f"{name} = {value}")
    (folder / "pip.conf").write_text("\n".join(lines) + "\n")
    return mounts
