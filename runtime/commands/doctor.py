"""``cri-containerd doctor``: what this node lacks to run pods, and the remedy.

Each check returns findings. A finding with a remedy is a problem; the command fails if a problem
stops pods from running.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from grpc import aio

from runtime.cni import config as cni_config
from runtime.cni import plugin as cni_plugin
from runtime.config.tables import Config
from runtime.containerd.capabilities import BUILTIN_CRI_OFF
from runtime.containerd.client import Containerd, daemon_version
from runtime.containerd.runtime_options import SEARCH, is_runc
from runtime.lookups import criu, handlers, host
from runtime.lookups.cdi import CdiDirectories
from runtime.transforms.facts import Handler, Host

_NEEDED_CAPABILITIES: Final = ("CAP_SYS_ADMIN", "CAP_NET_ADMIN", "CAP_MKNOD", "CAP_CHOWN")
_OLDEST_KERNEL: Final = (4, 11)
"""The first kernel on which pods can have the sysctls for unprivileged ports and ping."""
_ANSWER_LIMIT: Final = 3.0
_COLUMN: Final = 23


@dataclass(frozen=True, slots=True)
class Finding:
    """The result of one check."""

    subject: str
    state: str
    """The state found, in a few words."""
    remedy: str = ""
    """What to do; "" if all is well."""
    stops_pods: bool = False

    @property
    def mark(self) -> str:
        if not self.remedy:
            return "ok"
        return "FAIL" if self.stops_pods else "warn"

    def lines(self) -> Iterator[str]:
        yield f"{self.mark:4}  {self.subject:{_COLUMN}} {self.state}"
        if self.remedy:
            yield f"{'':6}{'':{_COLUMN}} -> {self.remedy}"


async def report(config: Config, *, embed: bool) -> int:
    """Print every finding; returns 1 if one of them stops pods from running."""
    facts = host.probe(config)
    findings = [
        *_process(facts),
        *_kernel(facts),
        _selinux(facts, config),
        *_cdi(config),
        await _criu(config),
        *_cgroups(facts, config),
        *(_own_containerd() if embed else await _containerd(config, facts)),
        *_programs(config),
        _network(config),
        *_places(config),
    ]
    for finding in findings:
        print(*finding.lines(), sep="\n")
    failed = sum(finding.mark == "FAIL" for finding in findings)
    print(f"{failed} of {len(findings)} checks stop pods from running" if failed else "ready")
    return 1 if failed else 0


def _process(facts: Host) -> Iterator[Finding]:
    if os.geteuid():
        yield Finding("user", f"uid {os.geteuid()}", "run as root", stops_pods=True)
    else:
        yield Finding("user", "root")
    missing = [name for name in _NEEDED_CAPABILITIES if name not in facts.capabilities]
    if missing:
        yield Finding(
            "capabilities",
            f"without {', '.join(missing)}",
            "start the server outside a container, or in a privileged one",
            stops_pods=True,
        )
    else:
        yield Finding("capabilities", f"{len(facts.capabilities)} available")
    if facts.oom_score_adj_floor is None:
        yield Finding("oom_score_adj", "any value is possible")
    else:
        yield Finding(
            "oom_score_adj",
            f"cannot go below {facts.oom_score_adj_floor}",
            "pods run, but the kernel may kill a pause container early; to prevent that, "
            "grant the server and containerd CAP_SYS_RESOURCE",
        )


def _kernel(facts: Host) -> Iterator[Finding]:
    version = f"{facts.kernel[0]}.{facts.kernel[1]}"
    if facts.kernel < _OLDEST_KERNEL:
        yield Finding("kernel", version, "use Linux 4.11 or newer", stops_pods=True)
    else:
        yield Finding("kernel", f"{version} {facts.architecture}")
    kinds = ("net", "mnt", "pid", "ipc", "uts")
    missing = [kind for kind in kinds if not Path("/proc/self/ns", kind).exists()]
    if missing:
        yield Finding(
            "namespaces",
            f"without {', '.join(missing)}",
            "use a kernel that has them",
            stops_pods=True,
        )
    else:
        yield Finding("namespaces", ", ".join(kinds))
    if not facts.seccomp:
        yield Finding("seccomp", "absent", "use a kernel with CONFIG_SECCOMP_FILTER")
    else:
        yield Finding("seccomp", "present")
    yield Finding("AppArmor", "used" if facts.apparmor else "not used on this node")


def _selinux(facts: Host, config: Config) -> Finding:
    if facts.selinux is not None:
        return Finding("SELinux", "used")
    if config.enable_selinux:
        return Finding(
            "SELinux",
            "enabled in the config, but the kernel has none, or no policy",
            "set enable_selinux = false, or boot with SELinux",
        )
    return Finding("SELinux", "not used")


def _cdi(config: Config) -> Iterator[Finding]:
    if not config.enable_cdi:
        yield Finding("CDI", "disabled")
        return
    files = CdiDirectories(config.cdi_spec_dirs).files()
    usable = sum(file.spec is not None for file in files)
    yield Finding("CDI", f"specs that can be used: {usable}")
    for file in files:
        if file.problem:
            yield Finding("CDI", f"{file.path}: {file.problem}", "fix or remove the file")


async def _criu(config: Config) -> Finding:
    if not config.enable_criu:
        return Finding("CRIU", "disabled")
    found = await criu.version()
    if found is None:
        return Finding("CRIU", "not installed", "only checkpoints of containers need it")
    text = ".".join(map(str, found))
    if found < criu.OLDEST:
        return Finding("CRIU", text, "checkpoints need 3.16 or newer")
    return Finding("CRIU", text)


def _cgroups(facts: Host, config: Config) -> Iterator[Finding]:
    version = "v2" if facts.cgroup_unified else "v1"
    swap = "with" if facts.swap_controller else "without"
    systemd_runs = Path("/run/systemd/system").is_dir()
    driver = handlers.configured(config).default.systemd_cgroup
    state = f"{version}, {swap} swap limits, driver {'systemd' if driver else 'cgroupfs'}"
    if driver and not systemd_runs:
        yield Finding(
            "cgroups",
            state,
            "systemd is not init here: set SystemdCgroup = false in the options of the runtime",
            stops_pods=True,
        )
    elif systemd_runs and not driver:
        yield Finding(
            "cgroups",
            state,
            "systemd is init: set SystemdCgroup = true in the options of the runtime, so that "
            "only one of the two manages cgroups",
        )
    else:
        yield Finding("cgroups", state)
    if not facts.cgroup_unified:
        missing = [
            name
            for name in ("cpu", "memory", "pids", "devices")
            if not Path("/sys/fs/cgroup", name).exists()
        ]
    else:
        present = Path("/sys/fs/cgroup/cgroup.controllers").read_text().split()
        missing = [name for name in ("cpu", "memory", "pids") if name not in present]
    if missing:
        yield Finding(
            "controllers",
            f"without {', '.join(missing)}",
            "mount them, or boot without cgroup_disable",
            stops_pods=True,
        )


async def _containerd(config: Config, facts: Host) -> list[Finding]:
    address = config.containerd.address
    containerd = await Containerd.connect(address, config.containerd.namespace)
    try:
        try:
            async with asyncio.timeout(_ANSWER_LIMIT):
                await containerd.wait_ready()
        except (TimeoutError, aio.AioRpcError):
            return [
                Finding(
                    "containerd",
                    f"does not respond at {address}",
                    "start it (systemctl start containerd), set its socket with --containerd, "
                    "or use serve --embedded",
                    stops_pods=True,
                )
            ]
        findings = [Finding("containerd", f"{await daemon_version(containerd)} at {address}")]
        able = containerd.capabilities
        if able.builtin_cri:
            findings.append(
                Finding(
                    "built-in CRI",
                    "enabled; it would manage the same pods as this server",
                    BUILTIN_CRI_OFF,
                    stops_pods=True,
                )
            )
        elif able.builtin_cri_parts:
            findings.append(
                Finding(
                    "built-in CRI",
                    "disabled, but parts of it still watch images and measure snapshots",
                    BUILTIN_CRI_OFF,
                )
            )
        for name in sorted({h.snapshotter for h in handlers.configured(config).values()}):
            if name in able.snapshotters:
                findings.append(Finding("snapshotter", name))
            else:
                findings.append(
                    Finding(
                        "snapshotter",
                        f"{name} is not loaded",
                        f"set containerd.snapshotter to one of: {', '.join(able.snapshotters)}",
                        stops_pods=True,
                    )
                )
        known = handlers.configured(config)
        await known.learn_features(containerd, facts)
        for name, handler in known.items():
            if name:
                rro = "with" if handler.recursive_read_only else "without"
                findings.append(Finding("handler", f"{name}: {rro} recursive read-only mounts"))
                findings.append(Finding("user namespaces", _user_namespaces(name, handler)))
        return findings
    finally:
        await containerd.close()


def _user_namespaces(name: str, handler: Handler) -> str:
    if handler.user_namespaces_problem:
        return f"{name}: none, {handler.user_namespaces_problem}"
    return f"{name}: available{', with a copy of each image' if handler.owners_by_copy else ''}"


def _own_containerd() -> Iterator[Finding]:
    for name, package in (("containerd", "containerd"), ("containerd-shim-runc-v2", "containerd")):
        yield _program(name, package)


def _programs(config: Config) -> Iterator[Finding]:
    for binary in sorted(
        {
            str(h.options.get("BinaryName") or "runc")
            for h in handlers.configured(config).values()
            if is_runc(h.runtime_type)
        }
    ):
        yield _program(binary, "runc")
    if shutil.which("iptables", path=SEARCH) or shutil.which("nft", path=SEARCH):
        yield Finding("firewall", "iptables or nft found")
    else:
        yield Finding(
            "firewall",
            "neither iptables nor nft on PATH",
            "install iptables: CNI's bridge and portmap plugins need it for ipMasq and host ports",
        )


def _program(name: str, package: str) -> Finding:
    found = shutil.which(name, path=SEARCH)
    if found:
        return Finding(name, found)
    return Finding(name, "not found", f"apt-get install {package}", stops_pods=True)


def _network(config: Config) -> Finding:
    cni = config.cni
    without = "until then only host-network pods run"
    try:
        networks = cni_config.load(cni.conf_dir, cni.max_conf_num)
    except cni_config.CniConfigError as error:
        return Finding(
            "CNI", "no valid network configuration", f"{error}; {without}", stops_pods=True
        )
    kinds = {plugin.kind for network in networks for plugin in network.plugins}
    missing = sorted(kind for kind in kinds if cni_plugin.find(kind, cni.bin_dirs) is None)
    if missing:
        return Finding(
            "CNI",
            f"plugins {', '.join(missing)} are not in {', '.join(cni.bin_dirs)}",
            f"apt-get install containernetworking-plugins; {without}",
            stops_pods=True,
        )
    return Finding("CNI", f"{', '.join(n.name for n in networks)} from {cni.conf_dir}")


def _places(config: Config) -> Iterator[Finding]:
    yield _listener(config.socket)
    for name, address in (
        ("metrics", config.metrics.address),
        (
            "streaming",
            f"{config.streaming.stream_server_address}:{config.streaming.stream_server_port}",
        ),
    ):
        if address:
            yield _port(name, address)


def _listener(path: Path) -> Finding:
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(str(path))
        except OSError:
            return Finding("listen", f"{path} is free")
    return Finding("listen", f"a server responds at {path}", "nothing to do if it is this server")


def _port(name: str, address: str) -> Finding:
    node, _, port = address.rpartition(":")
    with socket.socket(socket.AF_INET6 if ":" in node else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((node.strip("[]"), int(port)))
        except OSError as error:
            return Finding(
                name,
                f"{address} is not available: {error.strerror}",
                f"choose another address in the config's [{name}]",
                stops_pods=True,
            )
    return Finding(name, f"{address} is available")
