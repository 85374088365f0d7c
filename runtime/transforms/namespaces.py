"""The namespaces that a container creates or joins."""

from __future__ import annotations

from collections.abc import Sequence

from generated.cri import api_pb2
from generated.oci import types
from runtime.errors import InvalidArgument

_OPTIONS_FIELD = "config.linux.security_context.namespace_options"
_USERNS_FIELD = f"{_OPTIONS_FIELD}.userns_options"

_IDS = (1 << 32) - 1
"""How many ids the kernel has; the last number of 32 bits means no id."""


def network_of_pod(
    *, network: api_pb2.NamespaceMode, netns_path: str
) -> list[types.LinuxNamespace]:
    """The pod's own network namespace and host name; nothing for the node's.

    A host-network pod also keeps the node's host name, by sharing its UTS namespace: a different
    name would not resolve to anything.
    """
    if network == api_pb2.NODE:
        return []
    return [
        types.LinuxNamespace(type="uts"),
        types.LinuxNamespace(type="network", path=netns_path or None),
    ]


def pid_of_pod(*, pid: api_pb2.NamespaceMode) -> list[types.LinuxNamespace]:
    """A PID namespace for the pause process; nothing for the node's."""
    return [] if pid == api_pb2.NODE else [types.LinuxNamespace(type="pid")]


def ipc_of_pod(*, ipc: api_pb2.NamespaceMode) -> list[types.LinuxNamespace]:
    """The pod's own IPC namespace; nothing for the node's."""
    return [] if ipc == api_pb2.NODE else [types.LinuxNamespace(type="ipc")]


def user_of_pod(
    *, mode: api_pb2.NamespaceMode, userns_path: str, user_namespaces_problem: str
) -> list[types.LinuxNamespace]:
    """The pod's own user namespace; nothing for the node's.

    Raises InvalidArgument if the handler cannot have one.
    """
    if not is_own_userns(mode):
        return []
    if user_namespaces_problem:
        raise unsupported(user_namespaces_problem)
    return [types.LinuxNamespace(type="user", path=userns_path or None)]


def is_own_userns(mode: api_pb2.NamespaceMode | None) -> bool:
    """Whether a pod has a user namespace of its own; ``mode`` is None if it has no
    ``userns_options``."""
    return mode == api_pb2.POD


def container_namespaces(
    *,
    pid: api_pb2.NamespaceMode,
    target_id: str,
    target_pid: int,
    userns_mode: api_pb2.NamespaceMode | None,
    pod_userns_mode: api_pb2.NamespaceMode | None,
    pause_pid: int,
    privileged: bool,
    cgroup_unified: bool,
) -> list[types.LinuxNamespace]:
    """An application container's namespaces: the pod's, but its own mounts and possibly PIDs.

    If the pod shares a namespace of the node, so does the pause process, so joining it is right for
    NODE too. A privileged container manages the node's cgroups, so it does not get a cgroup
    namespace.
    """
    found = [
        _pid_of_container(pid, target_id, target_pid, pause_pid),
        types.LinuxNamespace(type="ipc", path=f"/proc/{pause_pid}/ns/ipc"),
        types.LinuxNamespace(type="uts", path=f"/proc/{pause_pid}/ns/uts"),
        types.LinuxNamespace(type="mount"),
        types.LinuxNamespace(type="network", path=f"/proc/{pause_pid}/ns/net"),
    ]
    if is_own_userns(userns_mode) != is_own_userns(pod_userns_mode):
        raise _not_the_pods()
    if is_own_userns(pod_userns_mode):
        found.append(types.LinuxNamespace(type="user", path=f"/proc/{pause_pid}/ns/user"))
    if cgroup_unified and not privileged:
        found.append(types.LinuxNamespace(type="cgroup"))
    return found


def _pid_of_container(
    pid: api_pb2.NamespaceMode, target_id: str, target_pid: int, pause_pid: int
) -> types.LinuxNamespace:
    if pid == api_pb2.CONTAINER:
        return types.LinuxNamespace(type="pid")
    if pid != api_pb2.TARGET:
        return types.LinuxNamespace(type="pid", path=f"/proc/{pause_pid}/ns/pid")
    if not target_pid:
        raise InvalidArgument(
            f"container {target_id!r} must be running in the same pod",
            field=f"{_OPTIONS_FIELD}.target_id",
        )
    return types.LinuxNamespace(type="pid", path=f"/proc/{target_pid}/ns/pid")


def uid_mappings(
    *, mode: api_pb2.NamespaceMode, uids: Sequence[types.LinuxIDMapping]
) -> list[types.LinuxIDMapping]:
    """The user IDs of the pod's user namespace; empty without one.

    Raises InvalidArgument for ranges that the CRI does not allow.
    """
    return _range(mode, uids, "uids")


def gid_mappings(
    *, mode: api_pb2.NamespaceMode, gids: Sequence[types.LinuxIDMapping]
) -> list[types.LinuxIDMapping]:
    """As `uid_mappings`, for groups."""
    return _range(mode, gids, "gids")


def _range(
    mode: api_pb2.NamespaceMode, ranges: Sequence[types.LinuxIDMapping], field: str
) -> list[types.LinuxIDMapping]:
    field = f"{_USERNS_FIELD}.{field}"
    if not is_own_userns(mode):
        if ranges:
            raise InvalidArgument("must be empty with mode NODE", field=field)
        return []
    if len(ranges) != 1 or ranges[0].size == 0 or ranges[0].containerID != 0:
        raise InvalidArgument(
            "must be one range that starts at container_id 0 and has a length of 1 or more",
            field=field,
        )
    if ranges[0].hostID + ranges[0].size > _IDS:
        raise InvalidArgument(
            f"must end at ID {_IDS - 1} of the node, the last one, or before", field=field
        )
    return list(ranges)


def joined_mappings(
    *, own: Sequence[types.LinuxIDMapping], of_pod: Sequence[types.LinuxIDMapping]
) -> list[types.LinuxIDMapping]:
    """The IDs of the user namespace that a container joins: its pod's, and the request must say
    the same."""
    if list(own) != list(of_pod):
        raise _not_the_pods()
    return list(of_pod)


def uid_mapping(
    *,
    mode: api_pb2.NamespaceMode | None,
    uids: Sequence[types.LinuxIDMapping],
    pid: api_pb2.NamespaceMode,
    ipc: api_pb2.NamespaceMode,
) -> str:
    """The user ids of the pod's user namespace as containerd's snapshot labels have them; empty
    without one.

    Raises InvalidArgument for a pod that cannot have one.
    """
    if mode is None:
        return ""
    for name, shared in (("pid", pid), ("ipc", ipc)):
        if is_own_userns(mode) and shared == api_pb2.NODE:
            raise InvalidArgument(
                "must not be NODE in a pod with a user namespace: the kernel does not let its root"
                f" mount what belongs to the node's {name} namespace",
                field=f"{_OPTIONS_FIELD}.{name}",
            )
    return mapping_label(uid_mappings(mode=mode, uids=uids))


def gid_mapping(*, mode: api_pb2.NamespaceMode | None, gids: Sequence[types.LinuxIDMapping]) -> str:
    """As `uid_mapping`, for groups."""
    return "" if mode is None else mapping_label(gid_mappings(mode=mode, gids=gids))


def joined_mapping(*, of_pod: Sequence[types.LinuxIDMapping]) -> str:
    """The IDs of the pod's user namespace, for a container, in the format of `uid_mapping`."""
    return mapping_label(of_pod)


def mapping_label(ranges: Sequence[types.LinuxIDMapping]) -> str:
    """``inside:outside:count`` for each range, the format of containerd's snapshot labels."""
    return ",".join(f"{one.containerID}:{one.hostID}:{one.size}" for one in ranges)


def joins_container(*, mode: api_pb2.NamespaceMode) -> bool:
    """Whether the PID namespace is that of another container of the pod."""
    return mode == api_pb2.TARGET


def unsupported(problem: str) -> InvalidArgument:
    """The refusal of a user namespace that the pod's handler cannot have because of ``problem``."""
    return InvalidArgument(
        f"this runtime handler does not support user namespaces: {problem}", field=_USERNS_FIELD
    )


def _not_the_pods() -> InvalidArgument:
    return InvalidArgument(
        "must be the pod's: a container cannot have a user namespace of its own",
        field=_USERNS_FIELD,
    )
