"""The processes of shims and OCI runtimes, found by the IDs on their command lines.

If the connection is lost while a task is being created, containerd forgets the task, but the shim
continues with it. Such a shim can be found in the process table only.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import re
import signal
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import structlog

from runtime.containerd.client import Containerd
from runtime.steps import threads

log = structlog.get_logger(__name__)

_PROC: Final = Path("/proc")
_ID: Final = re.compile(r"[0-9a-f]{64}")

_SHIM_NAME: Final = "containerd-shim"

_SOCKETS: Final = Path("/run/containerd/s")
"""The directory of shim sockets; it does not depend on containerd's state directory."""

_END_LIMIT: Final = 5.0
"""Seconds for a killed process to disappear."""
_PAUSE: Final = 0.02
"""Seconds between scans of the process table."""


@dataclass(frozen=True, slots=True)
class Process:
    """A process with a pod or container ID in its arguments."""

    pid: int
    arguments: tuple[str, ...]

    @property
    def is_shim(self) -> bool:
        """Whether it is a shim; its other IDs are those of pods."""
        return os.path.basename(self.arguments[0]).startswith(_SHIM_NAME)

    def option(self, name: str) -> str:
        """The value of a shim's option (``-id``, ``-namespace``, ``-address``); "" if absent."""
        values = (v for k, v in zip(self.arguments, self.arguments[1:], strict=False) if k == name)
        return next(values, "")


def running() -> list[Process]:
    """All processes with the ID of a pod or container in their arguments. Takes some 10 ms."""
    pids = [int(entry.name) for entry in _PROC.iterdir() if entry.name.isdecimal()]
    found = [process for pid in pids if (process := _read(pid)) is not None]
    return [process for process in found if any(map(_ID.fullmatch, process.arguments))]


def of_daemon(processes: Iterable[Process], containerd: Containerd) -> list[Process]:
    """The shims that this containerd started in this namespace."""
    socket = os.path.realpath(containerd.address.removeprefix("unix://"))
    return [
        process
        for process in processes
        if process.is_shim
        and process.option("-namespace") == containerd.namespace
        and os.path.realpath(process.option("-address")) == socket
    ]


def may_run(containerd: Containerd, sandbox_id: str) -> bool:
    """Whether the socket of a pod's shim exists: a very cheap check."""
    address = containerd.address.removeprefix("unix://")
    return _socket(address, containerd.namespace, sandbox_id).exists()


def _socket(address: str, namespace: str, shim_id: str) -> Path:
    """The socket of the shim with this ID, started by the containerd at this address."""
    name = hashlib.sha256(os.path.join(address, namespace, shim_id).encode())
    return _SOCKETS / name.hexdigest()


async def end(containerd: Containerd, sandbox_id: str) -> None:
    """Kill the shim of a pod without tasks in containerd, if it is still running.

    If it is not, remove the socket that it left: a shim that was killed could not do so.
    """
    processes = of_daemon(await threads.CGROUPS.run(running), containerd)
    shims = [process for process in processes if process.option("-id") == sandbox_id]
    if shims:
        log.warning("killing a shim without tasks", sandbox=sandbox_id, pid=shims[0].pid)
        await kill_shims(shims)
    else:
        address = containerd.address.removeprefix("unix://")
        _socket(address, containerd.namespace, sandbox_id).unlink(missing_ok=True)


async def kill_shims(shims: Collection[Process]) -> None:
    """Kill shims, and remove the sockets they leave."""
    await kill(shims)
    for shim in shims:
        options = (shim.option(name) for name in ("-address", "-namespace", "-id"))
        _socket(*options).unlink(missing_ok=True)


async def creation_ended(container_id: str, limit: float) -> None:
    """Return when no OCI runtime creates the container any more; after ``limit`` s it is killed.

    A shim whose task containerd gave up still waits for the ``create`` that it started.
    """
    deadline = asyncio.get_running_loop().time() + limit
    while busy := await threads.CGROUPS.run(_creating, container_id):
        if asyncio.get_running_loop().time() > deadline:
            log.warning("killing an OCI runtime that does not exit", container=container_id)
            await kill(busy)
            return
        await asyncio.sleep(_PAUSE)


async def being_created() -> frozenset[str]:
    """The containers that an OCI runtime creates now, in one scan for all of them."""
    creations = await threads.CGROUPS.run(_creations)
    return frozenset(process.arguments[-1] for process in creations)


def _creating(container_id: str) -> list[Process]:
    return [process for process in _creations() if process.arguments[-1] == container_id]


def _creations() -> list[Process]:
    return [process for process in running() if "create" in process.arguments]


async def kill(processes: Collection[Process]) -> None:
    """Send SIGKILL to these processes, unless the PID was reused, and wait until they are gone."""
    held = [pidfd for process in processes if (pidfd := _held(process)) is not None]
    try:
        for pidfd in held:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(pidfd, signal.SIGKILL)
        async with asyncio.timeout(_END_LIMIT):
            await asyncio.gather(*map(_gone, held))
    finally:
        for pidfd in held:
            os.close(pidfd)


def _held(process: Process) -> int | None:
    """A pidfd of the process; None if it has exited, even if its PID was reused."""
    try:
        pidfd = os.pidfd_open(process.pid)
    except ProcessLookupError:
        return None
    if _read(process.pid) == process:
        return pidfd
    os.close(pidfd)
    return None


def _read(pid: int) -> Process | None:
    try:
        line = (_PROC / str(pid) / "cmdline").read_bytes()
    except OSError:  # it exited meanwhile
        return None
    return Process(pid, tuple(line.rstrip(b"\0").decode(errors="surrogateescape").split("\0")))


async def _gone(pidfd: int) -> None:
    loop = asyncio.get_running_loop()
    ended = asyncio.Event()
    loop.add_reader(pidfd, ended.set)
    try:
        await ended.wait()
    finally:
        loop.remove_reader(pidfd)
