"""The namespaces that a container creates or joins, and the sysctls that belong to them."""

from __future__ import annotations

from collections.abc import Mapping

from generated.cri import api_pb2
from generated.items import id_mapping
from generated.oci import types
from runtime.errors import InvalidArgument

_OPTIONS_FIELD = "linux.security_context.namespace_options"
_USERNS_FIELD = f"{_OPTIONS_FIELD}.userns_options"

_NODES_ONLY = ("pid", "ipc")
"""Namespaces that a pod with a user namespace cannot share with the node."""

_IDS = (1 << 32) - 1
"""How many ids the kernel has; the last number of 32 bits means no id."""

_SYSCTLS_SINCE = (4, 11)
"""The first kernel with both sysctls."""
_ALL_PORTS = ("net.ipv4.ip_unprivileged_port_start", "0")
_ALL_GROUPS_PING = ("net.ipv4.ping_group_range", "0 2147483647")


def sandbox_namespaces(
    *,
    namespace_options: api_pb2.NamespaceOption | None,
    netns_path: str,
    userns_path: str,
    user_namespaces_problem: str,
) -> list[types.LinuxNamespace]:
    """The pause container's namespaces, which are the pod's: new ones unless the node's are
    requested.

    A host-network pod also keeps the node's host name, by sharing its UTS namespace: a different
    name would not resolve to anything.
    """
    options = namespace_options or api_pb2.NamespaceOption()
    found = []
    if options.pid != api_pb2.NODE:
        found.append(types.LinuxNamespace(type="pid"))
    if options.ipc != api_pb2.NODE:
        found.append(types.LinuxNamespace(type="ipc"))
    if options.network != api_pb2.NODE:
        found.append(types.LinuxNamespace(type="uts"))
        found.append(types.LinuxNamespace(type="network", path=netns_path or None))
    found.append(types.LinuxNamespace(type="mount"))
    if user_mappings(options):
        if user_namespaces_problem:
            raise unsupported(user_namespaces_problem)
        found.append(types.LinuxNamespace(type="user", path=userns_path or None))
    return found


def container_namespaces(
    *,
    namespace_options: api_pb2.NamespaceOption | None,
    sandbox_options: api_pb2.NamespaceOption | None,
    pid: int,
    target_pid: int,
    privileged: bool,
    cgroup_unified: bool,
) -> list[types.LinuxNamespace]:
    """An application container's namespaces: the pod's, but its own mounts and possibly PIDs.

    ``pid`` is the pause process. If the pod shares a namespace of the node, so does the pause
    process, so joining it is right for NODE too. A privileged container manages the node's cgroups,
    so it does not get a cgroup namespace.
    """
    options = namespace_options or api_pb2.NamespaceOption()
    pod = sandbox_options or api_pb2.NamespaceOption()
    found = [
        pid_namespace(options, pid, target_pid),
        types.LinuxNamespace(type="ipc", path=f"/proc/{pid}/ns/ipc"),
        types.LinuxNamespace(type="uts", path=f"/proc/{pid}/ns/uts"),
        types.LinuxNamespace(type="mount"),
        types.LinuxNamespace(type="network", path=f"/proc/{pid}/ns/net"),
    ]
    if user_mappings(options) != user_mappings(pod):
        raise InvalidArgument(
            "must be the pod's: a container cannot have a user namespace of its own",
            field=f"config.{_USERNS_FIELD}",
        )
    if user_mappings(pod):
        found.append(types.LinuxNamespace(type="user", path=f"/proc/{pid}/ns/user"))
    if cgroup_unified and not privileged:
        found.append(types.LinuxNamespace(type="cgroup"))
    return found


def uid_mappings(
    *, namespace_options: api_pb2.NamespaceOption | None
) -> list[types.LinuxIDMapping] | None:
    """The user IDs of the pod's user namespace; None without one."""
    mappings = user_mappings(namespace_options)
    return mappings[0] if mappings else None


def gid_mappings(
    *, namespace_options: api_pb2.NamespaceOption | None
) -> list[types.LinuxIDMapping] | None:
    """The group IDs of the pod's user namespace; None without one."""
    mappings = user_mappings(namespace_options)
    return mappings[1] if mappings else None


def uid_mapping(*, namespace_options: api_pb2.NamespaceOption | None) -> str:
    """The user ids of the pod's user namespace as containerd's snapshot labels have them; empty
    without one."""
    return _as_label(uid_mappings(namespace_options=namespace_options))


def gid_mapping(*, namespace_options: api_pb2.NamespaceOption | None) -> str:
    """As `uid_mapping`, for groups."""
    return _as_label(gid_mappings(namespace_options=namespace_options))


def _as_label(mappings: list[types.LinuxIDMapping] | None) -> str:
    return ",".join(f"{one.containerID}:{one.hostID}:{one.size}" for one in mappings or ())


def sysctls(
    *,
    sysctls: Mapping[str, str],
    namespace_options: api_pb2.NamespaceOption | None,
    kernel: tuple[int, int],
    unprivileged_ports: bool,
    unprivileged_icmp: bool,
    in_user_namespace: bool,
) -> dict[str, str]:
    """The requested sysctls, and two for pods with a network of their own, which replace a
    capability: low ports and ping.

    The kernel refuses a range with groups that do not exist in the user namespace of the pod or of
    this server; then ping keeps the kernel's default.
    """
    for name, value in sysctls.items():
        if not value or not name or ".." in name or name[0] in "./":
            raise InvalidArgument(
                "must be a kernel parameter, such as net.core.somaxconn, with a value, not"
                f" {name!r}: {value!r}",
                field="config.linux.sysctls",
            )
    options = namespace_options or api_pb2.NamespaceOption()
    found: dict[str, str] = {}
    if options.network != api_pb2.NODE and kernel >= _SYSCTLS_SINCE:
        if unprivileged_ports:
            found.update([_ALL_PORTS])
        if unprivileged_icmp and not in_user_namespace and not user_mappings(options):
            found.update([_ALL_GROUPS_PING])
    return {**found, **sysctls}


def joins_container(*, mode: api_pb2.NamespaceMode) -> bool:
    """Whether the PID namespace is that of another container of the pod."""
    return mode == api_pb2.TARGET


def pid_namespace(
    options: api_pb2.NamespaceOption, pid: int, target_pid: int
) -> types.LinuxNamespace:
    if options.pid == api_pb2.CONTAINER:
        return types.LinuxNamespace(type="pid")
    if options.pid != api_pb2.TARGET:
        return types.LinuxNamespace(type="pid", path=f"/proc/{pid}/ns/pid")
    if not target_pid:
        raise InvalidArgument(
            f"container {options.target_id!r} must be running in the same pod",
            field="config.linux.security_context.namespace_options.target_id",
        )
    return types.LinuxNamespace(type="pid", path=f"/proc/{target_pid}/ns/pid")


_Mappings = tuple[list[types.LinuxIDMapping], list[types.LinuxIDMapping]]


def unsupported(problem: str) -> InvalidArgument:
    """The refusal of a user namespace that the pod's handler cannot have because of ``problem``."""
    return InvalidArgument(
        f"this runtime handler does not support user namespaces: {problem}",
        field=f"config.{_USERNS_FIELD}",
    )


def user_mappings(options: api_pb2.NamespaceOption | None) -> _Mappings | None:
    """The ID ranges of a pod's user namespace, None for the node's; raises InvalidArgument for what
    the CRI does not allow."""
    if options is None or not options.HasField("userns_options"):
        return None
    userns = options.userns_options
    uids, gids = id_mapping.items(userns.uids), id_mapping.items(userns.gids)
    if userns.mode == api_pb2.NODE:
        if uids or gids:
            raise InvalidArgument(
                "must be empty with mode NODE", field=f"config.{_USERNS_FIELD}.uids"
            )
        return None
    if userns.mode != api_pb2.POD:
        raise InvalidArgument(
            "must be POD or NODE: all containers of a pod share its user namespace",
            field=f"config.{_USERNS_FIELD}.mode",
        )
    for name in _NODES_ONLY:
        if getattr(options, name) == api_pb2.NODE:
            raise InvalidArgument(
                "must not be NODE in a pod with a user namespace: the kernel does not let its root"
                f" mount what belongs to the node's {name} namespace",
                field=f"config.{_OPTIONS_FIELD}.{name}",
            )
    for name, ranges in (("uids", uids), ("gids", gids)):
        if len(ranges) != 1 or ranges[0].size == 0 or ranges[0].containerID != 0:
            raise InvalidArgument(
                "must be one range that starts at container_id 0 and has a length of 1 or more",
                field=f"config.{_USERNS_FIELD}.{name}",
            )
        if ranges[0].hostID + ranges[0].size > _IDS:
            raise InvalidArgument(
                f"must end at id {_IDS - 1} of the node, the last one, or before",
                field=f"config.{_USERNS_FIELD}.{name}",
            )
    return uids, gids
