"""Write files so that a reader, and a crash at any moment, finds the old content or the new."""

from __future__ import annotations

import os
from pathlib import Path


def write_whole(path: Path, data: bytes, *, mode: int = 0o600, durable: bool = True) -> None:
    """Replace the file at ``path``, or create it, all at once and with exactly this mode.

    ``durable``: the content is on the disk before it gets its name, so that a power cut leaves the
    old file or the new one; `sync_directory` makes the name itself durable. Without it only a crash
    of this process is survived. Raises OSError, e.g. when the disk is full, and then leaves the old
    file as it was. Only one writer may be at work on a file at a time.
    """
    unfinished = path.with_name(f".{path.name}.new")
    descriptor = os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, mode)
    try:
        try:
            os.fchmod(descriptor, mode)
            _write_all(descriptor, data)
            if durable:
                os.fdatasync(descriptor)
        finally:
            os.close(descriptor)
        os.rename(unfinished, path)
    except BaseException:
        unfinished.unlink(missing_ok=True)
        raise


def _write_all(descriptor: int, data: bytes) -> None:
    """The kernel may take less than it is given, e.g. just before a disk is full."""
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(descriptor, rest) :]


def sync_directory(path: Path) -> None:
    """Make the names in a directory durable; does nothing if it was deleted meanwhile."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except FileNotFoundError:
        return
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
