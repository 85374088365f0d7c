"""A file system of the tests' own (FUSE) that hangs when it is told to, as a dead mount does.

    with HungMount(directory) as mount:
        (directory / "file").write_bytes(b"…")    # answered
        mount.hang()                              # from here on nothing is answered
        mount.go_on()                             # everything that waits is

One directory of files, in memory; needs the right to mount.
"""

from __future__ import annotations

import contextlib
import errno
import os
import select
import stat
import struct
import threading
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Final, Self

import pytest

from runtime.linux import kernel

_IN: Final = struct.Struct("<IIQQIIII")
_OUT: Final = struct.Struct("<IiQ")
_ATTRIBUTES: Final = struct.Struct("<QQQQQQIIIIIIIIII")
_INIT: Final = struct.Struct("<IIIIHHIIHHI28x")
_ENTRY: Final = struct.Struct("<QQQQII")
_OPEN: Final = struct.Struct("<QII")
_WRITE: Final = struct.Struct("<QQIIQII")
_READ: Final = struct.Struct("<QQIIQII")
_PERIOD: Final = 0.05
_DIRECT_IO: Final = 1
_ROOT: Final = 1
_FORGET: Final = (2, 42)
_INTERRUPT: Final = 36


needs_fuse = pytest.mark.skipif(
    os.geteuid() != 0 or not os.path.exists("/dev/fuse"), reason="mounts a file system of its own"
)


class HungMount:
    """A mounted file system; a context manager."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._answers = threading.Event()
        self._answers.set()
        self._answering = threading.Lock()
        self._ended = False
        self._names: dict[bytes, int] = {}
        self._files: dict[int, bytearray] = {}
        self._device = -1
        self._thread = threading.Thread(target=self._serve, name="hung mount", daemon=True)

    def __enter__(self) -> Self:
        self._directory.mkdir(parents=True, exist_ok=True)
        self._device = os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC)
        data = f"fd={self._device},rootmode=40000,user_id=0,group_id=0,allow_other"
        kernel.mount("hung", str(self._directory), "fuse", data=data)
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        kernel.umount2(str(self._directory), kernel.MNT_DETACH)
        self._ended = True
        self._answers.set()
        self._thread.join()
        os.close(self._device)  # every waiting call fails

    def hang(self) -> None:
        """Stop answering requests."""
        with self._answering:
            self._answers.clear()

    def go_on(self) -> None:
        """Answer requests again, including those that are waiting."""
        self._answers.set()

    def content(self, name: str) -> bytes:
        """Return a file's content, without using the file system."""
        return bytes(self._files[self._names[name.encode()]])

    def _serve(self) -> None:
        """Answer requests. While the file system hangs, none is read, so that its callers can be
        killed."""
        asked = select.poll()
        asked.register(self._device, select.POLLIN)
        while not self._ended:
            self._answers.wait()
            if asked.poll(_PERIOD * 1000):
                with self._answering, contextlib.suppress(OSError):  # unmounted
                    if self._answers.is_set():
                        self._answer(os.read(self._device, 1 << 20))

    def _answer(self, request: bytes) -> None:
        _, code, unique, node, *_ = _IN.unpack_from(request)
        if code in _FORGET or code == _INTERRUPT:
            return
        error, answer = 0, b""
        operation = _OPERATIONS.get(code)
        if operation is None:
            error = errno.ENOSYS
        else:
            try:
                answer = operation(self, node, request[_IN.size :])
            except OSError as refusal:
                error = refusal.errno or errno.EIO
        head = _OUT.pack(_OUT.size + len(answer), -error, unique)
        with contextlib.suppress(FileNotFoundError):  # the caller was killed
            os.write(self._device, head + answer)

    def _attributes(self, node: int) -> bytes:
        if node == _ROOT:
            mode, size = stat.S_IFDIR | 0o755, 0
        else:
            mode, size = stat.S_IFREG | 0o640, len(self._files[node])
        return _ATTRIBUTES.pack(node, size, 0, 0, 0, 0, 0, 0, 0, mode, 1, 0, 0, 0, 4096, 0)

    def _entry(self, node: int) -> bytes:
        return _ENTRY.pack(node, 0, 0, 0, 0, 0) + self._attributes(node)

    def _init(self, node: int, asked: bytes) -> bytes:
        return _INIT.pack(7, 31, 0, 0, 0, 0, 1 << 17, 1, 0, 0, 0)

    def _lookup(self, node: int, asked: bytes) -> bytes:
        found = self._names.get(asked.rstrip(b"\0"))
        if found is None:
            raise FileNotFoundError(errno.ENOENT, "")
        return self._entry(found)

    def _getattr(self, node: int, asked: bytes) -> bytes:
        return struct.pack("<QII", 0, 0, 0) + self._attributes(node)

    def _create(self, node: int, asked: bytes) -> bytes:
        made = self._names.setdefault(asked[16:].rstrip(b"\0"), _ROOT + 1 + len(self._names))
        self._files.setdefault(made, bytearray())
        return self._entry(made) + self._open(made, asked)

    def _open(self, node: int, asked: bytes) -> bytes:
        return _OPEN.pack(node, _DIRECT_IO, 0)

    def _read(self, node: int, asked: bytes) -> bytes:
        _, offset, size, *_ = _READ.unpack_from(asked)
        return bytes(self._files[node][offset : offset + size])

    def _write(self, node: int, asked: bytes) -> bytes:
        _, offset, size, *_ = _WRITE.unpack_from(asked)
        self._files[node][offset : offset + size] = asked[_WRITE.size : _WRITE.size + size]
        return struct.pack("<II", size, 0)

    def _nothing(self, node: int, asked: bytes) -> bytes:
        return b""


_OPERATIONS: dict[int, Callable[[HungMount, int, bytes], bytes]] = {
    1: HungMount._lookup,
    3: HungMount._getattr,
    4: HungMount._getattr,  # nothing is changed, because no test needs it
    14: HungMount._open,
    15: HungMount._read,
    16: HungMount._write,
    18: HungMount._nothing,
    25: HungMount._nothing,
    26: HungMount._init,
    27: HungMount._open,
    29: HungMount._nothing,
    35: HungMount._create,
}
