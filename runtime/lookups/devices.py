"""Device nodes of the host that a container gets: those it names, or all when it is privileged."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Sequence

from generated.cri import api_pb2
from generated.oci import types
from runtime.errors import InvalidArgument
from runtime.steps import threads
from runtime.transforms.facts import DeviceNode

_NOT_FOR_CONTAINERS = frozenset(
    {"pts", "shm", "fd", "mqueue", ".lxc", ".lxd-mounts", ".udev", "console"}
)
"""What every container has its own of (runc cannot make nodes of devpts), or what belongs to a
program that manages the host."""


def requested(devices: Sequence[api_pb2.Device]) -> tuple[DeviceNode, ...]:
    """The nodes that the entries of ``ContainerConfig.devices`` name, directories walked.

    Raises InvalidArgument for a path that is missing or no device.
    """
    nodes: list[DeviceNode] = []
    for index, device in enumerate(devices):
        found = list(_nodes(device, index))
        nodes += [DeviceNode(node, device.permissions) for node in found]
    return tuple(nodes)


def host_devices(directory: str = "/dev") -> tuple[types.LinuxDevice, ...]:
    """All device nodes of the host that a privileged container gets."""
    return tuple(_below(directory, directory, skip=_NOT_FOR_CONTAINERS))


def _nodes(device: api_pb2.Device, index: int) -> Iterator[types.LinuxDevice]:
    field = f"config.devices[{index}].host_path"
    threads.looking_at(device.host_path)
    path = os.path.realpath(device.host_path)
    container_path = device.container_path or path
    try:
        found = os.lstat(path)
    except OSError as error:
        raise InvalidArgument(f"{device.host_path}: {error.strerror}", field=field) from error
    if stat.S_ISDIR(found.st_mode):
        yield from _below(path, container_path.rstrip("/"), skip=_NOT_FOR_CONTAINERS)
        return
    node = _device(found, container_path)
    if node is None:
        raise InvalidArgument(f"{device.host_path} is not a device node", field=field)
    yield node


def _below(
    directory: str, container_path: str, *, skip: frozenset[str]
) -> Iterator[types.LinuxDevice]:
    try:
        listing = os.scandir(directory)
    except (FileNotFoundError, PermissionError):
        # gone meanwhile, or of another user than those of a rootless server's user namespace
        return
    with listing as entries:
        for entry in sorted(entries, key=lambda entry: entry.name):
            if entry.name in skip:
                continue
            path = f"{container_path}/{entry.name}"
            if entry.is_dir(follow_symlinks=False):
                yield from _below(entry.path, path, skip=skip)
                continue
            try:
                found = entry.stat(follow_symlinks=False)
            except (FileNotFoundError, PermissionError):
                continue
            # FIFOs are files to talk with the host's processes, not devices
            node = _device(found, path)
            if node is not None:
                yield node


def _device(found: os.stat_result, path: str) -> types.LinuxDevice | None:
    """The OCI device for a node; None for any other kind of file."""
    if stat.S_ISBLK(found.st_mode):
        kind = "b"
    elif stat.S_ISCHR(found.st_mode):
        kind = "c"
    else:
        return None
    return types.LinuxDevice(
        path=path,
        type=kind,
        major=os.major(found.st_rdev),
        minor=os.minor(found.st_rdev),
        fileMode=stat.S_IMODE(found.st_mode),
        uid=found.st_uid,
        gid=found.st_gid,
    )
