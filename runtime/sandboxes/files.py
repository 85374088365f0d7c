"""The files that every container of a pod sees: hostname, hosts, resolv.conf and /dev/shm."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from generated.cri import api_pb2
from runtime.linux import kernel
from runtime.transforms import facts

SHM_SIZE: Final = 64 << 20
"""Bytes of a pod's own /dev/shm."""

_HOST_HOSTS: Final = Path("/etc/hosts")
_HOST_RESOLV_CONF: Final = Path("/etc/resolv.conf")
_DIRECTORY_MODE: Final = 0o755
_FILE_MODE: Final = 0o644


def make(files: facts.SandboxFiles, config: api_pb2.PodSandboxConfig, host: facts.Host) -> None:
    """Create the pod's directories and everything in them; raises OSError.

    The tmpfs is mounted unless the pod uses the node's /dev/shm. Takes well under a millisecond on
    an idle disk; callers run it in a thread because disks can be busy.
    """
    for directory in (files.root_dir, files.state_dir):
        Path(directory).mkdir(mode=_DIRECTORY_MODE, parents=True, exist_ok=True)
    _write(files.hostname, hostname(config, host))
    _write(files.hosts, _read(_HOST_HOSTS))
    _write(files.resolv_conf, resolv_conf(config))
    shm = Path(files.shm)
    if shm.is_relative_to(files.state_dir):
        shm.mkdir(mode=0o1777)
        kernel.mount_tmpfs(str(shm), SHM_SIZE)


def hostname(config: api_pb2.PodSandboxConfig, host: facts.Host) -> str:
    """The content of the pod's /etc/hostname: its own name, or the node's for a host-network
    pod."""
    return f"{config.hostname or host.hostname}\n"


def resolv_conf(config: api_pb2.PodSandboxConfig) -> str:
    """The content of the pod's /etc/resolv.conf.

    Without a dns_config it is the node's; an empty dns_config gives an empty file.
    """
    if not config.HasField("dns_config"):
        return _read(_HOST_RESOLV_CONF)
    dns = config.dns_config
    lines = [
        *([f"search {' '.join(dns.searches)}"] if dns.searches else []),
        *(f"nameserver {server}" for server in dns.servers),
        *([f"options {' '.join(dns.options)}"] if dns.options else []),
    ]
    return "".join(f"{line}\n" for line in lines)


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
