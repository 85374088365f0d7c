"""A private containerd as a child process (``serve --embedded``), with a built-in pause image.

The daemon ends with the server; shims and pods keep running and are recovered at the next start. A
daemon left behind by a killed server is taken over.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import select
import shutil
import signal
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec
import structlog

from runtime.config.tables import DEFAULT_PAUSE, Config, ConfigError
from runtime.linux import children

log = structlog.get_logger(__name__)

_SBIN: Final = "/usr/local/sbin:/usr/sbin:/sbin"
OWN_PAUSE: Final = "localhost/cri-containerd/pause:1"
"""The name, in containerd's image store, of the pause image that the server includes."""

_STOP_LIMIT: Final = 10.0
"""Seconds for the daemon to exit by itself."""
_RESTART_DELAY: Final = 1.0

# The CRI plugin under its names before and since 2.0; NRI, whose socket belongs to the node's
# containerd; the rest is unused and would only slow down the start.
_DISABLED: Final = (
    "io.containerd.grpc.v1.cri",
    "io.containerd.cri.v1.images",
    "io.containerd.cri.v1.runtime",
    "io.containerd.podsandbox.controller.v1.podsandbox",
    "io.containerd.nri.v1.nri",
    "io.containerd.internal.v1.opt",
    "io.containerd.internal.v1.tracing",
    "io.containerd.tracing.processor.v1.otlp",
    "io.containerd.snapshotter.v1.aufs",
    "io.containerd.snapshotter.v1.blockfile",
    "io.containerd.snapshotter.v1.btrfs",
    "io.containerd.snapshotter.v1.devmapper",
    "io.containerd.snapshotter.v1.erofs",
    "io.containerd.snapshotter.v1.zfs",
)


@dataclass(frozen=True, slots=True)
class Places:
    """The daemon's directories and files, below the server's own directories."""

    root: Path
    state: Path

    @property
    def config(self) -> Path:
        return self.state / "config.toml"

    @property
    def log(self) -> Path:
        return self.root / "containerd.log"

    @property
    def socket(self) -> Path:
        return self.state / "containerd.sock"

    @property
    def address(self) -> str:
        return f"unix://{self.socket}"

    @property
    def pid(self) -> Path:
        return self.state / "containerd.pid"


def places(config: Config) -> Places:
    """The daemon's files for a server with this configuration."""
    return Places(Path(config.root, "containerd"), Path(config.state, "containerd"))


def configured(config: Config) -> Config:
    """The configuration with the private daemon, and the built-in pause image unless one is set."""
    replace = msgspec.structs.replace
    images = config.images
    if config.pause_image == DEFAULT_PAUSE:
        images = replace(images, pinned_images={**images.pinned_images, "sandbox": OWN_PAUSE})
    containerd = replace(config.containerd, address=places(config).address)
    return replace(config, images=images, containerd=containerd)


class Daemon:
    """The private containerd, from ``start`` to ``stop``."""

    def __init__(self, at: Places, *, snapshotter: str) -> None:
        self._places = at
        self._snapshotter = snapshotter
        self._process: subprocess.Popen[bytes] | None = None
        self._pid = 0

    def start(self) -> None:
        """Start the daemon or take over a running one; it responds some 100 ms later.

        Raises ConfigError if containerd is not on PATH.
        """
        at = self._places
        self._pid = _living(at)
        if self._pid:
            log.info("taking over the containerd of an earlier server", pid=self._pid)
            return
        environment = children.unmarked()
        environment["PATH"] = f"{environment.get('PATH', '')}:{_SBIN}"
        binary = shutil.which("containerd", path=environment["PATH"])
        if binary is None:
            raise ConfigError(
                "--embedded needs containerd, which is not on PATH; install it (on Debian: "
                "apt-get install containerd runc), or omit --embedded"
            )
        for directory in (at.root, at.state):
            directory.mkdir(mode=0o711, parents=True, exist_ok=True)
        at.config.write_text(_config(at, self._snapshotter))
        with at.log.open("ab") as output:
            self._process = subprocess.Popen(
                [binary, "--config", str(at.config)],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env=environment,
                # Ctrl-C in the terminal must reach only the server, which ends the daemon last.
                start_new_session=True,
            )
        self._pid = self._process.pid
        at.pid.write_text(str(self._pid))
        log.info("started a private containerd", pid=self._pid, binary=binary, log=str(at.log))

    async def keep_alive(self) -> None:
        """Restart the daemon whenever it exits, until cancelled."""
        while True:
            await self._end()
            log.error("the private containerd exited; restarting it", log=str(self._places.log))
            await asyncio.sleep(_RESTART_DELAY)
            self.start()

    def stop(self) -> None:
        """Stop the daemon; shims and their containers keep running."""
        for number in (signal.SIGTERM, signal.SIGKILL):
            try:
                with _pidfd(self._pid) as handle:
                    signal.pidfd_send_signal(handle, number)
                    if select.select([handle], [], [], _STOP_LIMIT)[0]:
                        break
            except ProcessLookupError:
                break
        self._collect()
        self._places.pid.unlink(missing_ok=True)

    async def _end(self) -> None:
        """Return when the daemon has exited, even if it is not a child of this process."""
        loop = asyncio.get_running_loop()
        ended = asyncio.Event()
        try:
            with _pidfd(self._pid) as handle:
                loop.add_reader(handle, ended.set)
                try:
                    await ended.wait()
                finally:
                    loop.remove_reader(handle)
        except ProcessLookupError:
            pass
        self._collect()

    def _collect(self) -> None:
        """Reap the daemon if it is our child, so that it does not stay as a zombie."""
        if self._process is not None:
            self._process.wait()


def started(config: Config) -> Daemon:
    """The daemon's process for this configuration; raises ConfigError if it cannot start."""
    daemon = Daemon(places(config), snapshotter=config.containerd.snapshotter)
    daemon.start()
    return daemon


@contextlib.contextmanager
def _pidfd(pid: int) -> Iterator[int]:
    """A pidfd: waiting and signalling by it cannot hit another process after the PID is reused."""
    handle = os.pidfd_open(pid)
    try:
        yield handle
    finally:
        os.close(handle)


def _living(at: Places) -> int:
    """The PID of a daemon that uses these files; 0 if there is none."""
    try:
        pid = int(at.pid.read_text())
    except (OSError, ValueError):
        return 0
    return pid if _is_ours(pid, at) else 0


def _is_ours(pid: int, at: Places) -> bool:
    """Whether this process is a daemon with our configuration: PIDs are reused."""
    try:
        command = Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False
    return str(at.config).encode() in command.split(b"\0")


def _config(at: Places, snapshotter: str) -> str:
    disabled = [name for name in _DISABLED if not name.endswith(f".{snapshotter}")]
    return (
        "# Written by cri-containerd serve --embedded at every start.\n"
        "version = 2\n"
        f'root = "{at.root}"\n'
        f'state = "{at.state}"\n'
        f"disabled_plugins = [{', '.join(repr(name) for name in disabled)}]\n"
        f'[grpc]\naddress = "{at.socket}"\n'
        f'[ttrpc]\naddress = "{at.socket}.ttrpc"\n'
        '[debug]\nlevel = "warn"\n'
    )
