"""One small Kubernetes node in a folder: containerd, a CRI server on it, CNI and a registry mirror.

``Node(kind="ours")`` runs ``cri-containerd serve --embedded``; ``Node(kind="builtin")`` runs the
same containerd package with its own CRI plugin, for comparison in the benchmark.
"""

from __future__ import annotations

import compileall
import contextlib
import dataclasses
import functools
import json
import os
import re
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, Self

from . import cgroups, newer_containerd
from .cri import Cri
from .leaks import claim
from .waiting import PATIENCE

_PROJECT = Path(__file__).parents[2]
SERVER = Path(sys.executable).parent / "cri-containerd"
KEEPER = "runtime.logs.keeper"  # in the command of every log keeper
CNI_BIN_DIRS = ["/opt/cni/bin", "/usr/lib/cni"]
_RUNC_SHIM = 'runtime_type = "io.containerd.runc.v2"\n'
_PASSED_ANNOTATIONS = (
    'pod_annotations = ["passed.example/*"]\ncontainer_annotations = ["passed.example/*"]\n'
)


@dataclasses.dataclass(frozen=True, slots=True)
class Containerd:
    """A containerd package: where its binaries are (None: on PATH)."""

    name: str
    bin_dir: Path | None = None

    @property
    def runc(self) -> str:
        own = self.bin_dir / "runc" if self.bin_dir else None
        return str(own if own and own.exists() else shutil.which("runc") or "runc")

    def environment(self) -> dict[str, str]:
        path = os.environ["PATH"]
        return {**os.environ, "PATH": f"{self.bin_dir}:{path}" if self.bin_dir else path}


SYSTEM = Containerd("system")


def containerds() -> list[Containerd]:
    """The containerds that tests of the server run on: the system's and the newest.

    CRI_TEST_CONTAINERDS (``name=dir:name=dir``, or empty) lists those used besides the system's.
    """
    listed = os.environ.get("CRI_TEST_CONTAINERDS")
    if listed is None:
        return _without_repeats([SYSTEM, *_unpacked(newer_containerd.RELEASES[-1])])
    pairs = (entry.partition("=") for entry in filter(None, listed.split(":")))
    return [SYSTEM, *(Containerd(name, Path(path).resolve()) for name, _, path in pairs)]


def all_containerds() -> list[Containerd]:
    """Those of ``containerds``, and the versions between the system's and the newest."""
    system, *newest = containerds()
    return _without_repeats([system, *_unpacked(*newer_containerd.RELEASES[:-1]), *newest])


def find_containerd(name: str) -> Containerd:
    """``system``, a release such as ``sid``, or the directory of a package's binaries.

    A release that is not in the cache is unpacked first. Raises ValueError, with the known names,
    for anything else.
    """
    if name in newer_containerd.RELEASES:
        newer_containerd.unpack()
    known = {containerd.name: containerd for containerd in all_containerds()}
    if name in known:
        return known[name]
    if (Path(name) / "containerd").exists():
        return Containerd(Path(name).resolve().name, Path(name).resolve())
    raise ValueError(
        f"no containerd named {name}; known: {', '.join(known)},"
        " or the path of a directory that holds containerd (and its runc)"
    )


def _unpacked(*releases: str) -> list[Containerd]:
    found = ((release, newer_containerd.unpacked(release)) for release in releases)
    return [Containerd(release, bin_dir) for release, bin_dir in found if bin_dir]


def _without_repeats(candidates: list[Containerd]) -> list[Containerd]:
    """Of those with the same version, the first."""
    by_version: dict[str, Containerd] = {}
    for containerd in candidates:
        by_version.setdefault(version_of(containerd), containerd)
    return list(by_version.values())


@functools.cache
def version_of(containerd: Containerd) -> str:
    """Such as ``2.1.9``; its name if it does not run."""
    try:
        done = subprocess.run(
            ["containerd", "--version"],
            env=containerd.environment(),
            capture_output=True,
            text=True,
            check=True,
        )
    except (OSError, subprocess.CalledProcessError):
        return containerd.name
    return re.split(r"[~+]", done.stdout.split()[2])[0]


_subnets: set[str] = set()


def _unused_subnet() -> str:
    """A subnet that no other node of this run has: their bridges are on one machine."""
    while True:
        subnet = f"10.{secrets.randbelow(50) + 150}.{secrets.randbelow(256)}.0/24"
        if subnet not in _subnets:
            _subnets.add(subnet)
            return subnet


def systemd_is_init() -> bool:
    return Path("/run/systemd/system").is_dir()


@functools.cache
def compile_server() -> None:
    """Write the bytecode of the server's modules, which an installed server has.

    Python itself does not write it where PYTHONDONTWRITEBYTECODE is set; every start would take
    0.4 s of CPU more.
    """
    for package in ("runtime", "generated"):
        compileall.compile_dir(_PROJECT / package, quiet=2)


class Node:
    """Starts on construction, stops with ``close``; all its files are below ``directory``."""

    def __init__(
        self,
        *,
        kind: Literal["ours", "builtin"] = "ours",
        containerd: Containerd = SYSTEM,
        registry_mirrors: dict[str, str] | None = None,
        hosts_toml: Path | None = None,
        pause_image: str | None = None,
        systemd_cgroup: bool | None = None,
        extra_config: str = "",
        extra_keys: str = "",
        log_level: str = "debug",
        cgroup_parent: str = "",
        server: Path = SERVER,
    ):
        self.kind = kind
        self.containerd = containerd
        self.systemd_cgroup = systemd_is_init() if systemd_cgroup is None else systemd_cgroup
        # a unix socket's path has at most 107 bytes, so no long pytest folder here
        self.directory = Path(tempfile.mkdtemp(prefix="cri-", dir="/tmp"))
        # the root of a pod with a user namespace is another user of the node, who needs access
        self.directory.chmod(0o711)
        self.logs = self.directory / "pods"
        self.bridge = f"crt{secrets.token_hex(4)}"
        self.network = f"net-{self.bridge}"
        self._cgroup_parent = cgroup_parent
        self.marks = claim(
            self.directory,
            bridge=self.bridge,
            network=self.network,
            cgroup_parent=cgroup_parent,
        )
        self.subnet = _unused_subnet()
        self.pause_image = pause_image
        self.extra_config = extra_config
        self.extra_keys = extra_keys
        self.log_level = log_level
        self.server = server
        for name in ("net.d", "certs.d", "pods"):
            (self.directory / name).mkdir()
        if hosts_toml:
            shutil.copytree(hosts_toml, self.directory / "certs.d", dirs_exist_ok=True)
        self._write_network()
        for host, url in (registry_mirrors or {}).items():
            self.mirror(host, url)
        self.socket = str(self.directory / "cri.sock")
        self.cri = Cri(self.socket)
        self.start()

    # Files

    def _write_network(self) -> None:
        conflist = {
            "cniVersion": "1.0.0",
            "name": self.network,
            "plugins": [
                {
                    "type": "bridge",
                    "bridge": self.bridge,
                    "isGateway": True,
                    "ipMasq": True,
                    "hairpinMode": True,
                    "ipam": {
                        "type": "host-local",
                        "ranges": [[{"subnet": self.subnet}]],
                        "routes": [{"dst": "0.0.0.0/0"}],
                    },
                },
                {"type": "portmap", "capabilities": {"portMappings": True}, "snat": True},
            ],
        }
        (self.directory / "net.d" / "10-test.conflist").write_text(json.dumps(conflist, indent=2))

    def mirror(self, host: str, url: str, extra: str = "") -> None:
        """Redirect pulls from ``host`` to the registry at ``url`` (a hosts.toml)."""
        folder = self.directory / "certs.d" / host
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "hosts.toml").write_text(
            f'server = "{url}"\n[host."{url}"]\n  capabilities = ["pull", "resolve"]\n{extra}'
        )

    def _own_config(self) -> str:
        directory = self.directory
        pause = f'pinned_images.sandbox = "{self.pause_image}"\n' if self.pause_image else ""
        options = (
            f'BinaryName = "{self.containerd.runc}", SystemdCgroup = {_toml(self.systemd_cgroup)}'
        )
        return (
            f'log_level = "{self.log_level}"\ncdi_spec_dirs = ["{directory}/cdi"]\n'
            f"{self.extra_keys}"
            "[containerd.runtimes.runc]\n"
            f'runtime_type = "io.containerd.runc.v2"\noptions = {{ {options} }}\n'
            f"{self._tables('containerd.runtimes')}"
            f'[cni]\nbin_dirs = {json.dumps([f"{directory}/plugins", *CNI_BIN_DIRS])}\n'
            f'conf_dir = "{directory}/net.d"\n'
            f'[images]\n{pause}registry.config_path = "{directory}/certs.d"\n'
            f"{self.extra_config}"
        )

    def _base_spec(self) -> Path:
        """The base_runtime_spec of the handler ``based``: containerd's own with changes."""
        base = self.directory / "base.json"
        command = [self._binary("ctr"), "oci", "spec"]
        spec = json.loads(subprocess.run(command, capture_output=True, check=True).stdout)
        limits = [{"type": "RLIMIT_NOFILE", "hard": 4321, "soft": 1234}]
        spec["process"] |= {"rlimits": limits, "env": ["BASE=1"], "noNewPrivileges": True}
        base.write_text(json.dumps(spec))
        return base

    def _handlers(self) -> dict[str, tuple[str, str]]:
        """Handlers besides runc: their keys as TOML, and the OCI runtime of their shim.

        One has a base spec and passes annotations on, one is that of untrusted pods, one names its
        shim by path, and one uses crun.
        """
        base = f'base_runtime_spec = "{self._base_spec()}"\n{_PASSED_ANNOTATIONS}'
        runc, crun = self.containerd.runc, shutil.which("crun")
        path = self.containerd.environment()["PATH"]
        shim = shutil.which("containerd-shim-runc-v2", path=path)
        return {
            "based": (f"{_RUNC_SHIM}{base}", runc),
            "by-path": (f'runtime_type = "{shim}"\n', ""),
            "untrusted": (_RUNC_SHIM, runc),
        } | ({"crun": (_RUNC_SHIM, crun)} if crun else {})

    def _tables(self, runtimes: str) -> str:
        """The TOML tables of ``_handlers`` below the table ``runtimes``."""
        systemd = f"SystemdCgroup = {_toml(self.systemd_cgroup)}"
        return "".join(
            f"[{runtimes}.{name}]\n{keys}"
            + (f'options = {{ BinaryName = "{binary}", {systemd} }}\n' if binary else "")
            for name, (keys, binary) in self._handlers().items()
        )

    def _builtin_config(self) -> str:
        directory = self.directory
        cri = 'plugins."io.containerd.grpc.v1.cri"'
        bin_dir = next(d for d in CNI_BIN_DIRS if Path(d, "bridge").exists())
        return (
            f'version = 2\nroot = "{directory}/root"\nstate = "{directory}/state"\n'
            f'[grpc]\naddress = "{self.socket}"\n'
            f'[plugins."io.containerd.internal.v1.opt"]\npath = "{directory}/opt"\n'
            f'[{cri}]\nrestrict_oom_score_adj = true\nsandbox_image = "{self.pause_image}"\n'
            f'stream_server_port = "0"\n'
            # on by default since 2.0, and in this server
            "enable_unprivileged_ports = true\nenable_unprivileged_icmp = true\n"
            f'enable_cdi = true\ncdi_spec_dirs = ["{directory}/cdi"]\n'
            f'[{cri}.cni]\nbin_dir = "{bin_dir}"\nconf_dir = "{directory}/net.d"\n'
            f'[{cri}.registry]\nconfig_path = "{directory}/certs.d"\n'
            f'[{cri}.containerd.runtimes.runc]\nruntime_type = "io.containerd.runc.v2"\n'
            f'[{cri}.containerd.runtimes.runc.options]\nBinaryName = "{self.containerd.runc}"\n'
            f"SystemdCgroup = {_toml(self.systemd_cgroup)}\n"
            f"{self._tables(f'{cri}.containerd.runtimes')}"
        )

    # Life cycle

    def start(self) -> float:
        """Start the server (again) and wait until it responds; returns the seconds that took."""
        config = self.directory / "config.toml"
        builtin = self.kind == "builtin"
        config.write_text(self._builtin_config() if builtin else self._own_config())
        command: Sequence[str | Path]
        if builtin:
            command = [self._binary("containerd"), "--config", config]
        else:
            command = [
                *(self.server, "serve", "--embedded", "--config", config),
                *("--listen", f"unix://{self.socket}"),
                *("--root", self.directory / "root", "--state", self.directory / "state"),
            ]
        compile_server()
        started = time.monotonic()
        with (self.directory / "server.log").open("ab") as log:
            self.process = subprocess.Popen(
                command,
                cwd=self.directory,  # the built-in plugin makes relative paths of requests below it
                env=self.containerd.environment(),
                stdout=log,
                stderr=log,
            )
        try:
            self.cri.wait_until_ready()
        except BaseException as error:
            self.stop()
            error.add_note(self._ends_of_logs())
            raise
        return time.monotonic() - started

    def _binary(self, name: str) -> str:
        return str(self.containerd.bin_dir / name) if self.containerd.bin_dir else name

    def stop(self, how: signal.Signals = signal.SIGTERM) -> int:
        """Stop the server only; pods keep running. Returns its exit status."""
        self.process.send_signal(how)
        return self.process.wait(PATIENCE)

    def ensure_running(self) -> None:
        """Start the server if a failed test has stopped it."""
        if self.process.poll() is not None:
            self.start()

    @property
    def containerd_socket(self) -> Path:
        """Where the node's containerd listens; the built-in plugin shares its socket."""
        if self.kind == "builtin":
            return Path(self.socket)
        return self.directory / "state" / "containerd" / "containerd.sock"

    @property
    def cgroup_parent(self) -> str:
        """The ``cgroup_parent`` of this node's pods; the node removes it at its end."""
        return cgroups.parent_path(self._cgroup_parent, systemd=self.systemd_cgroup)

    def log(self) -> str:
        return (self.directory / "server.log").read_text(errors="replace")

    def _ends_of_logs(self) -> str:
        """What server and containerd logged last, without the calls that asked for readiness."""
        server = [line for line in self.log().splitlines() if "event=Version " not in line]
        daemon = self.directory / "root" / "containerd" / "containerd.log"
        lines = daemon.read_text(errors="replace").splitlines() if daemon.exists() else []
        return "\n".join(
            ["the end of the server's log:", *server[-30:], "of containerd's:", *lines[-30:]]
        )

    def log_size(self) -> int:
        """Where the log ends now, in bytes."""
        return (self.directory / "server.log").stat().st_size

    def log_since(self, size: int) -> str:
        """What was logged after `log_size` was this."""
        with (self.directory / "server.log").open("rb") as file:
            file.seek(size)
            return file.read().decode(errors="replace")

    def processes(self) -> dict[int, str]:
        """Pid → command of all processes of this node: server, keeper, containerd, shims."""
        found = {}
        for proc in Path("/proc").glob("[0-9]*"):
            try:
                command = (
                    (proc / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                )
            except OSError:
                continue
            if str(self.directory) in command and int(proc.name) != os.getpid():
                found[int(proc.name)] = command.strip()
        return found

    def remove_pods(self) -> None:
        """Stop and remove every pod with its logs, as a drained node would."""
        from generated.cri import api_pb2

        for pod in self.cri.runtime.ListPodSandbox(api_pb2.ListPodSandboxRequest()).items:
            self.cri.stop_pod(pod.id)
            self.cri.remove_pod(pod.id)
        shutil.rmtree(self.logs, ignore_errors=True)
        self.logs.mkdir()

    def close(self) -> None:
        """Remove all pods, stop the server, and delete the folder and the bridge."""
        serving = self.process.poll() is None
        try:
            if serving:
                self.remove_pods()
        finally:
            self.cri.close()
            if serving:
                self.stop()
            if self._cgroup_parent:
                cgroups.remove_parent(self._cgroup_parent, systemd=self.systemd_cgroup)
            if serving:
                self._end_processes(KEEPER)  # it waits for a new server before it exits
                self.marks.settle()
            self._end_processes(str(self.directory))
            subprocess.run(["ip", "link", "del", self.bridge], capture_output=True, check=False)
            shutil.rmtree(f"/var/lib/cni/networks/{self.network}", ignore_errors=True)
            shutil.rmtree(self.directory, ignore_errors=True)

    def _end_processes(self, mention: str) -> None:
        for pid, command in self.processes().items():
            if mention in command:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGTERM)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _toml(value: bool) -> str:
    return str(value).lower()
