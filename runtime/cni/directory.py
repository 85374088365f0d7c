"""The CNI directory, checked for changes once a second.

A check costs one stat for each file. inotify is not used: all processes of root share its instances
(128 by default), which run out on busy nodes; it does not see changes made by other nodes on a
network mount; and it needs a new watch each time the directory is recreated.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final, TypeAlias

import structlog

from runtime.cni.config import SUFFIXES, CniConfigError, CniList, load
from runtime.steps import threads
from runtime.steps.watched import ended, watched

log = structlog.get_logger(__name__)

Signature: TypeAlias = tuple[tuple[str, int, int, int], ...]
"""Path, inode, size and modification time (nanoseconds) of each file."""

_PERIOD: Final = 1.0
_SETTLE_SECONDS: Final = 0.05
"""Seconds without a change before the files are read, so that no file is read half-written."""


class CniDirectory:
    """The networks of one directory, updated while it is watched."""

    def __init__(self, directory: str, max_conf_num: int) -> None:
        self._directory = directory
        self._max_conf_num = max_conf_num
        self._watching: asyncio.Task[None] | None = None
        self._seen: Signature = ()
        """The state of the files when they were last read."""
        self.networks: tuple[CniList, ...] = ()
        """The networks of new pods; empty if the network is not ready."""
        self.problem: CniConfigError | None = CniConfigError("not read yet", "start the server")
        """The problem with the files, even if earlier networks are still in use."""

    async def start(self) -> None:
        """Create the directory if it does not exist, read it, and start watching it."""
        self._make()
        self.reload()
        self._watching = watched("CNI directory", self._watch)

    async def stop(self) -> None:
        """Stop watching; the networks stay as they are."""
        await ended(self._watching)

    def reload(self) -> None:
        """Read the directory now."""
        self._seen = self._signature()
        self._take(self._load())

    def _load(self) -> tuple[CniList, ...] | CniConfigError:
        try:
            return load(self._directory, self._max_conf_num)
        except CniConfigError as error:
            return error

    def _take(self, networks: tuple[CniList, ...] | CniConfigError) -> None:
        if isinstance(networks, CniConfigError):
            error = networks
            if str(error) != str(self.problem):
                log.error("CNI config", error=str(error), in_use=_names(self.networks))
            self.problem = error
            if not self._has_files():
                self.networks = ()
            return
        if networks != self.networks:
            log.info("CNI config", networks=_names(networks), directory=self._directory)
        self.networks, self.problem = networks, None

    def _make(self) -> None:
        directory = Path(self._directory)
        with contextlib.suppress(OSError):  # the read below reports why, and the watch continues
            directory.parent.mkdir(0o755, parents=True, exist_ok=True)
            directory.mkdir(0o700, exist_ok=True)

    def _has_files(self) -> bool:
        with contextlib.suppress(OSError):
            return any(name.endswith(SUFFIXES) for name in os.listdir(self._directory))
        return False

    async def _watch(self) -> None:
        """Read the directory after every change to it."""
        while True:
            await asyncio.sleep(_PERIOD)
            signature = await threads.CONFIGURATION.run(self._signature)
            if signature == self._seen:
                continue
            await asyncio.sleep(_SETTLE_SECONDS)
            settled = await threads.CONFIGURATION.run(self._signature)
            if settled != signature:
                continue  # another process is still writing
            self._seen = settled
            self._take(await threads.CONFIGURATION.run(self._load))

    def _signature(self) -> Signature:
        """Return a value that changes when the files change; () if the directory does not exist."""
        return tuple(sorted(self._entries()))

    def _entries(self) -> Iterator[tuple[str, int, int, int]]:
        """The files of networks, and of single plugins in subdirectories."""
        for directory in (Path(self._directory), *self._of_networks()):
            with contextlib.suppress(OSError), os.scandir(directory) as entries:
                for entry in entries:
                    with contextlib.suppress(OSError):  # removed since
                        if entry.name.endswith(SUFFIXES):
                            found = os.stat(entry.path)
                            yield entry.path, found.st_ino, found.st_size, found.st_ctime_ns
            with contextlib.suppress(OSError):
                yield str(directory), os.stat(directory).st_ino, 0, 0

    def _of_networks(self) -> list[Path]:
        with contextlib.suppress(OSError), os.scandir(self._directory) as entries:
            return [Path(entry.path) for entry in entries if entry.is_dir()]
        return []


def _names(networks: Sequence[CniList]) -> list[str]:
    return [network.name for network in networks]
