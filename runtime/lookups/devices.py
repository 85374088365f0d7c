"""Host device nodes of a container: the requested ones, or all if it is privileged."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Sequence
from itertools import count, repeat

from generated.oci import types
from runtime.errors import InvalidArgument
from runtime.steps import threads
from runtime.transforms.facts import DeviceNode, RequestedDevice

_NOT_FOR_CONTAINERS = frozenset(
    {"pts", "shm", "fd", "mqueue", ".lxc", ".lxd-mounts", ".udev", "console"}
)
"""Names that every container has its own of (runc cannot create devpts nodes), or that belong to a
program that manages the host."""


_UNSEEN = (FileNotFoundError, NotADirectoryError, PermissionError)
"""The file was removed meanwhile, or belongs to a user outside a rootless server's namespace."""


_LARGEST_TREE = 100_000
"""Maximum number of files; a walk of the whole root file system would block a thread for
minutes."""


class _TooLarge(Exception):
    """A directory has too many files to be a directory of devices."""


def requested(devices: Sequence[RequestedDevice]) -> tuple[tuple[DeviceNode, ...], ...]:
    """For each of the devices its node, or those below its directory.

    Raises InvalidArgument for a path that does not exist or is not a device.
    """
    return tuple(
        tuple(DeviceNode(node, path) for path, node in _nodes(device, index))
        for index, device in enumerate(devices)
    )


def host_devices(directory: str = "/dev") -> tuple[types.LinuxDevice, ...]:
    """All device nodes of the host that a privileged container gets."""
    return tuple(node for _, node in _below(directory, directory, repeat(0)))


_Found = tuple[str, types.LinuxDevice]
"""A path on the host and its device, whose own path is that in the container."""


def _nodes(device: RequestedDevice, index: int) -> Iterator[_Found]:
    field = f"config.devices[{index}].host_path"
    threads.looking_at(device.host_path)
    try:
        path = os.path.realpath(device.host_path)
        container_path = device.container_path or path
        found = os.lstat(path)
        if stat.S_ISDIR(found.st_mode):
            yield from _below(path, container_path.rstrip("/"), count())
            return
    except OSError as error:
        raise InvalidArgument(f"{device.host_path}: {error.strerror}", field=field) from error
    except _TooLarge as error:
        raise InvalidArgument(
            f"{device.host_path} holds more than {_LARGEST_TREE} files: name the devices",
            field=field,
        ) from error
    node = _device(found, container_path)
    if node is None:
        raise InvalidArgument(f"{device.host_path} is not a device node", field=field)
    yield path, node


def _below(directory: str, container_path: str, seen: Iterator[int]) -> Iterator[_Found]:
    """The device nodes in and below a directory; ``seen`` counts the files, to limit them."""
    try:
        with os.scandir(directory) as listing:
            entries = sorted(listing, key=lambda entry: entry.name)
    except _UNSEEN:
        return
    for entry in entries:
        if next(seen) >= _LARGEST_TREE:
            raise _TooLarge
        if entry.name in _NOT_FOR_CONTAINERS:
            continue
        path = f"{container_path}/{entry.name}"
        if entry.is_dir(follow_symlinks=False):
            yield from _below(entry.path, path, seen)
            continue
        try:
            found = entry.stat(follow_symlinks=False)
        except _UNSEEN:
            continue
        # a FIFO is not a device, but a way to communicate with host processes
        node = _device(found, path)
        if node is not None:
            yield entry.path, node


def _device(found: os.stat_result, path: str) -> types.LinuxDevice | None:
    """The OCI device for a device node; None for other types of files."""
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
