"""The files that every container of a pod sees: hostname, hosts, resolv.conf and /dev/shm."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

from generated.plans import NewPodPlan
from runtime import regular_files
from runtime.linux import kernel
from runtime.transforms import facts
from runtime.transforms.id_maps import IdMaps

SHM_SIZE: Final = 64 << 20
"""Bytes of a pod's own /dev/shm."""

_HOST_HOSTS: Final = Path("/etc/hosts")
_HOST_RESOLV_CONF: Final = Path("/etc/resolv.conf")
_LARGEST_OF_HOST: Final = 16 << 20
"""Maximum bytes; a hosts file that blocks advertisers has some millions."""
_DIRECTORY_MODE: Final = 0o755
_FILE_MODE: Final = 0o644
_ROOT: Final = (0, 0)


def make(files: facts.SandboxFiles, plan: NewPodPlan, maps: IdMaps | None = None) -> None:
    """Create the pod's directories and everything in them; raises OSError.

    In a pod with a user namespace, the files and the tmpfs belong to the pod's root.

    The tmpfs is mounted unless the pod uses the node's /dev/shm. Takes well under a millisecond on
    an idle disk; callers run it in a thread because disks can be busy.
    """
    for directory in (files.root_dir, files.state_dir):
        Path(directory).mkdir(mode=_DIRECTORY_MODE, parents=True, exist_ok=True)
    owner = maps.root if maps else None
    _write(files.hostname, plan.etc_hostname, owner)
    _write(files.hosts, _read(_HOST_HOSTS), owner)
    own = plan.resolv_conf
    _write(files.resolv_conf, _read(_HOST_RESOLV_CONF) if own is None else own, owner)
    shm = Path(files.shm)
    if shm.is_relative_to(files.state_dir):
        shm.mkdir(mode=0o700)
        kernel.mount_tmpfs(str(shm), SHM_SIZE, owner or _ROOT)


def _read(path: Path) -> str:
    """The host's file; empty if the host has none."""
    try:
        content = regular_files.read(path, largest=_LARGEST_OF_HOST)
    except FileNotFoundError:
        return ""
    return content.decode(errors="surrogateescape")


def _write(path: str, content: str, owner: tuple[int, int] | None) -> None:
    target = Path(path)
    target.write_text(content, encoding="utf-8", errors="surrogateescape")
    target.chmod(_FILE_MODE)
    if owner is not None:
        os.chown(target, *owner)
