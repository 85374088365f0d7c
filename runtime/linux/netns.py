"""Network namespaces of pods: files in /var/run/netns that keep a namespace alive by a bind mount.

Directory and name are containerd's (``cni-<uuid>``), so that ``ip netns`` and other runtimes see
them.  A namespace is created in a new thread, which ends once the bind mount holds the namespace,
so no other thread of the server is ever in one.
"""

from __future__ import annotations

import asyncio
import errno
import fcntl
import os
import socket
import struct
import threading
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Final, TypeVar

from runtime.linux import files, kernel
from runtime.steps import threads
from runtime.steps.parallel import all_finished

DIRECTORY: Final = "/var/run/netns"

_SIOCGIFFLAGS: Final = 0x8913
_SIOCSIFFLAGS: Final = 0x8914
_IFF_UP: Final = 0x1
_INTERFACE_REQUEST: Final = struct.Struct("16sH14x")

Result = TypeVar("Result")


def new_path(directory: str = DIRECTORY) -> str:
    """A path for a new namespace, which the caller can record before the namespace is created."""
    return f"{directory}/cni-{uuid.uuid4()}"


async def create(path: str) -> str:
    """Create a network namespace at ``path``, with loopback up, and return the path (about 1 ms).

    Raises OSError and then leaves nothing behind. A cancellation is raised only after the namespace
    was created or has failed, so a caller that then removes ``path`` leaves nothing behind.
    """
    await all_finished(in_own_thread(_create, path))
    return path


async def remove(path: str) -> None:
    """Release the namespace and delete its file; it ends with its last process.  Idempotent."""
    if path:
        await threads.NETWORK_NAMESPACES.run(unpin, path)


def is_alive(path: str) -> bool:
    """Return whether ``path`` is still a namespace (after a reboot, only the file is left)."""
    try:
        return os.stat(path).st_dev == os.stat("/proc/self/ns/net").st_dev
    except OSError:
        return False


async def inside(path: str, work: Callable[[], Result]) -> Result:
    """Run ``work`` in the namespace at ``path``, in a new thread, and return its result."""

    def enter_and_work() -> Result:
        with open(path, "rb") as namespace:
            kernel.setns(namespace.fileno(), kernel.CLONE_NEWNET)
        return work()

    return await in_own_thread(enter_and_work)


async def in_own_thread(work: Callable[..., Result], *arguments: object) -> Result:
    """Run ``work`` in a new thread that ends afterwards, and leaves its namespaces.

    A thread of `runtime.steps.threads` would later run other work in the wrong namespace.
    """
    loop = asyncio.get_running_loop()
    answer: asyncio.Future[Result] = loop.create_future()

    def deliver(error: BaseException | None, result: Result | None) -> None:
        if answer.cancelled():
            return
        if error is not None:
            answer.set_exception(error)
        else:
            answer.set_result(result)  # type: ignore[arg-type]

    def run() -> None:
        try:
            result = work(*arguments)
        except BaseException as error:
            loop.call_soon_threadsafe(deliver, error, None)
        else:
            loop.call_soon_threadsafe(deliver, None, result)

    threading.Thread(target=run, name="netns", daemon=True).start()
    return await answer


def _create(path: str) -> None:
    kernel.unshare(kernel.CLONE_NEWNET)
    raise_loopback()
    pin("/proc/thread-self/ns/net", path)


def pin(namespace: str, path: str) -> None:
    """Keep a namespace, a file of /proc, alive by a bind mount on the new file ``path``.

    Raises OSError and then leaves nothing behind.
    """
    os.makedirs(os.path.dirname(path), 0o755, exist_ok=True)
    # The bind mount needs an existing file; created exclusively, so it can be deleted.
    os.close(os.open(path, os.O_RDONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o444))
    try:
        kernel.mount(namespace, path, flags=kernel.MS_BIND)
    except BaseException:
        os.unlink(path)
        raise


def raise_loopback() -> None:
    """Set ``lo`` up in the calling thread's network namespace; the kernel assigns 127.0.0.1.

    This replaces the loopback plugin, whose process would take longer than the rest of this file.
    """
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as any_socket:
        answer = fcntl.ioctl(any_socket, _SIOCGIFFLAGS, _INTERFACE_REQUEST.pack(b"lo", 0))
        name, flags = _INTERFACE_REQUEST.unpack(answer)
        fcntl.ioctl(any_socket, _SIOCSIFFLAGS, _INTERFACE_REQUEST.pack(name, flags | _IFF_UP))


def unpin(path: str) -> None:
    """Undo `pin`: the namespace ends with its last process.  Idempotent."""
    try:
        kernel.umount2(path, kernel.MNT_DETACH | kernel.UMOUNT_NOFOLLOW)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOENT):  # no mount there; no file there
            raise
    files.remove(Path(path))
