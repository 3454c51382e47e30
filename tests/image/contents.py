"""`python -m tests.image.contents`: what fills the image, for docs/containers.md."""

from __future__ import annotations

from tests.image.building import IMAGE
from tests.image.podman import in_image, inspect_image

PACKAGES = "/opt/venv/lib/python3.11/site-packages"
NAMED = ("torch", "transformers", "sympy", "numpy", "networkx", "jina")


def main() -> None:
    total = int(inspect_image(IMAGE)["Size"])
    du = "du -s -B1 --apparent-size"
    script = f"cd {PACKAGES} && {du} {' '.join(NAMED)} numpy.libs && {du} {PACKAGES}"
    sizes = {path: int(size) for size, path in (line.split("\t") for line in in_image(IMAGE, script).splitlines())}
    sizes["numpy"] += sizes.pop("numpy.libs")
    packages = sizes.pop(PACKAGES)
    compiled = int(in_image(IMAGE, f"find {PACKAGES} -name '*.pyc' -printf '%s\\n' | awk '{{s+=$1}} END {{print s}}'"))
    print("| part | MB |\n|---|---|")
    for name, size in sorted(sizes.items(), key=lambda entry: -entry[1]):
        print(f"| `{name}` | {size / 1e6:.0f} |")
    print(f"| other Python packages | {(packages - sum(sizes.values())) / 1e6:.0f} |")
    print(f"| Debian, Python, the service | {(total - packages) / 1e6:.0f} |")
    print(f"| **together** | **{total / 1e6:.0f}** |")
    print(
        f"\nOf these {compiled / 1e6:.0f} MB are compiled Python (`.pyc`), without which each start would compile anew."
    )


if __name__ == "__main__":
    main()
