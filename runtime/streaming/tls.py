"""TLS for the streaming server: with the configured key pair, or one generated at each start."""

from __future__ import annotations

import asyncio
import os
import socket
import ssl
import tempfile
from pathlib import Path
from typing import Final

from runtime import certificates
from runtime.config.tables import ConfigError, StreamingTable

_DAYS = "3650"
_LIMIT: Final = 30.0
"""Seconds for openssl to generate a key pair; it takes some milliseconds."""


async def context(config: StreamingTable, host: str) -> ssl.SSLContext:
    """The server's TLS context. Raises ConfigError if the key pair cannot be used."""
    pair = config.x509_key_pair_streaming
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    made.minimum_version = ssl.TLSVersion.TLSv1_2
    made.set_alpn_protocols(["http/1.1"])
    if pair.tls_cert_file:
        try:
            certificates.load_chain(made, pair.tls_cert_file, pair.tls_key_file)
        except OSError as error:
            raise ConfigError(
                f"streaming.x509_key_pair_streaming: cannot use {pair.tls_cert_file} with "
                f"{pair.tls_key_file}: {error.strerror or error}"
            ) from error
        return made
    with tempfile.TemporaryDirectory() as directory:
        certificate, key = await _self_signed(Path(directory), host)
        made.load_cert_chain(certificate, key)
    return made


async def _self_signed(directory: Path, host: str) -> tuple[Path, Path]:
    """Generate a key pair for the node's name and this address, readable only by this user."""
    certificate, key = directory / "certificate.pem", directory / "key.pem"
    hostname = socket.gethostname()
    addresses = {"127.0.0.1", "::1", *_addresses(hostname)}
    names = {f"DNS:{hostname}", *(f"IP:{address}" for address in addresses)}
    names.add(f"IP:{host}" if host[:1].isdigit() or ":" in host else f"DNS:{host}")
    command = [
        *("openssl", "req", "-x509", "-nodes", "-days", _DAYS, "-subj", f"/CN={hostname}"),
        *("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"),
        *("-addext", f"subjectAltName={','.join(sorted(names))}"),
        *("-keyout", str(key), "-out", str(certificate)),
    ]
    try:
        openssl = await asyncio.create_subprocess_exec(
            *command,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
        )
    except FileNotFoundError as error:
        raise ConfigError(
            "streaming.enable_tls_streaming: a self-signed key pair needs openssl, which is "
            "not on PATH; install it, or configure a key pair in streaming.x509_key_pair_streaming"
        ) from error
    try:
        async with asyncio.timeout(_LIMIT):
            _, said = await openssl.communicate()
    except TimeoutError as error:
        raise ConfigError(
            "streaming.enable_tls_streaming: openssl did not generate a key pair within "
            f"{_LIMIT:g} s; configure one in streaming.x509_key_pair_streaming"
        ) from error
    finally:
        if openssl.returncode is None:
            openssl.kill()
    if openssl.returncode:
        raise ConfigError(
            "streaming.enable_tls_streaming: openssl could not generate a key pair: "
            f"{said.decode(errors='replace').strip()[-300:]}"
        )
    os.chmod(key, 0o600)
    return certificate, key


def _addresses(hostname: str) -> set[str]:
    try:
        found = socket.getaddrinfo(hostname, None)
    except OSError:
        return set()
    return {str(address[0]).partition("%")[0] for *_, address in found}
