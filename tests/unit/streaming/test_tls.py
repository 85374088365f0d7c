"""The self-signed certificate of the streaming server, which openssl makes at each start."""

from __future__ import annotations

import signal
import ssl
from pathlib import Path

import pytest

from runtime.config.tables import ConfigError, StreamingTable
from runtime.streaming import tls
from tests.unit.processes import recorded_processes


def openssl(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    """Replace openssl by a program."""
    program = tmp_path / "openssl"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")


async def test_a_key_pair_is_generated() -> None:
    made = await tls.context(StreamingTable(), "127.0.0.1")
    assert made.minimum_version is ssl.TLSVersion.TLSv1_2


async def test_an_openssl_that_fails_is_quoted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    openssl(tmp_path, monkeypatch, "echo no entropy >&2; exit 1")
    with pytest.raises(ConfigError, match="could not generate a key pair: no entropy"):
        await tls.context(StreamingTable(), "127.0.0.1")


async def test_an_openssl_that_hangs_is_killed_with_the_remedy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tls, "_LIMIT", 0.2)
    openssl(tmp_path, monkeypatch, "exec sleep 1000")
    started = recorded_processes(monkeypatch)
    with pytest.raises(ConfigError, match=r"within 0\.2 s; .*x509_key_pair_streaming"):
        await tls.context(StreamingTable(), "127.0.0.1")
    assert [await process.wait() for process in started] == [-signal.SIGKILL]
