"""Properties of the node, read once at the start (``runtime.transforms.facts.Host``)."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from runtime.config.tables import Config, ConfigError
from runtime.linux import mountinfo
from runtime.linux.cgroups import Cgroups
from runtime.lookups import selinux
from runtime.transforms.facts import Host

_CGROUPS: Final = Path("/sys/fs/cgroup")

_ARCHITECTURES: Final = {
    "x86_64": "amd64",
    "i386": "386",
    "i686": "386",
    "aarch64": "arm64",
    "armv6l": "arm",
    "armv7l": "arm",
    "armv8l": "arm",
    "loongarch64": "loong64",
}
"""From uname's machine to Go's name, where they differ."""

# The kernel's order, include/uapi/linux/capability.h.
_CAPABILITIES: Final = [
    "CHOWN",
    "DAC_OVERRIDE",
    "DAC_READ_SEARCH",
    "FOWNER",
    "FSETID",
    "KILL",
    "SETGID",
    "SETUID",
    "SETPCAP",
    "LINUX_IMMUTABLE",
    "NET_BIND_SERVICE",
    "NET_BROADCAST",
    "NET_ADMIN",
    "NET_RAW",
    "IPC_LOCK",
    "IPC_OWNER",
    "SYS_MODULE",
    "SYS_RAWIO",
    "SYS_CHROOT",
    "SYS_PTRACE",
    "SYS_PACCT",
    "SYS_ADMIN",
    "SYS_BOOT",
    "SYS_NICE",
    "SYS_RESOURCE",
    "SYS_TIME",
    "SYS_TTY_CONFIG",
    "MKNOD",
    "LEASE",
    "AUDIT_WRITE",
    "AUDIT_CONTROL",
    "SETFCAP",
    "MAC_OVERRIDE",
    "MAC_ADMIN",
    "SYSLOG",
    "WAKE_ALARM",
    "BLOCK_SUSPEND",
    "AUDIT_READ",
    "PERFMON",
    "BPF",
    "CHECKPOINT_RESTORE",
]


def probe(config: Config) -> Host:
    """The properties of this node, and the node-wide keys of the configuration.

    Raises ConfigError for a key that would be unsafe on this node.
    """
    status = _pairs(Path("/proc/self/status").read_text())
    uname = os.uname()
    mounts = mountinfo.read()
    unified = Cgroups.of(mounts).unified
    for name, runtime in config.containerd.runtimes.items():
        if runtime.cgroup_writable and unified is None:
            # without a cgroup namespace the container would see the node's cgroups
            raise ConfigError(
                f"containerd.runtimes.{name}.cgroup_writable: needs cgroup v2, and this node has"
                " v1: containers could change the cgroups of the node"
            )
    own = f"linux/{_ARCHITECTURES.get(uname.machine, uname.machine)}"
    for name, wanted in config.images.runtime_platforms.items():
        if wanted.platform and "/".join(wanted.platform.lower().split("/")[:2]) != own:
            raise ConfigError(
                f"images.runtime_platforms.{name}.platform: must be that of the node, {own}, "
                f'not "{wanted.platform}"; the images of other platforms cannot be pulled'
            )
    return Host(
        hostname=uname.nodename,
        kernel=kernel_version(uname.release),
        architecture=_ARCHITECTURES.get(uname.machine, uname.machine),
        capabilities=tuple(capability_names(int(status["CapEff"], 16))),
        cgroup_unified=unified is not None,
        cgroup_mount_options=_kept_options(unified, mounts),
        swap_controller=_swap_controller(unified is not None),
        hugetlb_controller=_hugetlb_controller(unified is not None),
        seccomp="Seccomp" in status,
        disable_proc_mount=config.disable_proc_mount,
        ignore_blockio_not_enabled_errors=config.containerd.ignore_blockio_not_enabled_errors,
        ignore_rdt_not_enabled_errors=config.containerd.ignore_rdt_not_enabled_errors,
        selinux=selinux.probe(mounts) if config.enable_selinux else None,
        apparmor=not config.disable_apparmor and _apparmor(),
        oom_score_adj_floor=_oom_score_adj_floor(config.restrict_oom_score_adj),
        unprivileged_ports=config.enable_unprivileged_ports,
        unprivileged_icmp=config.enable_unprivileged_icmp,
        in_user_namespace=in_user_namespace(Path("/proc/self/uid_map").read_text()),
        disable_hugetlb_controller=config.disable_hugetlb_controller,
        tolerate_missing_hugetlb_controller=config.tolerate_missing_hugetlb_controller,
        unset_seccomp_profile=config.unset_seccomp_profile,
        device_ownership_from_security_context=config.device_ownership_from_security_context,
    )


def kernel_version(release: str) -> tuple[int, int]:
    """Major and minor version in uname's release, e.g. ``6.1.0-18-amd64``; (0, 0) without one."""
    found = re.match(r"(\d+)\.(\d+)", release)
    return (int(found[1]), int(found[2])) if found else (0, 0)


def capability_names(mask: int) -> Iterator[str]:
    """``CAP_X`` for each bit of ``mask`` that this server knows, in the kernel's order."""
    return (f"CAP_{name}" for bit, name in enumerate(_CAPABILITIES) if mask >> bit & 1)


def _kept_options(unified: str | None, mounts: Sequence[mountinfo.Mount]) -> tuple[str, ...]:
    """Options of the cgroup v2 mount that a container's mount must repeat, because the kernel
    applies the options of the last mount to all of them."""
    mount = mountinfo.holding(unified, mounts) if unified else None
    options = mount.options if mount else ()
    return tuple(name for name in ("nsdelegate", "memory_recursiveprot") if name in options)


def in_user_namespace(uid_map: str) -> bool:
    """Whether ``uid_map``, the text of /proc/self/uid_map, is not that of the initial user
    namespace, which maps every id to itself (user_namespaces(7))."""
    return uid_map.split() != ["0", "0", "4294967295"]


def own_oom_score_adj() -> int:
    """This process's value, which children inherit."""
    return int(Path("/proc/self/oom_score_adj").read_text())


def _oom_score_adj_floor(restricted: bool) -> int | None:
    """The lowest value that children can have; None if there is no limit.

    A process with CAP_SYS_RESOURCE in the initial user namespace can lower the value. No file shows
    reliably which namespace this is, so the value of this process is lowered and restored.
    """
    own = own_oom_score_adj()
    if restricted:
        return own
    file = Path("/proc/self/oom_score_adj")
    try:
        file.write_text("-1000")
    except OSError:
        return own
    file.write_text(str(own))
    return None


def _swap_controller(unified: bool) -> bool:
    if not unified:
        return (_CGROUPS / "memory" / "memory.memsw.limit_in_bytes").exists()
    own = Path("/proc/self/cgroup").read_text().strip().rpartition("::")[2]
    if (_CGROUPS / own.lstrip("/") / "memory.swap.max").exists():
        return True
    # The root cgroup has no such file; any cgroup below it will do.
    return any(_CGROUPS.glob("*/memory.swap.max"))


def _hugetlb_controller(unified: bool) -> bool:
    if not unified:
        return (_CGROUPS / "hugetlb").is_dir()
    return "hugetlb" in (_CGROUPS / "cgroup.controllers").read_text().split()


def apparmor_parser() -> str | None:
    """The program that loads AppArmor profiles; None if it is not installed."""
    return shutil.which("apparmor_parser", path="/sbin:/usr/sbin")


def _apparmor() -> bool:
    """As in containerd: enabled, with a parser, and the node itself is not a container."""
    enabled = Path("/sys/module/apparmor/parameters/enabled")
    return (
        "container" not in os.environ
        and Path("/sys/kernel/security/apparmor").is_dir()
        and apparmor_parser() is not None
        and enabled.exists()
        and enabled.read_text().startswith("Y")
    )


def _pairs(status: str) -> dict[str, str]:
    """``Key: value`` lines of /proc/self/status."""
    lines = (line.partition(":") for line in status.splitlines())
    return {key: value.strip() for key, _, value in lines}
