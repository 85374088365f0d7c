"""Resolved facts: everything that OCI builders and status readers may use besides the request.

Three rules hold in this file:

* A fact is a value, never a means to get one: no paths to be read later, no clients, no callbacks.
  ``runtime`` inspects the node and the image first, fills these records, and only then calls the
  pure builders.
* The records are the *context roots* of the mapping files.
  ``sandbox.metadata.config.linux.cgroup_parent`` in a ``from:`` list is an attribute path through
  the classes below; the generator checks it against the annotations, so a name is changed here and
  in ``spec/mapping`` together.
* A default means "not found on the node": builders treat the feature as absent.

Units: times are nanoseconds since the epoch (0: has not happened), sizes are bytes, process IDs are
those of the host's namespace (0: none), paths are absolute paths on the host unless a docstring
says otherwise.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from runtime.readings import Condition as Condition
from runtime.readings import ContainerSamples as ContainerSamples
from runtime.readings import Details as Details
from runtime.readings import Filesystems as Filesystems
from runtime.readings import HandlerStatus as HandlerStatus
from runtime.readings import Interface as Interface
from runtime.readings import LayerUsage as LayerUsage
from runtime.readings import Memory as Memory
from runtime.readings import MetricDescriptor as MetricDescriptor
from runtime.readings import MetricDescriptors as MetricDescriptors
from runtime.readings import Moment as Moment
from runtime.readings import Network as Network
from runtime.readings import Node as Node
from runtime.readings import NodeSamples as NodeSamples
from runtime.readings import Outcome as Outcome
from runtime.readings import PodSamples as PodSamples
from runtime.readings import Pressure as Pressure
from runtime.readings import Processes as Processes
from runtime.readings import RootFilesystem as RootFilesystem
from runtime.readings import Sample as Sample
from runtime.readings import ServerFeatures as ServerFeatures
from runtime.readings import Stall as Stall
from runtime.readings import Stream as Stream
from runtime.readings import Swap as Swap
from runtime.readings import Usage as Usage
from runtime.readings import Versions as Versions

if TYPE_CHECKING:
    from collections.abc import Sequence

    from generated.cri import api_pb2
    from generated.lifecycle import ContainerState, SandboxState
    from generated.oci import types


@dataclass(frozen=True, slots=True)
class SelinuxPolicy:
    """The labels that the node's SELinux policy has for containers, from its contexts file; "" for
    one that it lacks."""

    process: str = ""
    """Of a container's processes."""

    file: str = ""
    """Of the files that containers can write."""

    kvm_process: str = ""
    """Of a virtual machine that runs a container; that of processes if there is none."""


@dataclass(frozen=True, slots=True)
class LabelParts:
    """The parts of an SELinux label that a request gives; "" for one that it does not."""

    user: str = ""
    role: str = ""
    type: str = ""
    level: str = ""


@dataclass(frozen=True, slots=True)
class SelinuxLabels:
    """The SELinux labels of a new pod or container; "" without SELinux."""

    process: str = ""
    mount: str = ""


@dataclass(frozen=True, slots=True)
class Host:
    """What the node is and allows; determined once at the start (``runtime/lookups/host.py``), with
    the node-wide config keys."""

    hostname: str
    """The node's own host name: the HOSTNAME of a host-network pod."""

    kernel: tuple[int, int] = (0, 0)
    """Major and minor kernel version, from uname."""

    architecture: str = "amd64"
    """The machine as named by Go and OCI images (amd64, arm64, …); selects the seccomp
    architectures."""

    capabilities: tuple[str, ...] = ()
    """The effective capabilities of this process as ``CAP_X``, in kernel order: the meaning of
    "ALL" and privileged. Source: CapEff of /proc/self/status."""

    cgroup_unified: bool = False
    """Whether /sys/fs/cgroup is cgroup v2 only (statfs magic CGROUP2_SUPER_MAGIC)."""

    cgroup_mount_options: tuple[str, ...] = ()
    """Those of ``nsdelegate`` and ``memory_recursiveprot`` that the node's own cgroup2 mount has. A
    container's cgroup2 mount must repeat them: a remount without them would disable them for the
    whole node."""

    swap_controller: bool = False
    """Whether swap can be limited (v1: memory.memsw.limit_in_bytes; v2: memory.swap.max in the
    own cgroup)."""

    hugetlb_controller: bool = False
    """Whether the hugetlb controller exists to enforce hugepage limits."""

    disable_hugetlb_controller: bool = True
    """Config of that name: hugepage limits of containers are not written."""

    tolerate_missing_hugetlb_controller: bool = True
    """Config of that name: without the controller, hugepage limits are ignored instead of
    refused."""

    disable_proc_mount: bool = False
    """Config of that name: masked and read-only paths of requests are ignored, and containers have
    the default ones."""

    ignore_blockio_not_enabled_errors: bool = False
    ignore_rdt_not_enabled_errors: bool = False
    """Configs of those names: annotations with a class are ignored instead of refused."""

    seccomp: bool = False
    """Whether the kernel supports seccomp filters (a Seccomp line in /proc/self/status)."""

    selinux: SelinuxPolicy | None = None
    """The labels of the SELinux policy; None if the kernel has no SELinux or no policy, or
    ``enable_selinux`` is off."""

    apparmor: bool = False
    """Whether AppArmor is enabled, its parser installed and the node not itself a container."""

    oom_score_adj_floor: int | None = None
    """The lowest oom_score_adj that this process may give its children, -1000..1000; None if
    there is no limit (CAP_SYS_RESOURCE is available and ``restrict_oom_score_adj`` is off).
    Source: /proc/self/oom_score_adj."""

    unprivileged_ports: bool = True
    """Config ``enable_unprivileged_ports``: pods may bind ports below 1024 without a capability."""

    unprivileged_icmp: bool = True
    """Config ``enable_unprivileged_icmp``: pods may send echo requests without CAP_NET_RAW."""

    in_user_namespace: bool = False
    """Whether this process runs in a user namespace (rootless, or nested in a container), where
    only some IDs exist. Source: /proc/self/uid_map."""

    unset_seccomp_profile: str = ""
    """Config ``unset_seccomp_profile``: the profile of a container whose request has none, in the
    notation of the deprecated field ("" or "unconfined", "runtime/default", "localhost/<path>")."""

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

    statuses: tuple[ShownContainer, ...] = ()
    """``containers`` with what their statuses show; read when a client gets the event."""


@dataclass(frozen=True, slots=True)
class BaseSpec:
    """What a handler's containers start from, if it has a ``base_runtime_spec``; without one, the
    default spec, and everything here is unset."""

    document: bytes = b""
    """The OCI spec as JSON, without the parts below and without those that a request decides."""

    env: tuple[str, ...] = ()
    cwd: str = ""

    capabilities: tuple[str, ...] | None = None
    """In place of the default set, which requests add to and drop from."""

    mounts: tuple[types.Mount, ...] | None = None
    """In place of the default mounts."""

    devices: tuple[types.LinuxDevice, ...] = ()
    masked_paths: tuple[str, ...] | None = None
    readonly_paths: tuple[str, ...] | None = None
    """With ``disable_proc_mount``, in place of the default ones."""


@dataclass(frozen=True, slots=True)
class Handler:
    """One runtime handler: the table ``[containerd.runtimes.NAME]`` and what its binary reports."""

    name: str
    """The name that pods use in ``runtime_handler``; the default handler also has the name ""."""

    runtime_type: str = "io.containerd.runc.v2"
    """The shim, as containerd's ``Container.runtime.name``."""

    runtime_path: str = ""
    """Path of the shim binary; with "" containerd finds it by ``runtime_type``."""

    options: Mapping[str, object] = field(default_factory=dict)
    """The TOML table ``options`` as written (BinaryName, SystemdCgroup, …)."""

    snapshotter: str = "overlayfs"
    """Where the root file systems of this handler's containers are prepared."""

    systemd_cgroup: bool = False
    """Whether runc creates cgroups through systemd (``options.SystemdCgroup``); determines the
    format of cgroupsPath."""

    pod_annotations: tuple[str, ...] = ()
    """Glob patterns (path.Match) of the pod annotations that are copied into the OCI specs of
    the pod and its containers."""

    container_annotations: tuple[str, ...] = ()
    """Glob patterns of the container annotations that are copied into the container's OCI spec."""

    privileged_without_host_devices: bool = False
    """Whether privileged containers of this handler get no host devices."""

    privileged_without_host_devices_all_devices_allowed: bool = False
    """With the key above: the device cgroup still allows everything."""

    oci_version: str = "1.2.0"
    """The version of the OCI spec that its containers have: that of the default spec, or the latest
    that the OCI runtime reports to support. Some refuse a later one."""

    base: BaseSpec = BaseSpec()
    """What the OCI specs of this handler's containers start from."""

    cgroup_writable: bool = False
    """Whether /sys/fs/cgroup is writable in unprivileged containers too (cgroup v2 only)."""

    recursive_read_only: bool = False
    """Whether the OCI runtime lists the mount option ``rro`` (``runc features``) and the kernel is
    5.12 or newer."""

    user_namespaces_problem: str = "its features are not known"
    """Why pods of this handler cannot have a user namespace, with the remedy; empty if they can:
    the kernel makes them, the OCI runtime maps the ids of mounts (``runc features``), and root file
    systems get the pod's owners."""

    owners_by_copy: bool = False
    """The snapshotter cannot map the owners of a root file system: a pod with a user namespace
    needs a copy of the image that belongs to its ids."""

    @property
    def user_namespaces(self) -> bool:
        """Whether pods of this handler can have a user namespace."""
        return not self.user_namespaces_problem


@dataclass(frozen=True, slots=True)
class Image:
    """A local image: its record in containerd's image store and its OCI image config."""

    id: str = ""
    """Digest of the image config, ``sha256:…``: the CRI's image ID."""

    reference: str = ""
    """The record's name in containerd's image store that was used to find it (written to
    ``Container.image``)."""

    chain_id: str = ""
    """Chain ID of its layers: the parent of a container's snapshot."""

    tags: tuple[str, ...] = ()
    """Normalised references by tag, sorted (``repo_tags``)."""

    digests: tuple[str, ...] = ()
    """Normalised references by digest, sorted (``repo_digests``)."""

    size: int = 0
    """Compressed size of manifest, config and layers of this platform."""

    pinned: bool = False
    """Whether the kubelet's garbage collection must not remove it."""

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
class Streams:
    """Which streams a client of a command or container requested. A value of a plan."""

    stdin: bool
    stdout: bool
    stderr: bool
    tty: bool
    """Whether stdout is a terminal, and the client has a resize channel."""


@dataclass(frozen=True, slots=True)
class RequestedUser:
    """A user as requested or set in the image, before the look-up. A value of a plan."""

    user: str
    """``name|uid[:group|gid]``; "" is root, without a group besides ``supplemental_groups``."""

    member: str
    """The name or number whose groups are read from the group file; "" for none."""

    supplemental_groups: tuple[int, ...] = ()
    """Groups besides those of the group file."""

    field: str = ""
    """The field of the request that names the user, for messages; "" if it is a number or the
    image's."""


@dataclass(frozen=True, slots=True)
class User:
    """The user of a container's first process, resolved with the passwd and group files of its root
    file system."""

    uid: int = 0
    gid: int = 0

    additional_gids: tuple[int, ...] = ()
    """All supplemental groups after applying ``supplemental_groups_policy``, including the primary
    one if a user was named; sorted, unique."""

    username: str = ""
    """The name given by the request or the image, if any."""


@dataclass(frozen=True, slots=True)
class Address:
    """An IP address of a pod, without a prefix length."""

    ip: str


@dataclass(frozen=True, slots=True)
class PodResources:
    """The resources of a whole pod, which the kubelet applies to the pod's cgroup."""

    overhead: api_pb2.LinuxContainerResources
    """The pod overhead of the runtime class."""

    resources: api_pb2.LinuxContainerResources
    """The sum over the pod's containers."""


@dataclass(frozen=True, slots=True)
class SandboxMetadata:
    """The identity of a sandbox; saved in the extension ``io.cri-containerd.sandbox.metadata``
    and in the record of the sandbox store. Changes (the result of CNI) are made by
    ``dataclasses.replace`` and saved again."""

    id: str
    """64 hexadecimal digits; also the ID of the pause container, its snapshot and the pod's
    lease."""

    name: str
    """The reserved name, ``name_namespace_uid_attempt``."""

    config: api_pb2.PodSandboxConfig
    """The request's config, unchanged."""

    netns_path: str = ""
    """The file that keeps the network namespace alive; "" for a host-network pod."""

    ip: str = ""
    """The primary pod IP; "" for a host-network pod."""

    additional_ips: tuple[str, ...] = ()
    """The other pod IPs, in the order in which CNI returned them."""

    runtime_handler: str = ""
    """The handler's name in the request ("" is the default handler)."""

    cni_result: Mapping[str, object] | None = None
    """The result of CNI ADD, in the built-in plugin's JSON format; None until ADD has succeeded."""

    process_label: str = ""
    """SELinux label of the pod's processes; "" without SELinux."""

    resized: PodResources | None = None
    """What UpdatePodSandboxResources changed last; None while what the config says is valid."""

    @property
    def other_addresses(self) -> list[Address]:
        """The IPs besides the primary one."""
        return [Address(ip) for ip in self.additional_ips]

    config_json: bytes = field(default=b"", repr=False, compare=False)
    """``config`` as the records have it, encoded once while the pod is created and its records are
    written several times; b"" afterwards."""


@dataclass(frozen=True, slots=True)
class SandboxStatus:
    """The changing state of a sandbox; kept in memory and rebuilt from the pause task at
    recovery."""

    state: SandboxState
    created_at: int = 0
    pid: int = 0
    """The pause process; 0 once it has exited."""


@dataclass(frozen=True, slots=True)
class SandboxFiles:
    """Where a sandbox's files are; derived from the root and state directories and the ID."""

    root_dir: str = ""
    """<root>/io.containerd.grpc.v1.cri/sandboxes/<id>: survives a reboot."""

    state_dir: str = ""
    """<state>/io.containerd.grpc.v1.cri/sandboxes/<id>: does not survive a reboot."""

    hostname: str = ""
    hosts: str = ""
    resolv_conf: str = ""

    shm: str = ""
    """The tmpfs that every container of the pod sees as /dev/shm; the node's own /dev/shm if the
    pod shares the node's IPC namespace."""

    userns: str = ""
    """The file that pins the pod's user namespace, which owns its network namespace; "" without a
    user namespace, and when the pod shares the node's network (the OCI runtime then makes one)."""


@dataclass(frozen=True, slots=True)
class Security:
    """The node's objects named by the security fields of a request, looked up before a spec is
    built."""

    localhost_seccomp: types.LinuxSeccomp | None = None
    """The parsed profile file that the seccomp fields name by a localhost reference; None if
    there is none. A missing or invalid file is refused when it is read."""

    localhost_apparmor_loaded: bool = False
    """Whether the AppArmor profile named by a localhost reference is loaded
    (/sys/kernel/security/apparmor/profiles). ``runtime`` itself loads the default profile."""


@dataclass(frozen=True, slots=True)
class Sandbox:
    """A pod sandbox. The root ``sandbox`` of mapping entries."""

    metadata: SandboxMetadata
    status: SandboxStatus
    files: SandboxFiles = field(default_factory=SandboxFiles)
    security: Security = field(default_factory=Security)
    """For the pause container itself; only needed while its spec is built."""

    mount_label: str = ""
    """SELinux label of the pause container's root; only needed while its spec is built."""


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """The container that a checkpoint was made of. The root ``checkpoint`` of mapping entries."""

    name: str
    """The path of the archive, or the reference of the image made of it."""

    image_ref: str = ""
    """The ID of the image that the container was created from; "" if the archive has none."""

    image_name: str = ""
    """The reference of that image."""

    checkpointed_at: str = ""
    """When the checkpoint was made, as the archive says it."""

    annotations: Mapping[str, str] = field(default_factory=dict)
    """Those of its status."""


@dataclass(frozen=True, slots=True)
class RequestedMount:
    """What is looked up for one entry of ``ContainerConfig.mounts``. A value of a plan."""

    path: str
    """The source on the host as requested; created if missing."""

    destination: str = ""
    """Where it appears in the container."""

    propagation: str = "rprivate"
    """The option of its OCI mount that says which later mounts are visible on the other side."""

    relabel: bool = False
    """Whether the source gets the SELinux label of the container's files."""

    uid_map: str = ""
    """The user IDs that its files have in the pod's user namespace, in the format of
    /proc/PID/uid_map; "" if they are not mapped."""

    gid_map: str = ""
    """The same for group IDs."""

    image: str | None = None
    """The image that is mounted instead of a path of the host, as requested."""

    sub_path: str = ""
    """A directory of the image, relative to its root; "" is the root."""

    @property
    def propagates(self) -> bool:
        """Whether the propagation of the source's own mount matters."""
        return self.propagation != "rprivate"

    @property
    def maps_ids(self) -> bool:
        """Whether the source's file system must be able to map IDs; an image is mounted with
        them."""
        return bool(self.uid_map) and self.image is None


@dataclass(frozen=True, slots=True)
class ImageMount:
    """An entry of ``ContainerConfig.mounts`` whose source is an image. A value of a plan."""

    index: int
    """Which entry it is."""

    reference: str
    """The image as requested."""

    sub_path: str = ""
    """A directory of the image, relative to its root; "" is the root."""

    uid_map: str = ""
    """The user IDs that its files have in the pod's user namespace, in the format of
    /proc/PID/uid_map; "" if they are not mapped."""

    gid_map: str = ""
    """The same for group IDs."""

    @property
    def field(self) -> str:
        """The path of the entry in the request."""
        return f"config.mounts[{self.index}]"


@dataclass(frozen=True, slots=True)
class RequestedDevice:
    """What is looked up for one entry of ``ContainerConfig.devices``. A value of a plan."""

    host_path: str
    """A device node, or a directory of device nodes."""

    container_path: str
    """Where it appears in the container; "" at the host path with its symbolic links resolved."""


@dataclass(frozen=True, slots=True)
class MountSource:
    """The host side of one entry of ``ContainerConfig.mounts``, looked up, and created if
    missing."""

    path: str
    """The source with symbolic links resolved; for an image volume, where ``runtime`` mounted the
    image (with the sub path)."""

    shared: bool = False
    """Whether the mount that contains ``path`` is shared (``shared:`` in /proc/self/mountinfo)."""

    slave: bool = False
    """Whether the mount that contains ``path`` is a slave (``master:`` in /proc/self/mountinfo)."""

    idmap_problem: str = ""
    """Why a mount of ``path`` cannot map ids; only looked up if the entry has mappings."""

    is_mapped: bool = False
    """Whether ``path`` shows the mapped ids already: that of an image."""


@dataclass(frozen=True, slots=True)
class Volume:
    """One VOLUME of the image that no requested mount covers: its data is in a directory on the
    host."""

    container_path: str
    host_path: str


@dataclass(frozen=True, slots=True)
class DeviceNode:
    """One device node for an entry of ``ContainerConfig.devices``: the entry itself, or one
    below its directory."""

    device: types.LinuxDevice
    """The device node from lstat; its ``path`` is already the one in the container."""

    host_path: str = ""
    """The node on the host; "" if there is none, as for a CDI device that only has numbers."""


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
    user."""

    device_rules: tuple[types.LinuxDeviceCgroup, ...] = ()
    """What the cgroup allows of them; no rule for a node that it must not allow."""

    net_devices: Mapping[str, types.LinuxNetDevice] = field(default_factory=dict)
    """Interfaces that move into the container, by their names on the host."""

    mounts: tuple[types.Mount, ...] = ()
    hooks: CdiHooks = field(default_factory=CdiHooks)
    intel_rdt: types.LinuxIntelRdt | None = None
    """The resctrl group; None if no device asks for one."""

    additional_gids: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class ContainerMetadata:
    """The identity of a container; saved in the extension ``io.cri-containerd.container.metadata``;
    never changes."""

    id: str
    """64 hexadecimal digits; also the ID of the task and of the snapshot."""

    name: str
    """The reserved name, ``container_pod_namespace_uid_attempt``."""

    sandbox_id: str

    config: api_pb2.ContainerConfig
    """The request's config, unchanged."""

    image_ref: str = ""
    """The image's ID: the digest of its config."""

    image_name: str = ""
    """The image's record in containerd's image store."""

    image_digest: str = ""
    """Digest of the image's manifest or index: the target of that record."""

    log_path: str = ""
    """The log file; "" if the pod has no log directory or the container no log path: output is
    dropped."""

    stop_signal: str = ""
    """The signal for a graceful stop, from the image: a name or a number as text; "" means
    SIGTERM."""

    process_label: str = ""
    """SELinux label of the process; "" without SELinux."""


@dataclass(frozen=True, slots=True)
class ContainerStatus:
    """The changing state of a container; saved in its status file when the lifecycle requires
    it."""

    state: ContainerState
    pid: int = 0
    """The first process; 0 before the start and after the exit."""

    created_at: int = 0
    started_at: int = 0
    finished_at: int = 0
    exit_code: int = 0
    """Exit code of the first process, or 128 + signal if a signal ended it."""

    reason: str = ""
    """One word for tools (OOMKilled, StartError, …); if "", the reader derives it from the exit
    code."""

    message: str = ""
    """A sentence for people that explains ``reason``."""

    resources: api_pb2.ContainerResources | None = None
    """The resources applied last, saved for recovery; None: not recorded, see the OCI spec."""


@dataclass(frozen=True, slots=True)
class Container:
    """A container. The root ``container`` of mapping entries.

    The fields after ``status`` are prepared by ``runtime`` on the node for CreateContainer; they
    are only needed while the container's OCI spec is built, and otherwise empty.
    """

    metadata: ContainerMetadata
    status: ContainerStatus
    mounts: tuple[MountSource, ...] = ()
    """One for each entry of ``config.mounts``, in the same order."""

    volumes: tuple[Volume, ...] = ()
    devices: tuple[tuple[DeviceNode, ...], ...] = ()
    """For each entry of ``config.devices``, in the same order, its node, or those in its
    directory."""

    target_pid: int = 0
    """First process of the container that ``namespace_options.target_id`` names; 0 if none is
    named. It must be running and in the same pod."""

    security: Security = field(default_factory=Security)
    cdi: CdiEdits = field(default_factory=CdiEdits)
    mount_label: str = ""
    """SELinux label of the container's root and of the mounts that are relabeled."""

    @property
    def device_nodes(self) -> tuple[DeviceNode, ...]:
        """The nodes of all entries of ``config.devices``."""
        return tuple(node for nodes in self.devices for node in nodes)


@dataclass(frozen=True, slots=True)
class ShownContainer:
    """A container with what its status shows of its spec and its image, each empty if another
    client removed it."""

    container: Container
    spec: types.Spec
    image: Image


@dataclass(frozen=True, slots=True)
class Listing:
    """What a list shows: messages, each made by the entries of its kind and kept until its object
    changes."""

    containers: Sequence[api_pb2.Container] = ()
    sandboxes: Sequence[api_pb2.PodSandbox] = ()
    images: Sequence[api_pb2.Image] = ()


@dataclass(frozen=True, slots=True)
class MeasuredContainer:
    """A container and its statistics."""

    container: Container
    usage: Usage


@dataclass(frozen=True, slots=True)
class MeasuredSandbox:
    """A pod and its statistics, with those of its running containers."""

    sandbox: Sandbox
    usage: Usage
    containers: tuple[MeasuredContainer, ...]


@dataclass(frozen=True, slots=True)
class Measured:
    """What a list of statistics shows."""

    containers: tuple[MeasuredContainer, ...] = ()
    sandboxes: tuple[MeasuredSandbox, ...] = ()
