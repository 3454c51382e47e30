import logging
import os
from pathlib import Path

import grpc
import pytest
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
    load_pem_private_key,
)

from executor.errors import StartupError
from executor.server.tls import Certificates
from executor.settings import Settings
from tests.support.certificates import Authority, replace

LOG = logging.getLogger("test_tls")


@pytest.fixture
def authority(tmp_path) -> Authority:
    return Authority(tmp_path)


@pytest.fixture
def files(authority) -> tuple[Path, Path]:
    return authority.write_pair()


def test_unchanged_files_are_not_read_again(authority, files):
    certificates = Certificates(files[0], files[1], authority.file, LOG)
    assert isinstance(certificates.credentials(), grpc.ServerCredentials)
    assert certificates.renewed() is None


@pytest.mark.parametrize("changed", ["pair", "client_ca"])
def test_a_renewed_file_counts_once(authority, files, caplog, changed):
    certificates = Certificates(files[0], files[1], authority.file, LOG)
    if changed == "pair":
        authority.write_pair()
    else:
        replace(authority.file, authority.pem + authority.pem)
    with caplog.at_level(logging.INFO):
        assert isinstance(certificates.renewed(), grpc.ServerCertificateConfiguration)
        assert certificates.renewed() is None
    assert caplog.messages == ["TLS: the files have changed and are in use"]


def test_a_swapped_link_counts_as_kubernetes_swaps_it(tmp_path):
    for name in ("..1", "..2"):
        (tmp_path / name).mkdir()
        Authority(tmp_path / name).write_pair()
    (tmp_path / "..data").symlink_to("..1")
    for name in ("server.pem", "server.key"):
        (tmp_path / name).symlink_to(f"..data/{name}")
    certificates = Certificates(tmp_path / "server.pem", tmp_path / "server.key", None, LOG)
    (tmp_path / "..data_tmp").symlink_to("..2")
    (tmp_path / "..data_tmp").rename(tmp_path / "..data")
    assert certificates.renewed() is not None


@pytest.mark.parametrize("half", ["new certificate", "truncated certificate", "no key"])
def test_the_former_pair_stays_while_the_files_do_not_fit_and_the_log_says_so_once(authority, files, caplog, half):
    cert, key = files
    certificates = Certificates(cert, key, None, LOG)
    new_cert, new_key = authority.issue()
    if half == "no key":
        key.unlink()
    else:
        replace(cert, new_cert if half == "new certificate" else new_cert[:200])
    with caplog.at_level(logging.INFO):
        assert [certificates.renewed() for _ in range(3)] == [None] * 3
        assert [record.levelname for record in caplog.records] == ["ERROR"]
        assert "the former certificates stay in use" in caplog.text
        replace(cert, new_cert)
        replace(key, new_key)
        assert certificates.renewed() is not None


def test_files_that_change_while_they_are_read_wait_for_the_next_handshake(authority, files, monkeypatch):
    certificates = Certificates(files[0], files[1], None, LOG)
    authority.write_pair()
    load = certificates._load

    def load_and_write() -> grpc.ServerCertificateConfiguration:
        configuration = load()
        authority.write_pair()
        return configuration

    monkeypatch.setattr(certificates, "_load", load_and_write)
    assert certificates.renewed() is None
    monkeypatch.undo()
    assert certificates.renewed() is not None


def encrypted(key: bytes) -> bytes:
    return load_pem_private_key(key, None).private_bytes(
        Encoding.PEM, PrivateFormat.TraditionalOpenSSL, BestAvailableEncryption(b"open sesame")
    )


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda cert, key, ca: cert.unlink(), "TLS: tls_cert {cert} cannot be read: No such file or directory"),
        (lambda cert, key, ca: key.unlink(), "TLS: tls_key {key} cannot be read: No such file or directory"),
        (lambda cert, key, ca: ca.unlink(), "TLS: tls_client_ca {ca} cannot be read: No such file or directory"),
        (lambda cert, key, ca: cert.write_text("nothing"), "TLS: tls_cert {cert} has no certificate in PEM"),
        (lambda cert, key, ca: ca.write_text(""), "TLS: tls_client_ca {ca} has no certificate in PEM"),
        (lambda cert, key, ca: key.write_text("nothing"), "TLS: tls_key {key} has no key in PEM"),
        (
            lambda cert, key, ca: key.write_bytes(Authority(key.parent, "other").issue()[1]),
            "TLS: tls_key {key} does not fit tls_cert {cert}",
        ),
        (lambda cert, key, ca: key.write_bytes(encrypted(key.read_bytes())), "TLS: tls_key {key} has a passphrase"),
    ],
    ids=["no cert", "no key", "no ca", "broken cert", "broken ca", "broken key", "other key", "encrypted key"],
)
def test_bad_files_end_the_start_with_what_is_wrong(authority, files, spoil, message):
    cert, key = files
    ca = authority.file
    spoil(cert, key, ca)
    with pytest.raises(StartupError) as raised:
        Certificates(cert, key, ca, LOG)
    assert str(raised.value).startswith(message.format(cert=cert, key=key, ca=ca))
    assert "\n" not in str(raised.value)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read every file")
def test_a_file_that_may_not_be_read_is_said(authority, files):
    files[1].chmod(0)
    with pytest.raises(StartupError, match=r"TLS: tls_key .* cannot be read: Permission denied"):
        Certificates(files[0], files[1], None, LOG)


@pytest.mark.parametrize(
    ("configured", "message"),
    [
        ({"tls_cert": "a"}, "tls_cert and tls_key are set together"),
        ({"tls_key": "a"}, "tls_cert and tls_key are set together"),
        ({"tls_client_ca": "a"}, "tls_client_ca needs tls_cert and tls_key"),
    ],
)
def test_half_of_tls_ends_the_start(configured, message):
    with pytest.raises(StartupError, match=message):
        Settings.resolve(configured)
