"""The tables of the configuration: their keys, types and defaults."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, Literal

import msgspec

_GO_DURATION: Final = re.compile(r"(\d+(?:\.\d+)?)(ns|us|µs|ms|s|m|h)")
_SECONDS_OF: Final = {
    "ns": 1e-9,
    "us": 1e-6,
    "µs": 1e-6,
    "ms": 1e-3,
    "s": 1.0,
    "m": 60.0,
    "h": 3600.0,
}
PLUGIN_DIR: Final = "io.containerd.grpc.v1.cri"
"""The same directory as the built-in plugin, so that a node can switch from one to the other."""

DEFAULT_PAUSE: Final = "registry.k8s.io/pause:3.10.2"


class ConfigError(Exception):
    """The configuration cannot be used; the message is for the person who wrote it."""


class Duration(float):
    """Seconds, written in Go's format: ``"1m30s"``, ``"500ms"``, ``"0s"``."""

    @classmethod
    def parse(cls, text: object) -> Duration:
        """Raises ValueError if ``text`` is not a duration; "" is 0, as in the built-in plugin."""
        parts = _GO_DURATION.findall(text) if isinstance(text, str) else []
        if isinstance(text, str) and text in ("", "0"):
            return cls(0)
        if not parts or "".join(number + unit for number, unit in parts) != text:
            raise ValueError('must be a duration such as "1m30s" or "500ms"')
        return cls(sum(float(number) * _SECONDS_OF[unit] for number, unit in parts))


class _Table(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One TOML table; unknown keys are refused."""


RUNC_SHIM: Final = "io.containerd.runc.v2"
"""containerd's shim for runc and for programs with runc's command line, such as crun."""


class RuncOptions(_Table, frozen=True):
    """Options of the shim ``io.containerd.runc.v2`` (``containerd.runc.v1.Options``)."""

    BinaryName: str = ""
    """The OCI runtime; "" means ``runc`` on containerd's PATH."""
    Root: str = ""
    SystemdCgroup: bool = False
    NoPivotRoot: bool = False
    NoNewKeyring: bool = False
    ShimCgroup: str = ""
    IoUid: int = 0
    IoGid: int = 0
    CriuImagePath: str = ""
    CriuPath: str = ""
    """Must be empty; accepted because containerd 1.x writes it into every config it generates."""
    CriuWorkPath: str = ""


class Runtime(_Table, frozen=True):
    """``[containerd.runtimes.NAME]``: a runtime handler."""

    runtime_type: str = RUNC_SHIM
    """The shim: a name such as ``io.containerd.runsc.v1``, or the absolute path of its binary."""
    runtime_path: str = ""
    """Path of the shim's binary; "" lets containerd find it by ``runtime_type``."""
    options: Mapping[str, Any] = msgspec.field(default_factory=dict)
    """For runc's shim, the keys of ``RuncOptions``. Other shims get ``TypeUrl``, ``ConfigPath`` and
    ``ConfigBody``; without a path, the whole table as TOML is the body."""
    snapshotter: str = ""
    """"" means the snapshotter of ``[containerd]``."""
    pod_annotations: tuple[str, ...] = ()
    container_annotations: tuple[str, ...] = ()
    privileged_without_host_devices: bool = False
    privileged_without_host_devices_all_devices_allowed: bool = False
    cgroup_writable: bool = False
    base_runtime_spec: str = ""
    """Path of an OCI spec in JSON that containers start from, instead of the default one."""
    cni_conf_dir: str = ""
    """Directory of the networks of this handler's pods; "" means that of ``[cni]``."""
    cni_max_conf_num: int = 0
    """As ``max_conf_num`` of ``[cni]``, for ``cni_conf_dir``."""

    @property
    def runc(self) -> RuncOptions:
        """The options of runc's shim; the defaults for another shim."""
        return msgspec.convert(self.options if self.is_runc else {}, RuncOptions)

    @property
    def is_runc(self) -> bool:
        """Whether this is runc's shim, whose options are known."""
        return self.runtime_type == RUNC_SHIM


class ContainerdTable(_Table, frozen=True):
    """``[containerd]``: the daemon and the runtime handlers."""

    address: str = "unix:///run/containerd/containerd.sock"
    namespace: str = "k8s.io"
    snapshotter: str = "overlayfs"
    default_runtime_name: str = "runc"
    runtimes: Mapping[str, Runtime] = msgspec.field(default_factory=lambda: {"runc": Runtime()})
    """By name; the file's entries are added to ``runc``."""
    ignore_blockio_not_enabled_errors: bool = False
    ignore_rdt_not_enabled_errors: bool = False
    """Ignore annotations that request a class, instead of refusing the container."""


class CniTable(_Table, frozen=True):
    """``[cni]``: network plugins."""

    bin_dirs: tuple[str, ...] = ("/opt/cni/bin", "/usr/lib/cni")
    conf_dir: str = "/etc/cni/net.d"
    max_conf_num: int = 1
    """How many configurations of the directory, in name order, are used; 0: all."""
    setup_serially: bool = False
    conf_template: str = ""
    """A template in Go's syntax that UpdateRuntimeConfig fills with the pod CIDR; "": none."""
    ip_pref: Literal["", "ipv4", "ipv6", "cni"] = ""


class RegistryTable(_Table, frozen=True):
    """``[images.registry]``."""

    config_path: str = "/etc/containerd/certs.d:/etc/docker/certs.d"
    """Directories with a ``hosts.toml`` for each registry, separated by colons."""
    headers: Mapping[str, tuple[str, ...]] = msgspec.field(default_factory=dict)
    """Headers of every request to a registry; those of a ``hosts.toml`` replace them by name."""
    mirrors: Mapping[str, Any] = msgspec.field(default_factory=dict)
    configs: Mapping[str, Any] = msgspec.field(default_factory=dict)
    auths: Mapping[str, Any] = msgspec.field(default_factory=dict)
    """Deprecated in containerd; refused here, with ``mirrors`` and ``configs``, in favour of
    ``hosts.toml``."""


class ImageVerifierTable(_Table, frozen=True):
    """``[images.image_verifier]``, as containerd's ``io.containerd.image-verifier.v1.bindir``."""

    bin_dir: str = "/opt/containerd/image-verifier/bin"
    """Every program in it must allow an image before it is pulled."""
    max_verifiers: int = 10
    """How many of them are asked, in the order of their names; below 0: all."""
    per_verifier_timeout: Duration = Duration(10)
    """Time limit of each; an image without an answer is refused."""


class RuntimePlatform(_Table, frozen=True):
    """``[images.runtime_platforms.NAME]``: how images are pulled for a runtime handler."""

    platform: str = ""
    """Must be the node's; accepted for configurations of the built-in plugin."""
    snapshotter: str = ""
    """The handler's; the same as ``snapshotter`` in ``[containerd.runtimes.NAME]``."""


class ImagesTable(_Table, frozen=True):
    """``[images]``."""

    pinned_images: Mapping[str, str] = msgspec.field(
        default_factory=lambda: {"sandbox": DEFAULT_PAUSE}
    )
    """Images that the kubelet must not garbage-collect, by use; ``sandbox`` is the pause image,
    which has a default."""
    registry: RegistryTable = RegistryTable()
    image_verifier: ImageVerifierTable = ImageVerifierTable()
    max_concurrent_downloads: int = 3
    """Layers downloaded at once, over all pulls of the node; 0: no limit."""
    concurrent_layer_fetch_buffer: int = 0
    """Bytes of the ranges in which a layer is downloaded in parallel; up to 512: in one piece."""
    max_concurrent_unpacks: int = 1
    """Layers unpacked at the same time, over all pulls of the node; up to 1: one of each image."""
    disable_snapshot_annotations: bool = True
    """Without it, snapshotters are told the image of each layer, and layers that they provide by
    themselves are not downloaded."""
    discard_unpacked_layers: bool = False
    """containerd deletes the layers from its content store after they were unpacked."""
    image_pull_with_sync_fs: bool = False
    """containerd writes each unpacked layer to the disk before it counts (containerd 2.0)."""
    runtime_platforms: Mapping[str, RuntimePlatform] = msgspec.field(default_factory=dict)
    """By runtime handler."""
    image_pull_progress_timeout: Duration = Duration(300)
    """A pull fails if no bytes arrive for this long; 0: never."""
    stats_collect_period: int = 10
    """Seconds between two measurements of the layers' sizes."""


class KeyPair(_Table, frozen=True):
    """``[streaming.x509_key_pair_streaming]``: PEM files; both or none."""

    tls_cert_file: str = ""
    tls_key_file: str = ""


class StreamingTable(_Table, frozen=True):
    """``[streaming]``: where exec, attach and port-forward are served."""

    stream_server_address: str = "127.0.0.1"
    """"" means the address of the default route."""
    stream_server_port: int = 0
    """0 means a free port."""
    stream_idle_timeout: Duration = Duration(4 * 3600)
    """How long a stream may be idle; 0: for ever."""
    enable_tls_streaming: bool = False
    x509_key_pair_streaming: KeyPair = KeyPair()
    """With TLS but no key pair, a self-signed one is generated at each start."""
    disable_tcp_service: bool = True
    """Must be true; accepted for configurations of the built-in plugin: CRI is served on a unix
    socket only."""


class MetricsTable(_Table, frozen=True):
    """``[metrics]``: the server's own Prometheus metrics."""

    address: str = ""
    """``host:port`` of an HTTP server for ``/metrics``; "": none."""


class Config(_Table, frozen=True):
    """The whole file; every key is optional."""

    listen: str = "unix:///run/cri-containerd/cri-containerd.sock"
    root: str = "/var/lib/cri-containerd"
    """Data that must survive a reboot."""
    state: str = "/run/cri-containerd"
    """Data that must not survive a reboot."""
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    max_container_log_line_size: int = 16384
    """Longer log lines are split at this many bytes; 0 or less: lines are kept whole, in memory."""
    enable_selinux: bool = False
    """Label pods, containers and their files, if the kernel has SELinux."""
    selinux_category_range: int = 1024
    """How many categories levels are made of; 0: the default."""
    disable_apparmor: bool = False
    disable_proc_mount: bool = False
    """Ignore masked and read-only paths of requests (procMount); containers have the default
    ones."""
    restrict_oom_score_adj: bool = False
    """Never set an oom_score_adj below the server's own, even if that is allowed."""
    unset_seccomp_profile: str = ""
    disable_hugetlb_controller: bool = True
    """Ignore hugepage limits of containers; the kubelet sets those of pods."""
    tolerate_missing_hugetlb_controller: bool = True
    """Ignore hugepage limits on a node without the controller, instead of refusing the
    container."""
    device_ownership_from_security_context: bool = False
    ignore_image_defined_volumes: bool = False
    netns_mounts_under_state_dir: bool = False
    enable_cdi: bool = True
    """Without it, containers that request CDI devices are refused."""
    cdi_spec_dirs: tuple[str, ...] = ("/etc/cdi", "/var/run/cdi")
    """Directories of CDI specs; a device of a later one replaces that of an earlier one."""
    enable_criu: bool = True
    """Without it, CheckpointContainer answers UNIMPLEMENTED."""
    enable_experimental_restore_via_create: bool = False
    """Create containers from checkpoints: the image of a request is an archive or made of one."""
    enable_unprivileged_ports: bool = True
    enable_unprivileged_icmp: bool = True
    ignore_deprecation_warnings: tuple[str, ...] = ()
    """Ids of containerd's deprecation warnings that Status leaves out."""
    drain_exec_sync_io_timeout: Duration = Duration(0)
    """How long ExecSync waits for output after its process ended; 0: until the output ends."""
    stats_collect_period: Duration = Duration(1)
    """How often the CPU counters of running containers are read for the rates in statistics; 0:
    only when statistics are requested, so that the first answer has no rates."""
    stats_retention_period: Duration = Duration(120)
    """A CPU reading older than this is not used for a rate."""
    containerd: ContainerdTable = ContainerdTable()
    cni: CniTable = CniTable()
    images: ImagesTable = ImagesTable()
    streaming: StreamingTable = StreamingTable()
    metrics: MetricsTable = MetricsTable()

    @property
    def root_dir(self) -> Path:
        """Where the records of objects are."""
        return Path(self.root, PLUGIN_DIR)

    @property
    def state_dir(self) -> Path:
        """Where the files of running objects are."""
        return Path(self.state, PLUGIN_DIR)

    @property
    def socket(self) -> Path:
        """The path of ``listen``."""
        return Path(self.listen.removeprefix("unix://"))

    @property
    def pause_image(self) -> str:
        """The reference of the pause image."""
        return self.images.pinned_images["sandbox"]
