"""Send a signal to a container's first process without starting an OCI runtime to do so.

``Tasks.Kill`` has the shim run ``runc kill``, some 8 ms of a program's start and end to make
one system call. The number of the process is known, so the call can be made here, once it is
sure whose process the number is.
"""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Final

_FREEZER: Final = Path("/sys/fs/cgroup/freezer")


def send(pid: int, container_id: str, number: int) -> bool:
    """Signal the process ``pid`` if it is in the container's cgroup.

    False when it is not, has ended, or cannot be told: then containerd is the one to ask. False
    also for a SIGKILL to a frozen cgroup v1: the process would only die once it is thawed, which
    ``runc kill`` does (cgroup v2 kills frozen processes by itself).

    The process is held by a descriptor before its cgroup is read, so its number cannot pass to
    another process in between.
    """
    if pid <= 0:
        return False
    try:
        process = os.pidfd_open(pid)
    except OSError:
        return False
    try:
        with open(f"/proc/{pid}/cgroup", encoding="utf-8", errors="surrogateescape") as file:
            cgroups = file.read()
        # both cgroup drivers name a container's cgroup after it
        if container_id not in cgroups or (number == signal.SIGKILL and _frozen(cgroups)):
            return False
        signal.pidfd_send_signal(process, number)
    except OSError:
        return False
    finally:
        os.close(process)
    return True


def _frozen(cgroups: str) -> bool:
    """Whether the freezer of cgroup v1 holds the process of this /proc/<pid>/cgroup."""
    for line in cgroups.splitlines():
        _, controllers, path = line.split(":", 2)
        if "freezer" in controllers.split(","):
            try:
                state = Path(_FREEZER, path.lstrip("/"), "freezer.state").read_text()
            except OSError:
                return False
            return not state.startswith("THAWED")
    return False
