"""TLS on the gRPC port, with certificates that may be renewed while the service runs.

Knows gRPC and the files; knows nothing of what is served.
"""

import logging
import ssl
from pathlib import Path

import grpc

from executor.errors import StartupError
from executor.server.file_stamps import Stamps, stamps_of


class Certificates:
    """Reads the files of a server's identity, and of who may call it; again when they change.

    A change counts when the files fit together: while only one of a pair is new, the former pair stays.

    Args:
        cert: PEM, the server's certificate and what leads to its root.
        key: PEM, without a passphrase.
        client_ca: PEM, who must have signed the clients' certificates; None asks for none.
        log: told of changes.

    Raises:
        StartupError: a file cannot be read, or they do not fit together.
    """

    def __init__(self, cert: Path, key: Path, client_ca: Path | None, log: logging.Logger) -> None:
        self._cert, self._key, self._client_ca = cert, key, client_ca
        self._files = [cert, key, *([client_ca] if client_ca else [])]
        self._log = log
        self._used = stamps_of(self._files)
        self._unusable: Stamps = ()
        self._first = self._load()

    def credentials(self) -> grpc.ServerCredentials:
        """Makes what a server is built with. Every handshake uses the newest files that fit together."""
        return grpc.dynamic_ssl_server_credentials(
            self._first, self.renewed, require_client_authentication=self._client_ca is not None
        )

    def renewed(self) -> grpc.ServerCertificateConfiguration | None:
        """Returns what has come since the last call, None where nothing has. gRPC calls it before each handshake."""
        found = stamps_of(self._files)
        if found == self._used:
            return None
        try:
            configuration = self._load()
            if stamps_of(self._files) != found:
                raise StartupError("TLS: the files are changing")
        except StartupError as error:
            if found != self._unusable:  # once, and not with every handshake
                self._log.error(f"{error}; the former certificates stay in use until the files can be used")
            self._unusable = found
            return None
        self._log.info("TLS: the files have changed and are in use")
        self._used, self._unusable = found, ()
        return configuration

    def _load(self) -> grpc.ServerCertificateConfiguration:
        cert, key = _read("tls_cert", self._cert), _read("tls_key", self._key)
        _check_pair(self._cert, self._key)
        client_ca = None
        if self._client_ca is not None:
            client_ca = _read("tls_client_ca", self._client_ca)
            _check_certificates("tls_client_ca", self._client_ca)
        return grpc.ssl_server_certificate_configuration([(key, cert)], root_certificates=client_ca)


def _read(setting: str, file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise StartupError(f"TLS: {setting} {file} cannot be read: {error.strerror}") from None


def _check_certificates(setting: str, file: Path) -> None:
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_verify_locations(file)
    except (OSError, ValueError):  # ssl.SSLError is an OSError
        raise StartupError(f"TLS: {setting} {file} has no certificate in PEM") from None


def _check_pair(cert: Path, key: Path) -> None:
    _check_certificates("tls_cert", cert)
    has_passphrase = False

    def no_passphrase() -> str:
        nonlocal has_passphrase
        has_passphrase = True
        return ""

    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(cert, key, no_passphrase)
    except (OSError, ValueError) as error:
        if has_passphrase:
            raise StartupError(f"TLS: tls_key {key} has a passphrase; the service takes a key without one") from None
        if getattr(error, "reason", None) == "KEY_VALUES_MISMATCH":
            raise StartupError(f"TLS: tls_key {key} does not fit tls_cert {cert}") from None
        raise StartupError(f"TLS: tls_key {key} has no key in PEM, or tls_cert {cert} cannot be used") from None
