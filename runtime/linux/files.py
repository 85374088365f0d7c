"""Atomic file writes: after a crash at any time, a file has either the old or the new content."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Iterator
from pathlib import Path


def write_whole(path: Path, data: bytes, *, mode: int = 0o600, durable: bool = True) -> None:
    """Create or replace the file at ``path`` atomically, with exactly this mode.

    With ``durable`` the content is synced before the rename, so that a power failure leaves the old
    or the new file; `sync_directory` also makes the rename durable. Without it, only a crash of
    this process is safe. Raises OSError, e.g. if the disk is full; the old file is then unchanged.
    A file can have only one writer at a time.
    """
    with replacing(path, mode=mode, durable=durable) as descriptor:
        _write_all(descriptor, data)


@contextlib.contextmanager
def replacing(path: Path, *, mode: int = 0o600, durable: bool = True) -> Iterator[int]:
    """Like `write_whole`, for content that the block writes to the descriptor it is given.

    If the block fails, the old file is unchanged.
    """
    unfinished = path.with_name(f".{path.name}.new")
    descriptor = _created(unfinished, mode)
    try:
        try:
            os.fchmod(descriptor, mode)
            yield descriptor
            if durable:
                os.fdatasync(descriptor)
        finally:
            os.close(descriptor)
        os.rename(unfinished, path)
    except BaseException:
        unfinished.unlink(missing_ok=True)
        raise


def _created(path: Path, mode: int) -> int:
    """A new file, never one that others may have open or a link to another place."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        return os.open(path, flags, mode)
    except FileExistsError:  # an earlier writer was killed
        path.unlink()
        return os.open(path, flags, mode)


def _write_all(descriptor: int, data: bytes) -> None:
    """Write all of it; a single write can be partial, e.g. if the disk is almost full."""
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(descriptor, rest) :]


def remove(path: Path) -> None:
    """Delete a file, or an empty directory that was put in its place; nothing there is success.

    A mount whose source is missing makes such a directory in some container engines. Raises
    OSError for one with entries, which are not ours.
    """
    try:
        path.unlink(missing_ok=True)
    except IsADirectoryError:
        path.rmdir()


def open_private(path: Path, flags: int = 0) -> int:
    """Open a file of the server for reading and writing; create it if it is missing.

    Only this user can access it from then on, whatever an earlier version left. Raises OSError. A
    symbolic link or a device is refused before anything is changed: the mode of what it stands for
    would be changed, such as that of the node's /dev/zero.
    """
    flags |= os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    try:
        descriptor = os.open(path, flags, 0o600)
    except OSError as error:
        if error.errno in (errno.EISDIR, errno.ELOOP):
            raise _not_regular(path) from error
        raise
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise _not_regular(path)
        os.fchmod(descriptor, 0o600)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def _not_regular(path: Path) -> OSError:
    return OSError(errno.EINVAL, "it is not a regular file; delete it", str(path))


def sync_directory(path: Path) -> None:
    """Make renames in a directory durable; does nothing if it was deleted meanwhile."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except FileNotFoundError:
        return
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
