"""Debian's ``docker-registry`` as a child process on a free port of 127.0.0.1."""

from __future__ import annotations

import contextlib
import random
import socket
import subprocess
import time
from pathlib import Path
from typing import Self

import pytest

from .leaks import claim
from .waiting import PATIENCE


def free_port() -> int:
    """A port of 127.0.0.1 that is in use by nobody.

    It is below those that the kernel gives to clients, so that no connection takes it before the
    caller's server listens.
    """
    while True:
        port = random.randrange(20000, 32000)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


class Registry:
    """A registry process; ``http`` and ``auth`` are parts of its YAML configuration."""

    def __init__(self, directory: Path, *, http: str = "", auth: str = "", scheme: str = "http"):
        self.port = free_port()
        self.host = f"127.0.0.1:{self.port}"
        self.url = f"{scheme}://{self.host}"
        directory.mkdir(parents=True, exist_ok=True)
        claim(directory)
        config = directory / "config.yml"
        config.write_text(
            "version: 0.1\nlog: {accesslog: {disabled: true}, level: error}\n"
            f"storage: {{filesystem: {{rootdirectory: {directory}/data}}}}\n"
            f"http:\n  addr: {self.host}\n{http}{auth}"
        )
        self._log = (directory / "registry.log").open("wb")
        self._process = subprocess.Popen(
            ["docker-registry", "serve", str(config)], stdout=self._log, stderr=self._log
        )
        self._wait_until_it_answers()

    def _wait_until_it_answers(self) -> None:
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            if self._process.poll() is not None:
                pytest.fail(
                    f"docker-registry ended with {self._process.returncode}, see {self._log.name}"
                )
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", self.port)) == 0:
                    return
            time.sleep(0.02)
        pytest.fail(f"docker-registry did not listen within {PATIENCE:.0f} s")

    def close(self) -> None:
        self._process.terminate()
        self._process.wait(PATIENCE)
        self._log.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
