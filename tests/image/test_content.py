"""What is in the image, and what must not be."""

from __future__ import annotations

import json
import re
from pathlib import Path

import certifi
import pytest

from tests.image.building import BUNDLE, host_pip_configuration, package_sources
from tests.image.podman import in_image, inspect_image, podman

pytestmark = [pytest.mark.image, pytest.mark.timeout(1800)]
MAX_BYTES = 1_600_000_000
PIP_FILES = (
    "/etc/pip.conf /etc/xdg/pip /opt/venv/pip.conf /root/.pip /root/.config /home/blip2/.pip /home/blip2/.config"
)


def certificate_lines(pem: str) -> set[str]:
    """One line of each certificate that no other certificate has."""
    blocks = re.findall(r"-----BEGIN CERTIFICATE-----\n(.*?)\n-----END CERTIFICATE-----", pem, re.DOTALL)
    return {block.splitlines()[-2] for block in blocks}


def certificates_of_host() -> set[str]:
    """Those of the trust store that was mounted, less the public ones, which several packages bring along."""
    bundle = Path(host_pip_configuration().get("cert", BUNDLE))
    debians = Path("/usr/share/ca-certificates").rglob("*.crt")
    public = "\n".join(file.read_text() for file in (Path(certifi.where()), *debians))
    return certificate_lines(bundle.read_text()) - certificate_lines(public) if bundle.exists() else set()


def test_it_is_small(image):
    assert inspect_image(image)["Size"] < MAX_BYTES


def test_it_runs_as_nobody_special_and_says_how_to_run_it(image):
    config = inspect_image(image)["Config"]
    assert config["User"] == "1000:1000"
    assert config["Entrypoint"] == ["python", "-m", "executor", "--host", "0.0.0.0", "--port", "54321"]
    assert config["ExposedPorts"] == {"54321/tcp": {}}
    check = ["CMD", "python", "-m", "executor", "health"]
    assert inspect_image(image)["Healthcheck"]["Test"] == check


def test_torch_is_a_cpu_build_and_the_versions_are_those_of_the_lock(image):
    assert "+cpu" in in_image(image, "python -c 'import torch; print(torch.__version__)'")
    assert "No broken requirements found" in in_image(image, "pip check")
    wanted = in_image(image, "pip install --disable-pip-version-check --no-index --dry-run -r /app/requirements.txt")
    assert "Would install" not in wanted


def test_nothing_of_the_hosts_pip_configuration_is_left(image):
    assert in_image(image, f"ls -d {PIP_FILES} 2>/dev/null || true") == ""
    assert in_image(image, "ls -A /mnt") == ""
    assert in_image(image, "find / -xdev -name direct_url.json") == ""
    told = json.dumps(inspect_image(image)) + podman("history", "--no-trunc", "--format=json", image).stdout
    names = [source for source in package_sources() if source.rstrip("/") != "https://pypi.org/simple"]
    assert [name for name in names if name in told] == []
    assert re.findall(r"(?i)\b(?:https?|all|no)_proxy\b", told) == []


def test_no_file_holds_a_certificate_or_a_package_source_of_the_host(image):
    names = [source for source in package_sources() if source.rstrip("/") != "https://pypi.org/simple"]
    sought = sorted({*names, *certificates_of_host(), "file:///mnt", "/mnt/ca.crt"})
    search = "cat > /tmp/sought && grep -rlF --exclude-dir=proc --exclude-dir=sys -f /tmp/sought / || true"
    assert in_image(image, search, stdin="\n".join(sought)).splitlines() == ["/tmp/sought"]


def test_the_trust_store_is_that_of_the_base(image, base):
    listing = (
        "find /etc/ssl /usr/share/ca-certificates /usr/local/share -type f -exec sha256sum {} + 2>/dev/null | sort"
    )
    assert in_image(image, listing) == in_image(base, listing)


def test_the_checkpoint_is_all_that_differs_where_one_is_baked_in(image, image_with_checkpoint):
    plain, baked = inspect_image(image)["RootFS"]["Layers"], inspect_image(image_with_checkpoint)["RootFS"]["Layers"]
    same = [one == other for one, other in zip(plain, baked, strict=True)]
    first = same.index(False)
    listing = "cd /app && find . -type f ! -name '*.pyc' -exec sha256sum {} + | sort"
    only = set(in_image(image_with_checkpoint, listing).splitlines()) - set(in_image(image, listing).splitlines())
    assert only
    assert all("./demo/checkpoint/" in line for line in only)
    install = next(n for n, step in enumerate(inspect_image(image)["History"]) if "pip install" in step["created_by"])
    layers_before = sum(not step.get("empty_layer") for step in inspect_image(image)["History"][: install + 1])
    assert first >= layers_before
