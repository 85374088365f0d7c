"""The status files of containers.

Each file is replaced atomically, by one thread, in the order of the changes: the event loop never
waits for the disk. An exit is on disk before `Checkpoints.save` returns, because containerd is then
told to forget it. Other changes of the last moments may be lost in a power failure, which ends
every container anyway.

A status that cannot be written (the disk is full, read-only, or hangs) does not block the
container: it is kept in memory, copied to the state directory, which is usually on another file
system, and written when that becomes possible. `Checkpoints.load` prefers the copy, which is
deleted once the file itself has been written.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import Final

import structlog

from runtime import regular_files
from runtime.errors import Unavailable
from runtime.linux.files import sync_directory, write_whole
from runtime.steps.threads import STATE_FILES, Threads
from runtime.store import records
from runtime.store.layout import Layout
from runtime.transforms import facts

log = structlog.get_logger(__name__)

_SAVE_LIMIT: Final = 10.0
"""Time limit of one write in seconds; a slower disk is treated as not writable."""

_FIRST_PAUSE: Final = 1.0
_LONGEST_PAUSE: Final = 30.0
"""Seconds between attempts to write what could not be written, doubled from the first."""


class Checkpoints:
    """Reads and writes the status files of all containers."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        # one thread, so that the writes of a file keep their order
        self._thread = Threads("writes of status files", size=1)
        self._unsaved: dict[str, facts.ContainerStatus] = {}
        self._retry: asyncio.Task[None] | None = None
        self._closing = False
        self._syncs: set[asyncio.Task[None]] = set()

    @property
    def unsaved(self) -> int:
        """The number of containers whose status is only in memory."""
        return len(self._unsaved)

    async def create(self, container_id: str, status: facts.ContainerStatus) -> None:
        """Write a container's first status file; raises Unavailable if that fails."""
        directory = self._layout.container_root(container_id)
        try:
            directory.mkdir(mode=0o755, parents=True, exist_ok=True)
            await self._write(container_id, status)
        except (OSError, TimeoutError) as error:
            raise Unavailable(
                f"cannot save the status of container {container_id} below {directory}: "
                f"{_words(error)}"
            ) from error

    async def save(self, container_id: str, status: facts.ContainerStatus) -> None:
        """Write a container's status, now or, if that is not possible, later.

        A container whose directory is gone has been removed, and nothing is written.
        """
        try:
            await self._write(container_id, status)
        except FileNotFoundError:
            self._unsaved.pop(container_id, None)
            log.warning("status not saved: the directory is gone", container=container_id)
        except (OSError, TimeoutError, Unavailable) as error:
            self._unsaved[container_id] = status
            log.error(
                "status not saved; it is kept in memory and saved when the disk can be written",
                container=container_id,
                error=_words(error),
            )
            if not self._closing and (self._retry is None or self._retry.done()):
                self._retry = asyncio.create_task(self._save_later(), name="unsaved statuses")
        else:
            if self._unsaved.pop(container_id, None) is not None:
                log.info("status saved", container=container_id)

    def load(self, container_id: str) -> facts.ContainerStatus:
        """Read the status; raises OSError and `runtime.store.records.RecordError`."""
        copy = self._layout.container_status_copy(container_id)
        with contextlib.suppress(OSError, records.RecordError):
            return records.container_status(regular_files.read(copy, largest=records.LARGEST))
        path = self._layout.container_status(container_id)
        return records.container_status(regular_files.read(path, largest=records.LARGEST))

    async def close(self) -> None:
        """Try to write every unsaved status."""
        self._closing = True
        if self._retry is not None:
            self._retry.cancel()
            await asyncio.wait({self._retry})
        for container_id, status in list(self._unsaved.items()):
            await self.save(container_id, status)
        if self._syncs:
            await asyncio.wait(self._syncs, timeout=_SAVE_LIMIT)

    async def _save_later(self) -> None:
        pause = _FIRST_PAUSE
        while self._unsaved:
            await asyncio.sleep(pause)
            pause = min(pause * 2, _LONGEST_PAUSE)
            for container_id, status in list(self._unsaved.items()):
                # one that changed meanwhile is saved by that change
                if self._unsaved.get(container_id) is status:
                    await self.save(container_id, status)

    async def _write(self, container_id: str, status: facts.ContainerStatus) -> None:
        data = records.container_status_json(status)
        durable = status.finished_at != 0
        async with asyncio.timeout(_SAVE_LIMIT):
            await self._thread.run(self._replace, container_id, data, durable)
        if durable:
            directory = self._layout.container_root(container_id)
            sync = asyncio.create_task(STATE_FILES.run(sync_directory, directory))
            self._syncs.add(sync)
            sync.add_done_callback(self._synced)

    def _synced(self, sync: asyncio.Task[None]) -> None:
        self._syncs.discard(sync)
        if not sync.cancelled() and (error := sync.exception()) is not None:
            log.warning("directory of a status file not synced", error=str(error))

    def _replace(self, container_id: str, data: bytes, durable: bool) -> None:
        """Write the file; if that fails, write the copy and raise the error."""
        copy = self._layout.container_status_copy(container_id)
        try:
            write_whole(self._layout.container_status(container_id), data, durable=durable)
        except FileNotFoundError:
            raise
        except OSError:
            with contextlib.suppress(OSError):
                write_whole(copy, data, durable=False)
            raise
        copy.unlink(missing_ok=True)


def _words(error: Exception) -> str:
    return str(error) or f"the disk took longer than {_SAVE_LIMIT:.0f} s"
