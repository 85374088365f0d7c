"""The few system calls that Python 3.11 does not have, through ctypes.

A failed call raises OSError with its errno and a sentence that names the operation and the path.
The calls release the interpreter lock but block their thread, so call them in a worker thread if
the file system can be slow (a volume on NFS).  ``setns`` and ``unshare`` change only the calling
thread, so call them in a new thread that ends afterwards (see ``netns``).
"""

from __future__ import annotations

import ctypes
import os
from typing import Final

MS_RDONLY: Final = 0x1
MS_NOSUID: Final = 0x2
MS_NODEV: Final = 0x4
MS_NOEXEC: Final = 0x8
MS_REMOUNT: Final = 0x20
MS_NOATIME: Final = 0x400
MS_BIND: Final = 0x1000
MS_REC: Final = 0x4000
MS_SLAVE: Final = 0x8_0000

MNT_DETACH: Final = 0x2
UMOUNT_NOFOLLOW: Final = 0x8

CLONE_FS: Final = 0x200
CLONE_NEWNS: Final = 0x2_0000
CLONE_NEWNET: Final = 0x4000_0000

# The numbers of newer system calls are the same on every architecture of this server.
_SYS_OPEN_TREE: Final = 428
_SYS_MOVE_MOUNT: Final = 429
_SYS_MOUNT_SETATTR: Final = 442

_AT_FDCWD: Final = -100
_AT_EMPTY_PATH: Final = 0x1000
_OPEN_TREE_CLONE: Final = 0x1
_OPEN_TREE_CLOEXEC: Final = os.O_CLOEXEC
_MOVE_MOUNT_F_EMPTY_PATH: Final = 0x4
_MOUNT_ATTR_RDONLY: Final = 0x1
_MOUNT_ATTR_IDMAP: Final = 0x10_0000


class _MountAttributes(ctypes.Structure):
    """``struct mount_attr`` of linux/mount.h."""

    _fields_ = (
        ("attr_set", ctypes.c_uint64),
        ("attr_clr", ctypes.c_uint64),
        ("propagation", ctypes.c_uint64),
        ("userns_fd", ctypes.c_uint64),
    )


_libc = ctypes.CDLL(None, use_errno=True)
_libc.mount.argtypes = (
    ctypes.c_char_p,
    ctypes.c_char_p,
    ctypes.c_char_p,
    ctypes.c_ulong,
    ctypes.c_char_p,
)
_libc.umount2.argtypes = (ctypes.c_char_p, ctypes.c_int)
_libc.setns.argtypes = (ctypes.c_int, ctypes.c_int)
_libc.unshare.argtypes = (ctypes.c_int,)
_libc.syscall.restype = ctypes.c_long


def mount(source: str, target: str, fstype: str = "", flags: int = 0, data: str = "") -> None:
    """Mount; ``flags`` are MS_* bits, ``data`` the file system's options (less than one page)."""
    arguments = (os.fsencode(source), os.fsencode(target), fstype.encode(), flags, data.encode())
    if _libc.mount(*arguments) != 0:
        kind = f"{fstype} " if fstype else ""
        raise _failure(f"cannot mount {kind}{source} on {target}", target)


def mount_tmpfs(target: str, size: int, owner: tuple[int, int] = (0, 0)) -> None:
    """Mount an empty tmpfs of at most ``size`` bytes, as /dev/shm: no suid, device or program.

    ``owner`` is the user and group of its root directory.
    """
    flags = MS_NOSUID | MS_NODEV | MS_NOEXEC
    uid, gid = owner
    mount("shm", target, "tmpfs", flags, f"mode=1777,size={size},uid={uid},gid={gid}")


def umount2(target: str, flags: int = 0) -> None:
    """Unmount the topmost mount at ``target``; ``flags`` are MNT_* bits."""
    if _libc.umount2(os.fsencode(target), flags) != 0:
        raise _failure(f"cannot unmount {target}", target)


def setns(fd: int, kind: int) -> None:
    """Move the calling thread into the namespace of ``fd``; ``kind`` is CLONE_NEW*."""
    if _libc.setns(fd, kind) != 0:
        raise _failure("cannot enter the namespace")


def unshare(flags: int) -> None:
    """Move the calling thread into new namespaces of the types CLONE_NEW* in ``flags``."""
    if _libc.unshare(flags) != 0:
        raise _failure("cannot create a namespace")


def try_idmap(path: str, user_namespace: int) -> None:
    """Find out whether a mount of ``path`` can map IDs, without mounting anything.

    A detached copy of the mount gets the mapping of ``user_namespace``, a file descriptor, and is
    dropped. Raises OSError: EINVAL if the file system does not support it, ENOSYS before Linux
    5.12.
    """
    os.close(_idmapped(path, user_namespace, 0))


def mount_idmapped(source: str, target: str, user_namespace: int) -> None:
    """Mount the directory ``source`` on ``target``, read-only and with the IDs of
    ``user_namespace``, a file descriptor. Raises OSError as `try_idmap`."""
    tree = _idmapped(source, user_namespace, _MOUNT_ATTR_RDONLY)
    try:
        failed = _libc.syscall(
            ctypes.c_long(_SYS_MOVE_MOUNT),
            ctypes.c_int(tree),
            ctypes.c_char_p(b""),
            ctypes.c_int(_AT_FDCWD),
            ctypes.c_char_p(os.fsencode(target)),
            ctypes.c_uint(_MOVE_MOUNT_F_EMPTY_PATH),
        )
        if failed:
            raise _failure(f"cannot mount {source} on {target}", target)
    finally:
        os.close(tree)


def _idmapped(path: str, user_namespace: int, attributes: int) -> int:
    """A detached mount of ``path`` with these MOUNT_ATTR_* bits; the caller closes it."""
    tree = _libc.syscall(
        ctypes.c_long(_SYS_OPEN_TREE),
        ctypes.c_int(_AT_FDCWD),
        ctypes.c_char_p(os.fsencode(path)),
        ctypes.c_uint(_OPEN_TREE_CLONE | _OPEN_TREE_CLOEXEC),
    )
    if tree < 0:
        raise _failure(f"cannot copy the mount of {path}", path)
    wanted = _MountAttributes(attr_set=_MOUNT_ATTR_IDMAP | attributes, userns_fd=user_namespace)
    failed = _libc.syscall(
        ctypes.c_long(_SYS_MOUNT_SETATTR),
        ctypes.c_int(tree),
        ctypes.c_char_p(b""),
        ctypes.c_uint(_AT_EMPTY_PATH),
        ctypes.byref(wanted),
        ctypes.c_size_t(ctypes.sizeof(wanted)),
    )
    if failed:
        failure = _failure(f"cannot map the IDs of a mount of {path}", path)
        os.close(tree)
        raise failure
    return int(tree)


def _failure(doing: str, path: str | None = None) -> OSError:
    number = ctypes.get_errno()
    sentence = f"{doing}: {os.strerror(number)}"
    return OSError(number, sentence, path) if path else OSError(number, sentence)
