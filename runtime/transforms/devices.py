"""Device nodes of a container, and the rules by which its cgroup allows them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from generated.cri import api_pb2
from generated.oci import types
from runtime.errors import InvalidArgument
from runtime.transforms.facts import DeviceNode, RequestedDevice
from runtime.transforms.namespaces import is_own_userns


def wanted(*, devices: Sequence[api_pb2.Device]) -> list[RequestedDevice]:
    """What is looked up on the node for the devices, in their order."""
    return [
        RequestedDevice(device.host_path, device.container_path, device.permissions)
        for device in devices
    ]


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
    by_path = {device.path: device for device in (*base, *inherited)}
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
    requested: Sequence[DeviceNode],
    privileged: bool,
    privileged_without_host_devices: bool,
    privileged_without_host_devices_all_devices_allowed: bool,
    injected: Sequence[DeviceNode],
) -> list[types.LinuxDeviceCgroup]:
    """Exceptions to the default spec's rule that denies everything, in order.

    Raises InvalidArgument for permissions other than read, write and mknod.
    """
    for node in requested:
        if not set(node.permissions) <= set("rwm"):
            raise InvalidArgument(
                f"must consist of r, w and m, not {node.permissions!r}",
                field="config.devices.permissions",
            )
    everything = privileged and (
        not privileged_without_host_devices or privileged_without_host_devices_all_devices_allowed
    )
    rules = [types.LinuxDeviceCgroup(allow=True, access="rwm")] if everything else []
    return rules + [
        types.LinuxDeviceCgroup(
            allow=True,
            type=node.device.type,
            major=node.device.major,
            minor=node.device.minor,
            access=node.permissions,
        )
        for node in (*requested, *injected)
        if node.permissions
    ]


def _of_user(device: types.LinuxDevice, uid: int, gid: int) -> types.LinuxDevice:
    """The device node, owned by the container's user unless its CDI spec names an owner."""
    return replace(
        device,
        uid=device.uid if device.uid is not None else uid or None,
        gid=device.gid if device.gid is not None else gid or None,
    )


def _owned(device: types.LinuxDevice, uid: int | None, gid: int | None) -> types.LinuxDevice:
    """The node with the given owner; root or no owner keeps the host's owner."""
    return replace(device, uid=uid or device.uid, gid=gid or device.gid)
