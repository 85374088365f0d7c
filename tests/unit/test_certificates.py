"""Certificates and keys in PEM files."""

from __future__ import annotations

import ssl
import subprocess
from pathlib import Path

import pytest

from runtime import certificates


def openssl(directory: Path, *arguments: str) -> None:
    subprocess.run(["openssl", *arguments], cwd=directory, check=True, capture_output=True)


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with cert.pem, key.pem, both.pem, and secret.pem: the key with a passphrase."""
    directory = tmp_path_factory.mktemp("pair")
    curve = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1")
    files = ("-keyout", "key.pem", "-out", "cert.pem")
    openssl(directory, "req", "-x509", "-nodes", "-days", "2", "-subj", "/CN=x", *curve, *files)
    encrypted = ("-aes128", "-passout", "pass:abcd", "-in", "key.pem", "-out", "secret.pem")
    openssl(directory, "ec", *encrypted)
    both = (directory / "cert.pem").read_text() + (directory / "key.pem").read_text()
    (directory / "both.pem").write_text(both)
    return directory


def context() -> ssl.SSLContext:
    return ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)


def test_a_key_is_in_its_own_file_or_in_that_of_its_certificate(pair: Path) -> None:
    certificates.load_chain(context(), pair / "cert.pem", pair / "key.pem")
    certificates.load_chain(context(), pair / "both.pem")


def test_a_key_with_a_passphrase_is_refused_and_not_asked_for_on_the_terminal(pair: Path) -> None:
    with pytest.raises(ssl.SSLError, match="the key has a passphrase; store it without one"):
        certificates.load_chain(context(), pair / "cert.pem", pair / "secret.pem")


def test_an_authority_is_trusted(pair: Path) -> None:
    made = context()
    certificates.trust(made, pair / "cert.pem")
    assert len(made.get_ca_certs()) == 1
