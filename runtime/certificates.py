"""Certificates and keys from files that a configuration names, for TLS on either side."""

from __future__ import annotations

import ssl
from pathlib import Path

from runtime import regular_files


def trust(context: ssl.SSLContext, authorities: str | Path) -> None:
    """Also trust the CA certificates in a PEM file; raises OSError, of which SSLError is one."""
    with regular_files.opened(authorities) as file:
        context.load_verify_locations(cafile=_path(file.fileno()))


def load_chain(
    context: ssl.SSLContext, certificate: str | Path, key: str | Path | None = None
) -> None:
    """Use a certificate and its key, both PEM files; without ``key``, the first contains the key.

    Raises OSError, of which SSLError is one. A key with a passphrase is refused: OpenSSL would ask
    for it on the server's terminal, and wait.
    """
    with regular_files.opened(certificate) as first, regular_files.opened(key or certificate) as of:
        context.load_cert_chain(_path(first.fileno()), _path(of.fileno()), password=_refuse)


def _path(descriptor: int) -> str:
    """A path for OpenSSL, which opens files itself, and opens what was just found suitable."""
    return f"/proc/self/fd/{descriptor}"


def _refuse() -> str:
    raise ssl.SSLError(1, "the key has a passphrase; store it without one")
