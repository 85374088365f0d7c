"""Reading and writing FIFOs on the event loop, without threads and without polling."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import fcntl
import os
from collections.abc import Callable
from pathlib import Path
from typing import Final, Self

CAPACITY: Final = 256 << 10
"""Requested capacity of each FIFO: a quarter of the wake-ups of the kernel's default, 64 KiB."""

_FIRST_PAUSE: Final = 0.0005
_LONGEST_PAUSE: Final = 0.05
"""Seconds between attempts to open a FIFO that has no reader yet."""

_TURN: Final = 4
"""Reads or writes in a row without waiting, before other tasks run."""


class PipeReader:
    """The reading end of a FIFO."""

    def __init__(self, path: Path | str) -> None:
        """Open the reading end, and a writing end too.

        Without a writer, a read would report the end of output that has not started yet;
        `writer_is_there` closes our writing end.
        """
        self._loop = asyncio.get_running_loop()
        self._writer = -1
        self._watched = False
        self._next: asyncio.Future[bytes] | None = None
        self._take: Callable[[bytes], bytes] | None = None
        self._fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            self._writer = os.open(path, os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError:
            self.close()
            raise
        self._in_a_row = 0
        with contextlib.suppress(OSError):  # above the user's limit
            fcntl.fcntl(self._fd, fcntl.F_SETPIPE_SZ, CAPACITY)

    def writer_is_there(self) -> None:
        """Another process has opened the FIFO for writing."""
        if self._writer >= 0:
            os.close(self._writer)
            self._writer = -1

    async def read(self, take: Callable[[bytes], bytes] | None = None) -> bytes:
        """The next bytes; b"" once every writer has closed, or after `close`.

        What arrives while this waits is first offered to ``take``, which returns the bytes that it
        did not take; only those end the wait.
        """
        while self._fd >= 0:
            if self._in_a_row >= _TURN:
                self._in_a_row = 0
                await asyncio.sleep(0)
                continue
            try:
                data = os.read(self._fd, CAPACITY)
            except BlockingIOError:
                self._in_a_row = 0
                return await self._when_readable(take)
            self._in_a_row += 1
            return data
        return b""

    def close(self) -> None:
        """Stop reading. Idempotent; must not be called while `read` waits."""
        self.writer_is_there()
        if self._fd >= 0:
            self._unwatch()
            os.close(self._fd)
            self._fd = -1

    async def _when_readable(self, take: Callable[[bytes], bytes] | None) -> bytes:
        """The next bytes, once there are any.

        The descriptor stays watched until it is readable while no `read` waits: what a user types
        arrives byte by byte, and watching anew for each byte would take a tenth of its echo time.
        """
        self._next = self._loop.create_future()
        self._take = take
        if not self._watched:
            self._loop.add_reader(self._fd, self._readable)
            self._watched = True
        try:
            return await self._next
        finally:
            self._next = self._take = None

    def _readable(self) -> None:
        if self._next is None or self._next.done():
            self._unwatch()
            return
        try:
            data = os.read(self._fd, CAPACITY)
            if data and self._take is not None:
                data = self._take(data)
                if not data:
                    return
            self._next.set_result(data)
        except BlockingIOError:
            pass
        except Exception as error:
            self._next.set_exception(error)

    def _unwatch(self) -> None:
        if self._watched:
            self._loop.remove_reader(self._fd)
            self._watched = False


class PipeWriter:
    """The writing end of a FIFO."""

    def __init__(self, fd: int) -> None:
        self._loop = asyncio.get_running_loop()
        self._fd = fd
        self._ready: asyncio.Future[None] | None = None
        with contextlib.suppress(OSError):
            fcntl.fcntl(fd, fcntl.F_SETPIPE_SZ, CAPACITY)

    @classmethod
    async def opened(cls, path: Path | str, limit: float = 0) -> Self:
        """Open a FIFO that has a reader within ``limit`` seconds; OSError (ENXIO) if not.

        A shim opens its end asynchronously, within a millisecond. Opening a reading end here
        instead would lose input that is written and closed before the shim has opened its end.
        """
        pause, waited = _FIRST_PAUSE, 0.0
        while True:
            try:
                return cls(os.open(path, os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC))
            except OSError as error:
                if error.errno != errno.ENXIO or waited >= limit:
                    raise
            await asyncio.sleep(pause)
            waited += pause
            pause = min(2 * pause, _LONGEST_PAUSE)

    async def write(self, data: bytes) -> None:
        """Write all bytes; BrokenPipeError if there is no reader left, or after `close`."""
        view = memoryview(data)
        while view:
            if self._fd < 0:
                raise BrokenPipeError("the pipe is closed")
            try:
                view = view[os.write(self._fd, view) :]
            except BlockingIOError:
                await self._writable()

    def write_now(self, data: bytes) -> bytes:
        """Write what there is room for and return the rest; `write` raises what this fails with."""
        try:
            return data[os.write(self._fd, data) :]
        except OSError:
            return data

    def close(self) -> None:
        """End the stream. Idempotent; ends a `write` that waits."""
        if self._fd >= 0:
            if self._ready is not None:
                self._loop.remove_writer(self._fd)
                _wake(self._ready)
            os.close(self._fd)
            self._fd = -1

    async def _writable(self) -> None:
        """Return when there is room, no reader left, or after `close`."""
        self._ready = self._loop.create_future()
        self._loop.add_writer(self._fd, _wake, self._ready)
        try:
            await self._ready
        finally:
            self._ready = None
            if self._fd >= 0:
                self._loop.remove_writer(self._fd)


def _wake(ready: asyncio.Future[None]) -> None:
    if not ready.done():
        ready.set_result(None)
