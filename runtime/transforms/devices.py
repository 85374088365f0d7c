"""Device nodes of a container, and the rules by which its cgroup allows them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from generated.cri import api_pb2
from generated.items import device
from generated.oci import types
from runtime.errors import CriError
from runtime.transforms.facts import DeviceNode
from runtime.transforms.namespaces import is_own_userns


def container_devices(
    *,
    requested: Sequence[DeviceNode],
    host_devices: Sequence[types.LinuxDevice],
    privileged: bool,
    privileged_without_host_devices: bool,
    device_ownership_from_security_context: bool,
    run_as_user: int | None,
    run_as_group: int | None,
    injected: Sequence[DeviceNode],
    uid: int,
    gid: int,
    base: Sequence[types.LinuxDevice],
    pod_userns_mode: api_pb2.NamespaceMode | None,
) -> list[types.LinuxDevice]:
    """The device nodes to create: those of CDI devices take precedence over requested ones, and
    those over the host's, all of which a privileged container gets.

    With the config key, requested nodes belong to the container's user: otherwise a process that
    is not root could not open the devices its pod was given.
    """
    owner = run_as_user if device_ownership_from_security_context else None
    group = run_as_group if device_ownership_from_security_context else None
    inherited = host_devices if privileged and not privileged_without_host_devices else ()
    by_path = {one.path: one for one in (*base, *inherited)}
    by_path |= {node.device.path: _owned(node.device, owner, group) for node in requested}
    by_path |= {node.device.path: _of_user(node.device, uid, gid) for node in injected}
    for mount in device_mounts((*requested, *injected), pod_userns_mode):
        by_path.pop(mount.destination, None)
    return list(by_path.values())


def device_mounts(
    nodes: Sequence[DeviceNode], pod_userns_mode: api_pb2.NamespaceMode | None
) -> list[types.Mount]:
    """Bind mounts instead of the nodes that the OCI runtime cannot create.

    In a user namespace no process can create a node. runc mounts the host's node instead, but only
    one with the same path.
    """
    renamed = [node for node in nodes if node.host_path and node.host_path != node.device.path]
    if not renamed or not is_own_userns(pod_userns_mode):
        return []
    return [
        types.Mount(
            destination=node.device.path,
            type="bind",
            source=node.host_path,
            options=["bind", "rprivate", "nosuid", "noexec", "rw"],
        )
        for node in renamed
    ]


def device_rules(
    *,
    devices: Sequence[api_pb2.Device],
    nodes: Sequence[Sequence[DeviceNode]],
    privileged: bool,
    privileged_without_host_devices: bool,
    privileged_without_host_devices_all_devices_allowed: bool,
    injected: Sequence[types.LinuxDeviceCgroup],
) -> list[types.LinuxDeviceCgroup]:
    """Exceptions to the default spec's rule that denies everything, in order: for a privileged
    container everything, then the nodes of each requested device, by the entries of CRI
    ``Device``, then those of CDI devices."""
    everything = privileged and (
        not privileged_without_host_devices or privileged_without_host_devices_all_devices_allowed
    )
    return [
        *([types.LinuxDeviceCgroup(allow=True, access="rwm")] if everything else []),
        *_requested_rules(devices, nodes),
        *injected,
    ]


def _requested_rules(
    devices: Sequence[api_pb2.Device], nodes: Sequence[Sequence[DeviceNode]]
) -> Iterator[types.LinuxDeviceCgroup]:
    for index, (message, found) in enumerate(zip(devices, nodes, strict=True)):
        for node in found:
            try:
                yield device.linux_resources_devices_item(message, device_node=node)
            except CriError as error:
                raise error.inside(f"config.devices[{index}]") from error


def _of_user(node: types.LinuxDevice, uid: int, gid: int) -> types.LinuxDevice:
    """The device node, owned by the container's user unless its CDI spec names an owner."""
    return replace(
        node,
        uid=node.uid if node.uid is not None else uid or None,
        gid=node.gid if node.gid is not None else gid or None,
    )


def _owned(node: types.LinuxDevice, uid: int | None, gid: int | None) -> types.LinuxDevice:
    """The node with the given owner; root or no owner keeps the host's owner."""
    return replace(node, uid=uid or node.uid, gid=gid or node.gid)
