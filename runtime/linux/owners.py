"""Change the owner of every file of a root file system."""

from __future__ import annotations

import os
import stat
import struct
from collections.abc import Callable, Iterator
from typing import Final, TypeAlias

from runtime.linux import kernel, netns

Owner: TypeAlias = tuple[int, int]
"""User and group."""

_CAPABILITIES: Final = "security.capability"
_CAPABILITY_DATA: Final = struct.Struct("<I16s")
_REVISION_3: Final = 0x300_0000
_EFFECTIVE: Final = 1
# linux/capability.h, struct vfs_cap_data and vfs_ns_cap_data: revision 3 adds the root's ID


async def change(
    mount: Callable[[], None], target: str, owner: Callable[[int, int], Owner]
) -> None:
    """Call ``mount``, which mounts a root file system on the directory ``target``, and change the
    owners of all its files.

    ``owner`` maps the present user and group to the new ones. Only the calling thread sees the
    mount, so nothing stays mounted if this process dies. Raises OSError.
    """
    await netns.in_own_thread(_change, mount, target, owner)


def _change(mount: Callable[[], None], target: str, owner: Callable[[int, int], Owner]) -> None:
    # this thread gets a mount namespace of its own, which still receives unmounts of the node
    kernel.unshare(kernel.CLONE_NEWNS)
    kernel.mount("none", "/", flags=kernel.MS_REC | kernel.MS_SLAVE)
    mount()
    for path in _tree(target):
        change_one(path, owner)
    kernel.umount2(target)


def _tree(directory: str) -> Iterator[str]:
    """The directory and everything below it; symbolic links are not followed."""
    pending = [directory]
    while pending:
        here = pending.pop()
        yield here
        with os.scandir(here) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    pending.append(entry.path)
                else:
                    yield entry.path


def change_one(path: str, owner: Callable[[int, int], Owner]) -> None:
    """Change the owner of one file, and restore what the kernel then drops: set-id bits, and
    capabilities, which become valid in the user namespace of the new owners. Raises OSError."""
    found = os.lstat(path)
    uid, gid = owner(found.st_uid, found.st_gid)
    capabilities = _capabilities(path) if stat.S_ISREG(found.st_mode) else b""
    os.chown(path, uid, gid, follow_symlinks=False)
    if not stat.S_ISLNK(found.st_mode) and found.st_mode & (stat.S_ISUID | stat.S_ISGID):
        os.chmod(path, stat.S_IMODE(found.st_mode))
    if capabilities:
        root, _ = owner(0, 0)
        os.setxattr(path, _CAPABILITIES, _of_root(capabilities, root))


def _capabilities(path: str) -> bytes:
    try:
        return os.getxattr(path, _CAPABILITIES, follow_symlinks=False)
    except OSError:  # none, or a file system without attributes
        return b""


def _of_root(capabilities: bytes, root: int) -> bytes:
    """The file capabilities, for the user namespace whose root is this user of the node."""
    head, sets = _CAPABILITY_DATA.unpack_from(capabilities)
    return _CAPABILITY_DATA.pack(_REVISION_3 | head & _EFFECTIVE, sets) + struct.pack("<I", root)
