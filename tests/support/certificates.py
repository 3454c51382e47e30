"""Certificates for tests: an authority made for the test, and files that it signed."""

import os
from pathlib import Path

import trustme


class Authority:
    """Signs certificates for loopback and writes them into a folder.

    Attributes:
        file: its own certificate.
    """

    def __init__(self, folder: Path, name: str = "ca") -> None:
        self._ca = trustme.CA()
        self._folder = folder
        self.file = folder / f"{name}.pem"
        self._ca.cert_pem.write_to_path(str(self.file))

    @property
    def pem(self) -> bytes:
        return self._ca.cert_pem.bytes()

    def issue(self) -> tuple[bytes, bytes]:
        """A certificate for 127.0.0.1 and localhost, and its key."""
        issued = self._ca.issue_cert("127.0.0.1", "localhost")
        return b"".join(blob.bytes() for blob in issued.cert_chain_pems), issued.private_key_pem.bytes()

    def write_pair(self, name: str = "server") -> tuple[Path, Path]:
        """Puts a new certificate and key into the folder, each in one step. Returns their files."""
        files = self._folder / f"{name}.pem", self._folder / f"{name}.key"
        for file, content in zip(files, self.issue(), strict=True):
            replace(file, content)
        return files


def replace(file: Path, content: bytes) -> None:
    """Puts content into a file in one step."""
    new = file.with_suffix(".new")
    new.write_bytes(content)
    os.replace(new, file)
