"""Both ends of pipes and FIFOs on the event loop, without a thread and without polling."""

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
"""Bytes asked for each FIFO: a quarter as many wake-ups as with the kernel's 64 KiB."""

_FIRST_PAUSE: Final = 0.0005
_LONGEST_PAUSE: Final = 0.05
"""Seconds between two tries to open a FIFO that nobody reads yet."""

_TURN: Final = 4
"""Reads or writes in a row that need no waiting, before others get their turn."""


class PipeReader:
    """The reading end of a FIFO."""

    def __init__(self, path: Path | str) -> None:
        """Open the end, and a writing end besides.

        Without a writer a read would report the end of an output that has not begun;
        `writer_is_there` lets go of ours.
        """
        self._loop = asyncio.get_running_loop()
        self._writer = -1
        self._fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            self._writer = os.open(path, os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError:
            self.close()
            raise
        self._in_a_row = 0
        with contextlib.suppress(OSError):  # more than this user may have
            fcntl.fcntl(self._fd, fcntl.F_SETPIPE_SZ, CAPACITY)

    def writer_is_there(self) -> None:
        """Somebody else has the FIFO open for writing."""
        if self._writer >= 0:
            os.close(self._writer)
            self._writer = -1

    async def read(self) -> bytes:
        """The next bytes; b"" once every writer has closed, or after `close`."""
        while self._fd >= 0:
            if self._in_a_row >= _TURN:
                self._in_a_row = 0
                await asyncio.sleep(0)
                continue
            try:
                data = os.read(self._fd, CAPACITY)
            except BlockingIOError:
                self._in_a_row = 0
                await _ready(self._loop.add_reader, self._loop.remove_reader, self._fd)
            else:
                self._in_a_row += 1
                return data
        return b""

    def close(self) -> None:
        """Stop reading. Repeatable; must not be called while `read` waits."""
        self.writer_is_there()
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


class PipeWriter:
    """The writing end of a FIFO."""

    def __init__(self, fd: int) -> None:
        self._loop = asyncio.get_running_loop()
        self._fd = fd
        with contextlib.suppress(OSError):
            fcntl.fcntl(fd, fcntl.F_SETPIPE_SZ, CAPACITY)

    @classmethod
    async def opened(cls, path: Path | str, limit: float = 0) -> Self:
        """Of a FIFO that somebody reads, or will within ``limit`` seconds; OSError (ENXIO) if not.

        A shim opens its end beside what it answers, within a millisecond. A reading end of ours
        must not stand in for it: what is written and closed before the shim comes would be lost.
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
        """Write all bytes; BrokenPipeError when nobody reads any more, or after `close`."""
        view = memoryview(data)
        while view:
            if self._fd < 0:
                raise BrokenPipeError("the pipe is closed")
            try:
                view = view[os.write(self._fd, view) :]
            except BlockingIOError:
                await _ready(self._loop.add_writer, self._loop.remove_writer, self._fd)

    def close(self) -> None:
        """End the stream. Repeatable; must not be called while `write` waits."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


async def _ready(add: Callable[..., None], remove: Callable[[int], bool], fd: int) -> None:
    """Return once the descriptor can be read or written, or has been hung up."""
    loop = asyncio.get_running_loop()
    ready: asyncio.Future[None] = loop.create_future()
    add(fd, _wake, ready)
    try:
        await ready
    finally:
        remove(fd)


def _wake(ready: asyncio.Future[None]) -> None:
    if not ready.done():
        ready.set_result(None)
