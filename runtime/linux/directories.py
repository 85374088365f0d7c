"""Directories of sandboxes and containers, in which other programs can have mounted something."""

from __future__ import annotations

import asyncio
import errno
import os
import shutil
from pathlib import Path
from typing import Final

import structlog

from runtime.linux import kernel, mountinfo
from runtime.steps import threads

log = structlog.get_logger(__name__)

_PRIVATE: Final = 0o700
_BUSY_ATTEMPTS: Final = 50
_BUSY_PAUSE: Final = 0.1
"""Seconds; the kernel releases a detached mount with a delay."""


def make_private(directory: Path) -> None:
    """Create a directory that only this user can enter, or restrict an existing one.

    Other users of the node can then never reach its content, such as the pods' world-writable
    /dev/shm. Raises OSError.
    """
    directory.mkdir(mode=_PRIVATE, parents=True, exist_ok=True)
    directory.chmod(_PRIVATE)


async def remove_tree(directory: str | Path) -> None:
    """Unmount whatever is mounted in the directory, deepest first, and delete it.

    Succeeds if it does not exist. Also succeeds if its file system is read-only, which must not
    block the removal of a pod; the next start deletes the directories of removed objects.

    Raises OSError. Nothing below a mount is ever deleted: if a mount cannot be detached, the
    directory is busy, which is retried for at most 5 s.
    """
    for _ in range(_BUSY_ATTEMPTS - 1):
        try:
            return await threads.STATE_FILES.run(_remove_tree, str(directory))
        except OSError as error:
            if error.errno not in (errno.EBUSY, errno.ENOTEMPTY):
                raise
        await asyncio.sleep(_BUSY_PAUSE)
    await threads.STATE_FILES.run(_remove_tree, str(directory))


async def unmount(target: str | Path) -> None:
    """Detach every mount at or below the path; succeeds if there is none."""
    await threads.STATE_FILES.run(_unmount, str(target))


def _unmount(target: str) -> None:
    for point in mountinfo.now_below(target):
        try:
            kernel.umount2(point, kernel.MNT_DETACH | kernel.UMOUNT_NOFOLLOW)
        except OSError as error:
            if error.errno not in (errno.EINVAL, errno.ENOENT):  # already unmounted by another call
                raise


def _remove_tree(directory: str) -> None:
    _unmount(directory)
    try:
        shutil.rmtree(directory)
    except FileNotFoundError:
        # either the directory does not exist, or another thread has just renamed an entry
        if os.path.lexists(directory):
            raise OSError(errno.EBUSY, os.strerror(errno.EBUSY), directory) from None
    except OSError as error:
        if error.errno != errno.EROFS:
            raise
        log.warning("directory not removed: its file system is read-only", path=directory)
