"""A containerd for one test, without its CRI plugin: it only holds images."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Self

from .leaks import claim
from .node import Containerd
from .waiting import PATIENCE


class Daemon:
    """Starts on construction, stops with ``close``; all its files are below ``directory``."""

    def __init__(self, containerd: Containerd, extra_config: str = ""):
        self.containerd = containerd
        self._extra_config = extra_config
        # a unix socket's path has at most 107 bytes, so no long pytest folder here
        self.directory = Path(tempfile.mkdtemp(prefix="cri-images-", dir="/tmp"))
        claim(self.directory)
        self.socket = self.directory / "containerd.sock"
        self.address = f"unix://{self.socket}"
        self.process = self._start()

    def _start(self) -> subprocess.Popen[bytes]:
        config = self.directory / "config.toml"
        config.write_text(
            f'version = 2\nroot = "{self.directory}/root"\nstate = "{self.directory}/state"\n'
            'disabled_plugins = ["io.containerd.grpc.v1.cri"]\n'
            f'[grpc]\naddress = "{self.socket}"\n'
            f'[plugins."io.containerd.internal.v1.opt"]\npath = "{self.directory}/opt"\n'
            f"{self._extra_config}"
        )
        with (self.directory / "log").open("ab") as log:
            process = subprocess.Popen(
                [self._binary("containerd"), "--config", config],
                env=self.containerd.environment(),
                stdout=log,
                stderr=log,
            )
        deadline = time.monotonic() + 30
        while self._run("version").returncode:
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"containerd did not start, see {self.directory}/log")
            time.sleep(0.05)
        return process

    def restart(self) -> None:
        """Stop and start again: clients must survive this."""
        self._end()
        self.process = self._start()

    def ctr(self, *arguments: str, namespace: str = "k8s.io") -> str:
        """The output of ``ctr``; CalledProcessError if it fails."""
        done = self._run("--namespace", namespace, *arguments)
        if done.returncode:
            raise RuntimeError(f"ctr {' '.join(arguments)}: {done.stderr}")
        return done.stdout

    def _run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        command = [self._binary("ctr"), "--address", str(self.socket), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    def _binary(self, name: str) -> str:
        own = self.containerd.bin_dir
        return str(own / name) if own else name

    def _end(self) -> None:
        self.process.terminate()
        self.process.wait(PATIENCE)

    def close(self) -> None:
        self._end()
        shutil.rmtree(self.directory, ignore_errors=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
