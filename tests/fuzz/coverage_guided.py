"""A coverage-guided fuzz of the decoder or of references, with atheris (`pip install atheris`, Linux).

    python -m tests.fuzz.coverage_guided pictures -max_total_time=600
    python -m tests.fuzz.coverage_guided references -runs=100000

What follows the subject are libFuzzer's options. It starts from the sound pictures of the tests' corpus; Pillow's
Python code and the service's own are instrumented, Pillow's C code is not. It stops at the first exception that is not
documented, and writes the input to `crash-*`.
"""

import sys
import tempfile
from pathlib import Path

import atheris  # type: ignore[import-not-found, import-untyped, unused-ignore]

with atheris.instrument_imports(
    include=["PIL", "executor.pictures.addresses", "executor.pictures.bombs", "executor.pictures.data_uris"]
):
    from tests.fuzz import subjects

LONGEST_INPUT = 20_000


def one_picture(data: bytes) -> None:
    subjects.decode(data)


def one_reference(data: bytes) -> None:
    subjects.load(data.decode("utf-8", "surrogateescape"), _DIRECTORY)


_DIRECTORY = tempfile.mkdtemp(prefix="fuzz-pictures-")
_REFERENCES = [
    "http://a.example/x",
    "http://127.0.0.1:8080/",
    "http://[::1]/",
    "data:;base64,AAAA",
    "data:,%41",
    "/etc/x",
]


def main() -> None:
    subject, options = sys.argv[1], sys.argv[2:]
    corpus = Path(tempfile.mkdtemp(prefix="fuzz-corpus-"))
    seeds = subjects.seeds() if subject == "pictures" else [reference.encode() for reference in _REFERENCES]
    for number, seed in enumerate(seeds):
        (corpus / f"seed-{number}").write_bytes(seed)
    run = {"pictures": one_picture, "references": one_reference}[subject]
    atheris.Setup(
        [sys.argv[0], f"-max_len={LONGEST_INPUT}", "-rss_limit_mb=3000", "-timeout=20", *options, str(corpus)], run
    )
    atheris.Fuzz()


if __name__ == "__main__":
    main()
