"""Send a signal to a process of a container without starting an OCI runtime to do so.

``Tasks.Kill`` makes the shim run ``runc kill``, which takes some 8 ms for one system call. The pid
is known, so the call can be made here, after verifying that the pid still belongs to the container.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

_FREEZER: Final = Path("/sys/fs/cgroup/freezer")

_STOP_LIMIT: Final = 2.0
"""Seconds for a process and its descendants to stop; one in a system call that hangs does not."""
_STOPPED: Final = "TtZX"
"""States of threads that are stopped, traced, or have exited; see proc(5)."""
_STOP_PAUSE: Final = 0.0002


def send(pid: int, container_id: str, number: int) -> bool:
    """Signal the process ``pid`` if it is in the container's cgroup.

    Returns False if it is not, has exited, or this cannot be determined; then use containerd.
    SIGKILL also thaws a cgroup v1 that is frozen, because the process dies only then and newer
    versions of runc leave it frozen (cgroup v2 kills frozen processes).

    A pidfd is opened before the cgroup is read, so the pid cannot be reused in between.
    """
    try:
        with _held(pid, container_id) as (process, cgroups):
            signal.pidfd_send_signal(process, number)
            if number == signal.SIGKILL:
                _thaw(cgroups)
    except OSError:
        return False
    return True


def kill_tree(pid: int, container_id: str) -> bool:
    """Kill the process ``pid``, if it is in the container's cgroup, and all that descend from it.

    Returns False, like `send`, if it is not; nothing is killed then. Every process is stopped
    before its children are looked up: then it neither starts others nor exits, which would hide its
    children. What has left its parents, as daemons do, is not among the descendants. Blocks for
    some 0.1 ms per process. Processes that fork faster than they can be stopped may escape.
    """
    handles: list[int] = []
    deadline = time.monotonic() + _STOP_LIMIT
    try:
        with _held(pid, container_id) as (process, _):
            handles.append(os.dup(process))
        pending = [(pid, handles[0])]
        while pending:
            parent, handle = pending.pop()
            _signal(handle, signal.SIGSTOP)
            _wait_until_stopped(parent, deadline)
            for child in _children(parent):
                if (held := _held_child(child, parent)) is not None:
                    handles.append(held)
                    pending.append((child, held))
    except OSError:  # out of descriptors, or not of the container: what was found is killed
        return bool(handles)
    finally:
        for handle in handles:
            _signal(handle, signal.SIGKILL)
            os.close(handle)
    return True


def _signal(process: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError):  # it has exited
        signal.pidfd_send_signal(process, number)


@contextlib.contextmanager
def _held(pid: int, container_id: str) -> Iterator[tuple[int, str]]:
    """A pidfd of a process in the container's cgroup, and its /proc/<pid>/cgroup.

    Raises OSError if there is no such process.
    """
    if pid <= 0:
        raise ProcessLookupError
    process = os.pidfd_open(pid)
    try:
        with open(f"/proc/{pid}/cgroup", encoding="utf-8", errors="surrogateescape") as file:
            cgroups = file.read()
        # both cgroup drivers use the container id in the name of its cgroup
        if container_id not in cgroups:
            raise ProcessLookupError
        yield process, cgroups
    finally:
        os.close(process)


def _wait_until_stopped(pid: int, deadline: float) -> None:
    """Return when all threads are stopped; a fork that has begun ends before its thread stops."""
    threads = Path("/proc", str(pid), "task")
    while not all(_state(stat) in _STOPPED for stat in threads.glob("*/stat")):
        if time.monotonic() > deadline:
            return
        time.sleep(_STOP_PAUSE)


def _state(stat: Path) -> str:
    """The state of a thread, as proc(5) has it; "X" if it has exited."""
    with contextlib.suppress(OSError):
        return _fields(stat)[0]
    return "X"


def _fields(stat: Path) -> list[str]:
    """The fields of a stat file that follow the name: state, parent, …; raises OSError."""
    return stat.read_text(errors="replace").rpartition(")")[2].split()


def _children(pid: int) -> list[int]:
    """The children of all threads of a stopped process; none if the kernel does not tell."""
    found: list[int] = []
    for path in Path("/proc", str(pid), "task").glob("*/children"):
        with contextlib.suppress(OSError):
            found += map(int, path.read_text().split())
    return found


def _held_child(pid: int, parent: int) -> int | None:
    """A pidfd of the child; None if it has been reaped, even if its PID is in use again."""
    try:
        process = os.pidfd_open(pid)
    except ProcessLookupError:
        return None
    with contextlib.suppress(OSError):
        if int(_fields(Path(f"/proc/{pid}/stat"))[1]) == parent:
            return process
    os.close(process)
    return None


def _thaw(cgroups: str) -> None:
    """Thaw the cgroup v1 freezer of the process with this /proc/<pid>/cgroup. Raises OSError."""
    for line in cgroups.splitlines():
        _, controllers, path = line.split(":", 2)
        if "freezer" in controllers.split(","):
            state = Path(_FREEZER, path.lstrip("/"), "freezer.state")
            # gone: the process was the cgroup's last and has ended
            with contextlib.suppress(FileNotFoundError):
                if not state.read_text().startswith("THAWED"):
                    state.write_text("THAWED")
