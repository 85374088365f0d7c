"""Loop devices: a file as a block device, for snapshots that are file system images.

The kernel releases the device with its last user, the mount, so no cleanup is needed.
"""

from __future__ import annotations

import errno
import fcntl
import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

_CONTROL: Final = "/dev/loop-control"
_GET_FREE: Final = 0x4C82
_CONFIGURE: Final = 0x4C0A
_READ_ONLY: Final = 1
_AUTOCLEAR: Final = 4
_TRIES: Final = 100
"""Another program can take the free device first."""

# struct loop_config: fd, block size, struct loop_info64 (its flags at 52), reserved
_CONFIG: Final = struct.Struct("=II52xI176x64x")


@contextmanager
def attached(file: str, *, read_only: bool) -> Iterator[str]:
    """A loop device with the content of ``file``; it exists until its last user is gone.

    It must be mounted inside the ``with`` block. Raises OSError.
    """
    access = os.O_RDONLY if read_only else os.O_RDWR
    backing = os.open(file, access | os.O_CLOEXEC)
    try:
        path, device = _configured(backing, access, _AUTOCLEAR | (_READ_ONLY if read_only else 0))
    finally:
        os.close(backing)
    try:
        yield path
    finally:
        os.close(device)


def _configured(backing: int, access: int, flags: int) -> tuple[str, int]:
    control = os.open(_CONTROL, os.O_RDWR | os.O_CLOEXEC)
    try:
        for _ in range(_TRIES):
            path = f"/dev/loop{fcntl.ioctl(control, _GET_FREE)}"
            device = os.open(path, access | os.O_CLOEXEC)
            try:
                fcntl.ioctl(device, _CONFIGURE, _CONFIG.pack(backing, 0, flags))
            except OSError as error:
                os.close(device)
                if error.errno != errno.EBUSY:
                    raise
            else:
                return path, device
    finally:
        os.close(control)
    raise OSError(errno.EBUSY, "no free loop device", _CONTROL)
