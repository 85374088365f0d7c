"""Programs that a killed server was running: CNI plugins, image verifiers and similar.

They get the server's environment, in which one variable says to which server they belong. A plugin
that hangs when its server is killed could otherwise run for ever, or give an address to a pod whose
creation the next server has undone. The next server therefore ends what it finds before it does
anything else.

The variable is inherited by everything that such a program starts. What left the session of the
server is a daemon that is meant to outlive its starter, such as a DHCP server, and is not ended.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import structlog

log = structlog.get_logger(__name__)

_VARIABLE: Final = "CRI_CONTAINERD_CHILD_OF"
_ROUNDS: Final = 3
"""Scans of the process table: a process can start another one while it is being found."""
_END_LIMIT: Final = 2.0
"""Seconds for killed processes to disappear."""


def mark(state_dir: Path) -> None:
    """Let every program that this process starts from now on belong to the server here."""
    os.environ[_VARIABLE] = f"{os.getsid(0)}:{state_dir}"


def unmarked() -> dict[str, str]:
    """The environment for a program that outlives the server on purpose."""
    return {name: value for name, value in os.environ.items() if name != _VARIABLE}


def end_left(state_dir: Path) -> None:
    """Kill the programs of an earlier server with this state directory, and wait for their end.

    One that does not disappear, because it is in a system call that hangs, is logged.
    """
    for _ in range(_ROUNDS):
        found = list(_left(state_dir))
        try:
            for pid, handle in found:
                log.warning("killing a program of an earlier server", pid=pid, name=_name(pid))
                with contextlib.suppress(ProcessLookupError):
                    signal.pidfd_send_signal(handle, signal.SIGKILL)
            remaining = _remaining(dict(found))
        finally:
            for _, handle in found:
                os.close(handle)
        if remaining:
            log.error("programs of an earlier server do not end", pids=remaining)
        if remaining or not found:
            return


def _left(state_dir: Path) -> Iterator[tuple[int, int]]:
    """PID and pidfd of each such program. Takes some 10 µs for each process of the node."""
    for name in os.listdir("/proc"):
        pid = int(name) if name.isdecimal() else 0
        if not pid or not _belongs(pid, state_dir):
            continue
        with contextlib.suppress(OSError):  # it has exited
            handle = os.pidfd_open(pid)
            if _belongs(pid, state_dir):  # the PID was not reused before it was opened
                yield pid, handle
            else:
                os.close(handle)


def _belongs(pid: int, state_dir: Path) -> bool:
    try:
        descriptor = os.open(f"/proc/{pid}/environ", os.O_RDONLY | os.O_CLOEXEC)
        try:
            environment = os.read(descriptor, 1 << 20)
        finally:
            os.close(descriptor)
        expected = os.fsencode(f"{_VARIABLE}={os.getsid(pid)}:{state_dir}")
    except OSError:  # it has exited, or it is a process of the kernel
        return False
    return expected in environment.split(b"\0")


def _name(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/comm").read_text(errors="replace").strip()
    except OSError:
        return ""


def _remaining(handles: dict[int, int]) -> list[int]:
    """The processes that have not ended in time; a pidfd is readable once its process has."""
    deadline = time.monotonic() + _END_LIMIT
    for pid, handle in list(handles.items()):
        if select.select([handle], [], [], max(0.0, deadline - time.monotonic()))[0]:
            del handles[pid]
    return sorted(handles)
