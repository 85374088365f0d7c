"""Reads files that a configuration or a request names.

Such a path can name anything. Opening a FIFO blocks until something writes to it, reading a device
may never end, and opening one may even have an effect. Therefore only a regular file is opened, and
at most a given number of bytes is read.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, Final

LARGEST: Final = 1 << 20
"""Maximum bytes of a file, unless its reader expects more: configuration files have thousands."""

_MEBIBYTE: Final = 1 << 20


class UnusableFile(OSError):
    """The path names no regular file, or one that is too large; ``strerror`` says which."""


@contextlib.contextmanager
def opened(
    path: str | Path, *, largest: int | None = LARGEST, follow: bool = True
) -> Iterator[BinaryIO]:
    """A regular file of at most ``largest`` bytes (None: any size), open for reading.

    Without ``follow``, a symbolic link is refused. Raises UnusableFile for what is no such file,
    and every other OSError of an open.
    """
    name = os.fspath(path)
    # O_PATH looks at it without opening it, so the type is known before an open can block
    flags = os.O_PATH | os.O_CLOEXEC | (0 if follow else os.O_NOFOLLOW)
    found = os.open(name, flags)
    try:
        status = os.fstat(found)
        if not stat.S_ISREG(status.st_mode):
            raise UnusableFile(errno.EINVAL, "it is not a regular file", name)
        if largest is not None and status.st_size > largest:
            raise _too_large(name, largest)
        descriptor = os.open(f"/proc/self/fd/{found}", os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        error.filename = name
        raise
    finally:
        os.close(found)
    with open(descriptor, "rb") as file:
        yield file


def read(path: str | Path, *, largest: int = LARGEST, follow: bool = True) -> bytes:
    """The content of a regular file of at most ``largest`` bytes; raises as `opened`."""
    with opened(path, largest=largest, follow=follow) as file:
        content = file.read(largest + 1)
    if len(content) > largest:  # it grew, or its file system does not know its size
        raise _too_large(os.fspath(path), largest)
    return content


def _too_large(path: str, largest: int) -> UnusableFile:
    size = f"{largest // _MEBIBYTE} MiB" if largest >= _MEBIBYTE else f"{largest} bytes"
    return UnusableFile(errno.EFBIG, f"it is larger than {size}", path)
