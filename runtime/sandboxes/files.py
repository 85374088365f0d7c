"""The files that every container of a pod sees: hostname, hosts, resolv.conf and /dev/shm."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from generated.plans import NewPodPlan
from runtime.linux import kernel
from runtime.transforms import facts

SHM_SIZE: Final = 64 << 20
"""Bytes of a pod's own /dev/shm."""

_HOST_HOSTS: Final = Path("/etc/hosts")
_HOST_RESOLV_CONF: Final = Path("/etc/resolv.conf")
_DIRECTORY_MODE: Final = 0o755
_FILE_MODE: Final = 0o644


def make(files: facts.SandboxFiles, plan: NewPodPlan) -> None:
    """Create the pod's directories and everything in them; raises OSError.

    The tmpfs is mounted unless the pod uses the node's /dev/shm. Takes well under a millisecond on
    an idle disk; callers run it in a thread because disks can be busy.
    """
    for directory in (files.root_dir, files.state_dir):
        Path(directory).mkdir(mode=_DIRECTORY_MODE, parents=True, exist_ok=True)
    _write(files.hostname, plan.etc_hostname)
    _write(files.hosts, _read(_HOST_HOSTS))
    own = plan.resolv_conf
    _write(files.resolv_conf, _read(_HOST_RESOLV_CONF) if own is None else own)
    shm = Path(files.shm)
    if shm.is_relative_to(files.state_dir):
        shm.mkdir(mode=0o1777)
        kernel.mount_tmpfs(str(shm), SHM_SIZE)


def _read(path: Path) -> str:
    """The host's file; empty if the host has none."""
    try:
        return path.read_text(encoding="utf-8", errors="surrogateescape")
    except FileNotFoundError:
        return ""


def _write(path: str, content: str) -> None:
    target = Path(path)
    target.write_text(content, encoding="utf-8", errors="surrogateescape")
    target.chmod(_FILE_MODE)
