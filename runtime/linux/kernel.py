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

MNT_DETACH: Final = 0x2
UMOUNT_NOFOLLOW: Final = 0x8

CLONE_FS: Final = 0x200
CLONE_NEWNET: Final = 0x4000_0000

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


def mount(source: str, target: str, fstype: str = "", flags: int = 0, data: str = "") -> None:
    """Mount; ``flags`` are MS_* bits, ``data`` the file system's options (less than one page)."""
    arguments = (os.fsencode(source), os.fsencode(target), fstype.encode(), flags, data.encode())
    if _libc.mount(*arguments) != 0:
        kind = f"{fstype} " if fstype else ""
        raise _failure(f"cannot mount {kind}{source} on {target}", target)


def mount_tmpfs(target: str, size: int) -> None:
    """Mount an empty tmpfs of at most ``size`` bytes, as /dev/shm: no suid, device or program."""
    flags = MS_NOSUID | MS_NODEV | MS_NOEXEC
    mount("shm", target, "tmpfs", flags, f"mode=1777,size={size}")


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


def _failure(doing: str, path: str | None = None) -> OSError:
    number = ctypes.get_errno()
    sentence = f"{doing}: {os.strerror(number)}"
    return OSError(number, sentence, path) if path else OSError(number, sentence)
