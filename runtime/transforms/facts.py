"""Resolved facts: everything that the OCI builders and the status readers may know besides the
request.

Three rules hold in this file:

* A fact is a value, never a means to get one: no paths to be read later, no clients, no callbacks.
  ``runtime`` probes the node and the image first, fills these records, and only then calls the pure
  builders.
* The records are the *context roots* of the mapping files.
  ``sandbox.metadata.config.linux.cgroup_parent`` in a ``from:`` list is an attribute path through
  the classes below; the generator checks it against the annotations, so a name is changed here and
  in ``spec/mapping`` together.
* A default says "nobody found this on the node": builders treat it as the feature being absent.

Units: times are nanoseconds since the epoch (0: has not happened), sizes are bytes, process ids are
those of the host's namespace (0: none), paths are absolute paths on the host unless a docstring
says otherwise.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from runtime.readings import Condition as Condition
from runtime.readings import Filesystems as Filesystems
from runtime.readings import HandlerStatus as HandlerStatus
from runtime.readings import Interface as Interface
from runtime.readings import LayerUsage as LayerUsage
from runtime.readings import Memory as Memory
from runtime.readings import Network as Network
from runtime.readings import Node as Node
from runtime.readings import Outcome as Outcome
from runtime.readings import Pressure as Pressure
from runtime.readings import ServerFeatures as ServerFeatures
from runtime.readings import Stall as Stall
from runtime.readings import Stream as Stream
from runtime.readings import Swap as Swap
from runtime.readings import Usage as Usage
from runtime.readings import Versions as Versions

if TYPE_CHECKING:
    from generated.cri import api_pb2
    from generated.lifecycle import ContainerState, SandboxState
    from generated.oci import types


@dataclass(frozen=True, slots=True)
class Host:
    """What the node is and allows; probed once at the start (``runtime/lookups/host.py``), with the
    node-wide config keys."""

    hostname: str
    """The node's own host name: the HOSTNAME of a pod that shares the node's network."""

    kernel: tuple[int, int] = (0, 0)
    """Major and minor kernel version, from uname."""

    architecture: str = "amd64"
    """The machine as Go and OCI images name it (amd64, arm64, …); selects the seccomp
    architectures."""

    capabilities: tuple[str, ...] = ()
    """The effective capabilities of this process as ``CAP_X``, in kernel order: what "ALL" and
    privileged can give. Source: CapEff of /proc/self/status."""

    cgroup_unified: bool = False
    """Whether /sys/fs/cgroup is cgroup v2 alone (statfs magic CGROUP2_SUPER_MAGIC)."""

    cgroup_mount_options: tuple[str, ...] = ()
    """Those of ``nsdelegate`` and ``memory_recursiveprot`` that the node's own cgroup2 mount
    has. A container's cgroup2 mount must repeat them: remounting without them would switch them
    off for the whole node."""

    swap_controller: bool = False
    """Whether swap can be limited (v1: memory.memsw.limit_in_bytes; v2: memory.swap.max in the
    own cgroup)."""

    hugetlb_controller: bool = False
    """Whether the hugetlb controller is there to enforce hugepage limits."""

    disable_hugetlb_controller: bool = True
    """Config of that name: hugepage limits of containers are not written."""

    tolerate_missing_hugetlb_controller: bool = True
    """Config of that name: without the controller, hugepage limits are left out instead of
    refused."""

    seccomp: bool = False
    """Whether the kernel can filter system calls (a Seccomp line in /proc/self/status)."""

    apparmor: bool = False
    """Whether AppArmor is enabled, its parser installed and the node not itself a container."""

    oom_score_adj_floor: int | None = None
    """The lowest oom_score_adj that this process may give its children, -1000..1000; None when
    there is no bound (CAP_SYS_RESOURCE is held and ``restrict_oom_score_adj`` is off). Source:
    /proc/self/oom_score_adj."""

    unprivileged_ports: bool = True
    """Config ``enable_unprivileged_ports``: pods may bind ports below 1024 without a capability."""

    unprivileged_icmp: bool = True
    """Config ``enable_unprivileged_icmp``: pods may send echo requests without CAP_NET_RAW."""

    in_user_namespace: bool = False
    """This process runs in a user namespace (rootless, or nested in a container), where only some
    ids exist. Source: /proc/self/uid_map."""

    unset_seccomp_profile: str = ""
    """Config ``unset_seccomp_profile``: the profile of a container whose request names none, in
    the notation of the deprecated field ("" or "unconfined", "runtime/default",
    "localhost/<path>")."""

    device_ownership_from_security_context: bool = False
    """Config of that name: requested devices belong to run_as_user and run_as_group instead of
    the host's owner."""

    devices: tuple[types.LinuxDevice, ...] = ()
    """All device nodes below /dev of the host, for privileged containers. Source: lstat, without
    pts, shm, fd, mqueue, .lxc, .lxd-mounts, .udev, console and without FIFOs. ``runtime``
    refreshes them when it creates such a container."""


@dataclass(frozen=True, slots=True)
class Event:
    """A change of state that is a CRI event, with the pod as it was just after the change."""

    kind: str
    """Name in the enum ContainerEventType, e.g. ``CONTAINER_STOPPED_EVENT``."""

    container_id: str
    """The container, or the sandbox itself: the CRI names both in this one field."""

    at: int
    """When the change became visible."""

    sandbox: Sandbox | None
    """None only if the pod's record was lost."""

    containers: tuple[Container, ...]
    """All containers of the pod; a deleted one is not among them any more."""


@dataclass(frozen=True, slots=True)
class Handler:
    """One runtime handler: the table ``[containerd.runtimes.NAME]`` and what its binary reports."""

    name: str
    """The name that pods ask for in ``runtime_handler``; the default handler also answers to ""."""

    runtime_type: str = "io.containerd.runc.v2"
    """The shim, as containerd's ``Container.runtime.name``."""

    runtime_path: str = ""
    """Path of the shim binary; "" lets containerd find it by ``runtime_type``."""

    options: Mapping[str, object] = field(default_factory=dict)
    """The TOML table ``options`` as written (BinaryName, SystemdCgroup, …)."""

    snapshotter: str = "overlayfs"
    """Where the root file systems of this handler's containers are prepared."""

    systemd_cgroup: bool = False
    """Whether runc gives cgroups through systemd (``options.SystemdCgroup``); decides the form
    of cgroupsPath."""

    pod_annotations: tuple[str, ...] = ()
    """Glob patterns (path.Match) of the pod annotations that pass into the OCI specs of the pod
    and its containers."""

    container_annotations: tuple[str, ...] = ()
    """Glob patterns of the container annotations that pass into the container's OCI spec."""

    privileged_without_host_devices: bool = False
    """Privileged containers of this handler get no host devices."""

    privileged_without_host_devices_all_devices_allowed: bool = False
    """With the key above: the device cgroup still allows everything."""

    cgroup_writable: bool = False
    """/sys/fs/cgroup is writable in unprivileged containers too (cgroup v2 only)."""

    recursive_read_only: bool = False
    """The OCI runtime lists the mount option ``rro`` (``runc features``) and the kernel is 5.12
    or newer."""

    user_namespaces: bool = False
    """Pods of this handler may have a user namespace: the OCI runtime can map ids of the root file
    system and of volumes (``runc features``), and this server can make such pods."""


@dataclass(frozen=True, slots=True)
class Image:
    """A local image: its record in containerd's image store and its OCI image config."""

    id: str = ""
    """Digest of the image config, ``sha256:…``: the id that CRI speaks of."""

    reference: str = ""
    """The name of the record in containerd's image store that was used to find it (written to
    ``Container.image``)."""

    chain_id: str = ""
    """Chain id of its layers: the parent of a container's snapshot."""

    tags: tuple[str, ...] = ()
    """Normalised references by tag, sorted (``repo_tags``)."""

    digests: tuple[str, ...] = ()
    """Normalised references by digest, sorted (``repo_digests``)."""

    size: int = 0
    """Compressed size of manifest, config and layers of this platform."""

    pinned: bool = False
    """Whether the kubelet's garbage collection must leave it alone."""

    user: str = ""
    """Config ``User``: ``name|uid[:group|gid]``."""

    entrypoint: tuple[str, ...] = ()
    """Config ``Entrypoint``."""

    cmd: tuple[str, ...] = ()
    """Config ``Cmd``."""

    env: tuple[str, ...] = ()
    """Config ``Env``, each ``KEY=value``."""

    working_dir: str = ""
    """Config ``WorkingDir``."""

    volumes: tuple[str, ...] = ()
    """Config ``Volumes``: paths in the container, sorted."""

    stop_signal: str = ""
    """Config ``StopSignal``: a name or a number as text."""

    labels: Mapping[str, str] = field(default_factory=dict)
    """Config ``Labels``."""


@dataclass(frozen=True, slots=True)
class WantedUser:
    """A user as requested or set in the image, before the look-up. A value of a plan."""

    user: str
    """``name|uid[:group|gid]``; "" is root."""

    member: str
    """The name or number whose groups are read from the group file; "" for none."""

    supplemental_groups: tuple[int, ...] = ()
    """Groups besides those of the group file."""


@dataclass(frozen=True, slots=True)
class User:
    """The user of a container's first process, looked up in the passwd and group files of its
    root file system."""

    uid: int = 0
    gid: int = 0

    additional_gids: tuple[int, ...] = ()
    """Every supplemental group after ``supplemental_groups_policy`` was applied, with the
    primary one; sorted, unique."""

    username: str = ""
    """The name that the request or the image gave, if it gave one."""


@dataclass(frozen=True, slots=True)
class SandboxMetadata:
    """What identifies a sandbox; saved in the extension ``io.cri-containerd.sandbox.metadata``
    and in the record of the sandbox store. Changes (the network's answer) are made by
    ``dataclasses.replace`` and saved again."""

    id: str
    """64 hexadecimal digits; also the id of the pause container, its snapshot and the pod's
    lease."""

    name: str
    """The reserved name, ``name_namespace_uid_attempt``."""

    config: api_pb2.PodSandboxConfig
    """The request's config, unchanged."""

    netns_path: str = ""
    """The file that pins the network namespace; "" for a pod that shares the node's network."""

    ip: str = ""
    """The primary pod IP; "" on the node's network."""

    additional_ips: tuple[str, ...] = ()
    """The other pod IPs, in the order in which CNI gave them."""

    runtime_handler: str = ""
    """The handler's name as the request gave it ("" is the default handler)."""

    cni_result: Mapping[str, object] | None = None
    """What the network plugins answered to ADD, in the built-in plugin's JSON shape; None: ADD
    has not succeeded."""

    process_label: str = ""
    """SELinux label of the pod's processes; "" without SELinux."""


@dataclass(frozen=True, slots=True)
class SandboxStatus:
    """What changes in a sandbox's life; kept in memory and rebuilt from the pause task at
    recovery."""

    state: SandboxState
    created_at: int = 0
    pid: int = 0
    """The pause process; 0 once it is gone."""


@dataclass(frozen=True, slots=True)
class SandboxFiles:
    """Where a sandbox's files are; derived from the root and state directories and the id."""

    root_dir: str = ""
    """<root>/io.containerd.grpc.v1.cri/sandboxes/<id>: survives a reboot."""

    state_dir: str = ""
    """<state>/io.containerd.grpc.v1.cri/sandboxes/<id>: gone after a reboot."""

    hostname: str = ""
    hosts: str = ""
    resolv_conf: str = ""

    shm: str = ""
    """The tmpfs that every container of the pod sees as /dev/shm; the node's own /dev/shm when
    IPC is the node's."""


@dataclass(frozen=True, slots=True)
class Security:
    """What the security fields of a request name on this node, looked up before a spec is built."""

    localhost_seccomp: types.LinuxSeccomp | None = None
    """The parsed profile file that the seccomp fields name by a localhost reference; None when
    they name none. A file that is missing or no profile is refused while it is read."""

    localhost_apparmor_loaded: bool = False
    """Whether the AppArmor profile that a localhost reference names is loaded
    (/sys/kernel/security/apparmor/profiles). ``runtime`` itself loads the default profile."""


@dataclass(frozen=True, slots=True)
class Sandbox:
    """A pod sandbox. The root ``sandbox`` of mapping entries."""

    metadata: SandboxMetadata
    status: SandboxStatus
    files: SandboxFiles = field(default_factory=SandboxFiles)
    security: Security = field(default_factory=Security)
    """For the pause container itself; only needed while its spec is built."""

    userns_path: str = ""
    """The file that pins the pod's user namespace, which owns its network namespace; "" without a
    user namespace, and when the pod shares the node's network (runc then makes one)."""


@dataclass(frozen=True, slots=True)
class MountSource:
    """The host side of one entry of ``ContainerConfig.mounts``, looked up (and created where
    missing)."""

    path: str
    """The source with symbolic links resolved; for an image volume, where ``runtime`` mounted
    the image (with the sub path)."""

    shared: bool = False
    """The mount that holds ``path`` is shared (``shared:`` in /proc/self/mountinfo)."""

    slave: bool = False
    """The mount that holds ``path`` is a slave (``master:`` in /proc/self/mountinfo)."""


@dataclass(frozen=True, slots=True)
class Volume:
    """One VOLUME of the image that no requested mount covers: a directory on the host holds its
    data."""

    container_path: str
    host_path: str


@dataclass(frozen=True, slots=True)
class DeviceNode:
    """One device node that an entry of ``ContainerConfig.devices`` names: itself, or one of
    those below a directory."""

    device: types.LinuxDevice
    """The node as lstat found it, its ``path`` already the one in the container."""

    permissions: str
    """The entry's ``permissions``: a subset of ``rwm``."""


@dataclass(frozen=True, slots=True)
class CdiHooks:
    """Programs that the OCI runtime runs at points of the container's life, in their order."""

    prestart: tuple[types.Hook, ...] = ()
    createRuntime: tuple[types.Hook, ...] = ()
    createContainer: tuple[types.Hook, ...] = ()
    startContainer: tuple[types.Hook, ...] = ()
    poststart: tuple[types.Hook, ...] = ()
    poststop: tuple[types.Hook, ...] = ()


@dataclass(frozen=True, slots=True)
class CdiEdits:
    """What the CDI devices of a container change in its OCI spec; looked up in the CDI
    directories."""

    env: tuple[str, ...] = ()
    """``NAME=value``."""

    devices: tuple[DeviceNode, ...] = ()
    """Numbers and types as the host has them; without an owner, a node belongs to the container's
    user. Without permissions, the cgroup allows nothing."""

    net_devices: Mapping[str, types.LinuxNetDevice] = field(default_factory=dict)
    """Interfaces that move into the container, by their names on the host."""

    mounts: tuple[types.Mount, ...] = ()
    hooks: CdiHooks = field(default_factory=CdiHooks)
    intel_rdt: types.LinuxIntelRdt | None = None
    """The resctrl group; None if no device asks for one."""

    additional_gids: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class ContainerMetadata:
    """What identifies a container; saved in the extension
    ``io.cri-containerd.container.metadata``; never changes."""

    id: str
    """64 hexadecimal digits; also the id of the task and of the snapshot."""

    name: str
    """The reserved name, ``container_pod_namespace_uid_attempt``."""

    sandbox_id: str

    config: api_pb2.ContainerConfig
    """The request's config, unchanged."""

    image_ref: str = ""
    """The image's id: the digest of its config."""

    image_name: str = ""
    """The image's record in containerd's image store."""

    image_digest: str = ""
    """Digest of the image's manifest or index: the target of that record."""

    log_path: str = ""
    """The log file; "" when the pod has no log directory or the container no log path: output is
    dropped."""

    stop_signal: str = ""
    """The signal for a graceful stop, from the image: a name or a number as text; "" means
    SIGTERM."""

    process_label: str = ""
    """SELinux label of the process; "" without SELinux."""


@dataclass(frozen=True, slots=True)
class ContainerStatus:
    """What changes in a container's life; saved in its status file whenever the lifecycle says
    so."""

    state: ContainerState
    pid: int = 0
    """The first process; 0 before the start and after the exit."""

    created_at: int = 0
    started_at: int = 0
    finished_at: int = 0
    exit_code: int = 0
    """Exit code of the first process, 128 + signal when a signal ended it."""

    reason: str = ""
    """One word for tools (OOMKilled, StartError, …); "" lets the reader derive it from the exit
    code."""

    message: str = ""
    """A sentence for people about ``reason``."""

    resources: api_pb2.ContainerResources | None = None
    """The resources that were applied last, saved for recovery; None: none recorded, the OCI
    spec tells."""


@dataclass(frozen=True, slots=True)
class Container:
    """A container. The root ``container`` of mapping entries.

    The fields after ``status`` are what ``runtime`` prepares on the node for CreateContainer; they
    are only needed while the container's OCI spec is built, and empty otherwise.
    """

    metadata: ContainerMetadata
    status: ContainerStatus
    mounts: tuple[MountSource, ...] = ()
    """One for each entry of ``config.mounts``, in the same order."""

    volumes: tuple[Volume, ...] = ()
    devices: tuple[DeviceNode, ...] = ()
    """The nodes of all entries of ``config.devices``, in the same order, directories walked."""

    target_pid: int = 0
    """First process of the container that ``namespace_options.target_id`` names; 0 when none is
    named. It must be running and in the same pod."""

    security: Security = field(default_factory=Security)
    cdi: CdiEdits = field(default_factory=CdiEdits)
