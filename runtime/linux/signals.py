"""Send a signal to a container's first process without starting an OCI runtime to do so.

``Tasks.Kill`` makes the shim run ``runc kill``, which takes some 8 ms for one system call. The pid
is known, so the call can be made here, after verifying that the pid still belongs to the container.
"""

from __future__ import annotations

import contextlib
import os
import signal
from pathlib import Path
from typing import Final

_FREEZER: Final = Path("/sys/fs/cgroup/freezer")


def send(pid: int, container_id: str, number: int) -> bool:
    """Signal the process ``pid`` if it is in the container's cgroup.

    Returns False if it is not, has exited, or this cannot be determined; then use containerd.
    SIGKILL also thaws a cgroup v1 that is frozen, because the process dies only then and newer
    versions of runc leave it frozen (cgroup v2 kills frozen processes).

    A pidfd is opened before the cgroup is read, so the pid cannot be reused in between.
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
        # both cgroup drivers use the container id in the name of its cgroup
        if container_id not in cgroups:
            return False
        signal.pidfd_send_signal(process, number)
        if number == signal.SIGKILL:
            _thaw(cgroups)
    except OSError:
        return False
    finally:
        os.close(process)
    return True


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
