"""Collect the output of a process from a FIFO, up to a limit, on the event loop."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

_CHUNK = 1 << 16
"""Bytes: the size of a pipe."""


class OutputPipe:
    """A FIFO that the shim writes to and this process reads.

    Both ends are opened at once: without a writer, a read would report the end of output that has
    not started. ``started`` closes that write end once the shim has its own.
    """

    def __init__(self, path: Path, *, limit: int) -> None:
        """Create the FIFO at ``path`` and start to read; at most ``limit`` bytes are kept.

        Raises OSError, and then leaves nothing behind.
        """
        self.path = path
        self._limit = limit
        self._kept = bytearray()
        self._loop = asyncio.get_running_loop()
        self.ended: asyncio.Future[None] = self._loop.create_future()
        """Done when every writer has closed its end."""
        self._reader = self._writer = -1
        os.mkfifo(path, 0o600)
        try:
            self._reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
            self._loop.add_reader(self._reader, self._read)
            self._writer = os.open(path, os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        except BaseException:
            self.close()
            raise

    @property
    def content(self) -> bytes:
        """The output that was read, up to the limit."""
        return bytes(self._kept)

    def started(self) -> None:
        """The process runs, so the shim holds the write end."""
        if self._writer >= 0:
            os.close(self._writer)
            self._writer = -1

    def close(self) -> None:
        """Stop reading, even if there are writers left, and remove the FIFO. May be called
        again."""
        self.started()
        self._end()
        self.path.unlink(missing_ok=True)

    def _read(self) -> None:
        try:
            chunk = os.read(self._reader, _CHUNK)
        except BlockingIOError:
            return
        if not chunk:
            self._end()
            return
        # output beyond the limit is read but dropped, so that the process never blocks
        room = self._limit - len(self._kept)
        if room > 0:
            self._kept += chunk[:room]

    def _end(self) -> None:
        if self._reader < 0:
            return
        self._loop.remove_reader(self._reader)
        os.close(self._reader)
        self._reader = -1
        if not self.ended.done():
            self.ended.set_result(None)
