"""Atomic file writes: after a crash at any time, a file has either the old or the new content."""

from __future__ import annotations

import contextlib
import os
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
