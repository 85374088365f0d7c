"""Log files and FIFOs as the log keeper opens them.

Only regular files are accepted as log files. Otherwise a process that can write to the log
directory could block the keeper with a FIFO, or make it write to a device or, through a link, to
any file.

The FIFOs rely on two properties of Linux: a non-blocking read end opens without a writer, and epoll
reports a hang-up only after a writer has opened and closed it, so "no writer yet" is never mistaken
for the end.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import time

REOPEN_SECONDS = 1.0
"""Seconds between attempts to open a log file that could not be opened."""

FIFO_BYTES = 262144
"""Requested capacity of each FIFO: what a container can write while a dead keeper is replaced."""


class LogFile:
    """One container's log file; ``write`` records and counts errors instead of raising them.

    Its methods block if the file system hangs.
    """

    __slots__ = ("_fd", "_retry_at", "_torn", "device", "lost", "path", "problem")

    def __init__(self, path: str) -> None:
        self.path = path
        self.problem = ""
        self.lost = 0
        self.device = 0
        """The device number of the file system; 0 until the file was opened."""
        self._fd = -1
        self._retry_at = 0.0
        self._torn = False

    def open(self) -> None:
        """Open the file, created with mode 0640 in directories 0755 if absent; raises OSError."""
        directory = os.path.dirname(self.path)
        if directory:
            os.makedirs(directory, 0o755, exist_ok=True)
        fd, found = open_regular(self.path)
        self.close()
        self._fd = fd
        self.device = found.st_dev
        self._torn = found.st_size > 0 and not ends_a_line(self.path, found.st_size)
        self.problem = ""

    def try_open(self) -> None:
        """Open the file, or record the error and when to retry."""
        try:
            self.open()
        except OSError as error:
            self.problem = f"cannot open {self.path}: {error.strerror}"
            self._retry_at = time.monotonic() + REOPEN_SECONDS

    def write(self, records: bytes) -> None:
        """Append records; what does not fit is counted as lost."""
        if self._fd < 0:
            if time.monotonic() >= self._retry_at:
                self.try_open()
            if self._fd < 0:
                self.lost += len(records)
                return
        if self._torn:  # terminate a record that a full disk or a kill has truncated
            records = b"\n" + records
        view = memoryview(records)
        try:
            while view:
                view = view[os.write(self._fd, view) :]
            self._torn = False
            self.problem = ""
        except OSError as error:
            self.problem = f"cannot write {self.path}: {error.strerror}"
            self.lost += len(view)
            self._torn = self._torn or len(view) < len(records)

    def close(self) -> None:
        """Close the file. Idempotent."""
        if self._fd >= 0:
            fd, self._fd = self._fd, -1
            os.close(fd)


def open_regular(path: str) -> tuple[int, os.stat_result]:
    """Open a regular file for appending, created 0640 if absent; raises OSError for other types.

    Non-blocking, because a FIFO would block until it has a reader.
    """
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOFOLLOW
    try:
        fd = os.open(path, flags, 0o640)
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.ENXIO, errno.EISDIR):
            raise OSError(error.errno, "it is not a regular file", path) from None
        raise
    found = os.fstat(fd)
    if not stat.S_ISREG(found.st_mode):
        os.close(fd)
        raise OSError(errno.EINVAL, "it is not a regular file", path)
    return fd, found


def ends_a_line(path: str, size: int) -> bool:
    """Return whether a file ends with a line end, or has no such byte; raises OSError."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOFOLLOW)
    try:
        return os.pread(fd, 1, size - 1) in (b"\n", b"")
    finally:
        os.close(fd)


def make_fifo(path: str) -> None:
    """Create a FIFO with mode 0700 (as containerd's clients do) if it does not exist."""
    os.makedirs(os.path.dirname(path), 0o700, exist_ok=True)
    try:
        os.mkfifo(path, 0o700)
    except FileExistsError:
        if not stat.S_ISFIFO(os.stat(path).st_mode):
            raise OSError(errno.EEXIST, "it exists and is not a FIFO", path) from None


def open_fifo(path: str) -> int:
    """Open the read end, creating the FIFO if absent; a writer can then open it."""
    make_fifo(path)
    fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        fcntl.fcntl(fd, fcntl.F_SETPIPE_SZ, FIFO_BYTES)
    except OSError:  # above the user's pipe limit; the default of 64 KiB works too
        return fd
    return fd


def touch_fifo(fd: int) -> None:
    """Open and close a write end, so that a FIFO without other writers reports its end.

    Otherwise a FIFO that was reopened after its last writer had closed it would never report it. A
    FIFO that still has a writer is not affected.
    """
    os.close(os.open(f"/proc/self/fd/{fd}", os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC))
