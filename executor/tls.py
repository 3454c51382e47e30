"""TLS on the gRPC port, with certificates that may be renewed while the service runs.

Knows gRPC and the files alone.
"""

import logging
import os
import ssl
from pathlib import Path

import grpc

from .errors import StartupError

_log = logging.getLogger(__name__)


class Certificates:
    """The files of a server's identity, and of who may call it. They are read again when they change.

    A change counts when the files fit together: while only one of a pair is new, the former pair stays.

    Args:
        cert: PEM, the server's certificate and what leads to its root.
        key: PEM, without a passphrase.
        client_ca: PEM, who must have signed the clients' certificates; None asks for none.

    Raises:
        StartupError: a file cannot be read, or they do not fit together.
    """

    def __init__(self, cert: Path, key: Path, client_ca: Path | None = None) -> None:
        self._cert, self._key, self._client_ca = cert, key, client_ca
        self._files = [cert, key, *([client_ca] if client_ca else [])]
        try:
            self._versions = self._seen()
            self._current = self._load()
        except OSError as error:  # ssl.SSLError is one
            raise StartupError(f"TLS: {_reason(error)} ({', '.join(map(str, self._files))})") from None

    def credentials(self) -> grpc.ServerCredentials:
        """For a server. Every handshake uses the newest files."""
        return grpc.dynamic_ssl_server_credentials(
            self._current, self._renewed, require_client_authentication=self._client_ca is not None
        )

    def _renewed(self) -> grpc.ServerCertificateConfiguration:
        try:
            versions = self._seen()
            if versions != self._versions:
                self._current = self._load()
                self._versions = versions
                _log.info("TLS: the certificates have changed and are in use")
        except OSError as error:
            _log.error("TLS: the files have changed and cannot be used yet, the former stay: %s", _reason(error))
        return self._current

    def _seen(self) -> list[tuple[int, ...]]:
        found = [os.stat(file) for file in self._files]
        return [(one.st_mtime_ns, one.st_size, one.st_ino, one.st_dev) for one in found]

    def _load(self) -> grpc.ServerCertificateConfiguration:
        check = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        check.load_cert_chain(self._cert, self._key, password=_no_passphrase)
        roots = None
        if self._client_ca is not None:
            check.load_verify_locations(self._client_ca)
            roots = self._client_ca.read_bytes()
        return grpc.ssl_server_certificate_configuration(
            [(self._key.read_bytes(), self._cert.read_bytes())], root_certificates=roots
        )


def _no_passphrase() -> bytes:
    raise ssl.SSLError("the key has a passphrase; the service cannot ask for it")


def _reason(error: OSError) -> str:
    return error.strerror or getattr(error, "reason", None) or str(error.args[0] if error.args else error)
