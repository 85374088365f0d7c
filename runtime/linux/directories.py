"""Directories of sandboxes and containers, whose contents other programs may have mounted over."""

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
"""Seconds; a mount that is detached is let go of a little later."""


def make_private(directory: Path) -> None:
    """Make a directory that only this user can enter, or close an existing one to all others.

    What lies below, such as the pods' world-writable /dev/shm, is out of reach of the node's other
    users from the first moment. Raises OSError.
    """
    directory.mkdir(mode=_PRIVATE, parents=True, exist_ok=True)
    directory.chmod(_PRIVATE)


async def remove_tree(directory: str | Path) -> None:
    """Unmount whatever is mounted in the directory, deepest first, and delete it.

    Succeeds if it does not exist, and if its file system is read-only, which must not keep a pod:
    the directory is left to the next start, which deletes those of objects that are gone.

    Raises OSError. Nothing below a mount is ever deleted: a mount that cannot be detached makes the
    directory busy, which is waited out for 5 s at most.
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
    for point in mountinfo.below(target, mountinfo.read()):
        try:
            kernel.umount2(point, kernel.MNT_DETACH | kernel.UMOUNT_NOFOLLOW)
        except OSError as error:
            if error.errno not in (errno.EINVAL, errno.ENOENT):  # another call was faster
                raise


def _remove_tree(directory: str) -> None:
    _unmount(directory)
    try:
        shutil.rmtree(directory)
    except FileNotFoundError:
        # either all of it is gone, or one entry that another thread has just renamed
        if os.path.lexists(directory):
            raise OSError(errno.EBUSY, os.strerror(errno.EBUSY), directory) from None
    except OSError as error:
        if error.errno != errno.EROFS:
            raise
        log.warning("directory stays: its file system is read-only", path=directory)
