"""The mounts of a container, their order and options.

Three groups, later ones over earlier ones: those of the default spec (proc, dev, sys, cgroup), the
pod's files (hostname, hosts, resolv.conf, shared memory) with the image's volumes, and the
requested mounts. A request may replace anything: its mount removes an earlier one at the same
place.
"""

from __future__ import annotations

import posixpath
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

from generated.cri import api_pb2
from generated.items import mount as mount_items
from generated.oci import types
from generated.oci.defaults import container_spec, sandbox_spec
from runtime.errors import CriError
from runtime.transforms.devices import device_mounts
from runtime.transforms.facts import (
    DeviceNode,
    Handler,
    MountSource,
    RequestedMount,
    SandboxFiles,
    Volume,
)
from runtime.transforms.namespaces import is_own_userns

_HARDENED = ("nosuid", "nodev", "noexec")
_SYSFS, _CGROUP = "/sys", "/sys/fs/cgroup"


def container_mounts(
    *,
    requested: Sequence[api_pb2.Mount],
    sources: Sequence[MountSource],
    volumes: Sequence[Volume],
    files: SandboxFiles,
    readonly_rootfs: bool,
    privileged: bool,
    pod_network: api_pb2.NamespaceMode,
    pod_userns_mode: api_pb2.NamespaceMode | None,
    pod_uids: list[types.LinuxIDMapping],
    pod_gids: list[types.LinuxIDMapping],
    cgroup_unified: bool,
    cgroup_mount_options: Sequence[str],
    handler: Handler,
    injected: Sequence[types.Mount],
    devices: Sequence[DeviceNode],
    injected_devices: Sequence[DeviceNode],
    base: Sequence[types.Mount] | None,
) -> list[types.Mount]:
    """All mounts of an application container; those of CDI devices take precedence."""
    asked = list(_asked(requested, sources, handler))
    taken = {posixpath.normpath(mount.destination) for mount in asked}
    given = [
        mount
        for mount in (
            *_pod_files(files, readonly_rootfs),
            *map(_volume, volumes),
            *device_mounts((*devices, *injected_devices), pod_userns_mode),
        )
        if posixpath.normpath(mount.destination) not in taken
    ]
    # deeper mounts come later, so that no mount hides another
    ordered = sorted([*asked, *given], key=lambda mount: _depth(mount.destination))
    cgroup_options = cgroup_mount_options if cgroup_unified and privileged else ()
    system = (
        _system(
            mount,
            writable=privileged or (handler.cgroup_writable and mount.destination == _CGROUP),
            on_node_in_userns=_on_node_in_userns(pod_network, pod_userns_mode),
            cgroup_options=cgroup_options,
        )
        for mount in (container_spec().mounts if base is None else base)
    )
    mounts = [*_not_covered(system, ordered), *ordered]
    return _with_devices(mounts, injected, pod_uids, pod_gids) if injected else mounts


def _with_devices(
    mounts: Sequence[types.Mount],
    injected: Sequence[types.Mount],
    uids: list[types.LinuxIDMapping],
    gids: list[types.LinuxIDMapping],
) -> list[types.Mount]:
    """The mounts of CDI devices, which replace those with the same destination, ordered by depth.

    In a pod with a user namespace, the IDs of bind mounts are mapped like the pod's.
    """
    destinations = {mount.destination for mount in injected}
    kept = [mount for mount in mounts if mount.destination not in destinations]
    last = {mount.destination: mount for mount in injected}  # one for each place, the last wins
    added = [
        replace(mount, uidMappings=uids, gidMappings=gids) if _is_bind(mount) else mount
        for mount in last.values()
    ]
    return sorted([*kept, *added], key=lambda mount: _depth(mount.destination))


def _is_bind(mount: types.Mount) -> bool:
    return mount.type == "bind" or not {"bind", "rbind"}.isdisjoint(mount.options)


def sandbox_mounts(
    *,
    files: SandboxFiles,
    privileged: bool,
    network: api_pb2.NamespaceMode,
    userns_mode: api_pb2.NamespaceMode | None,
) -> list[types.Mount]:
    """The mounts of the pause container: none is writable, because it writes nothing."""
    given = [
        types.Mount(
            destination=destination,
            type="bind",
            source=source,
            options=["rbind", "ro", *_HARDENED],
        )
        for destination, source in (
            ("/dev/shm", files.shm),
            ("/etc/resolv.conf", files.resolv_conf),
        )
        if source
    ]
    system = (
        _system(
            mount,
            writable=privileged,
            on_node_in_userns=_on_node_in_userns(network, userns_mode),
            cgroup_options=(),
        )
        for mount in sandbox_spec().mounts
    )
    return [*system, *given]


def rootfs_propagation(*, mounts: Sequence[RequestedMount]) -> str | None:
    """The propagation of the root that the mounts below it need."""
    wanted = {mount.propagation for mount in mounts}
    return next((option for option in ("rshared", "rslave") if option in wanted), None)


def _asked(
    requested: Sequence[api_pb2.Mount], sources: Sequence[MountSource], handler: Handler
) -> Iterator[types.Mount]:
    """The mounts of a request, in order, by the entries of CRI ``Mount``."""
    for index, (message, source) in enumerate(zip(requested, sources, strict=True)):
        try:
            yield mount_items.mounts_item(message, handler=handler, mount_source=source)
        except CriError as error:
            raise error.inside(f"config.mounts[{index}]") from error


def _pod_files(files: SandboxFiles, readonly_rootfs: bool) -> Iterable[types.Mount]:
    as_root = "ro" if readonly_rootfs else "rw"
    for destination, source, its_mode in (
        ("/etc/hostname", files.hostname, as_root),
        ("/etc/hosts", files.hosts, as_root),
        ("/etc/resolv.conf", files.resolv_conf, as_root),
        ("/dev/shm", files.shm, "rw"),
    ):
        if source:
            yield _bind(destination, source, its_mode)


def _volume(volume: Volume) -> types.Mount:
    return _bind(volume.container_path, volume.host_path, "rw")


def _bind(destination: str, source: str, mode: str) -> types.Mount:
    return types.Mount(
        destination=destination, type="bind", source=source, options=["rbind", "rprivate", mode]
    )


def _system(
    mount: types.Mount,
    *,
    writable: bool,
    on_node_in_userns: bool,
    cgroup_options: Sequence[str],
) -> types.Mount:
    """A mount of the default spec, adapted to the container."""
    if mount.destination == _SYSFS and on_node_in_userns:
        # in a user namespace, sysfs can only be mounted with a network namespace of its own
        return types.Mount(
            destination=_SYSFS,
            type="bind",
            source=_SYSFS,
            options=["rbind", *_HARDENED, "rro"],
        )
    if mount.destination not in (_SYSFS, _CGROUP):
        return mount
    options = ["rw" if option == "ro" and writable else option for option in mount.options]
    added = cgroup_options if mount.destination == _CGROUP else ()
    return replace(mount, options=[*options, *added])


def _on_node_in_userns(
    network: api_pb2.NamespaceMode, userns_mode: api_pb2.NamespaceMode | None
) -> bool:
    """Whether the pod shares the node's network but not its user namespace."""
    return network == api_pb2.NODE and is_own_userns(userns_mode)


def _not_covered(
    system: Iterable[types.Mount], ordered: Sequence[types.Mount]
) -> list[types.Mount]:
    """The default mounts without those replaced by others: at the same place, or all below /dev if
    /dev is replaced as a whole."""
    taken = {posixpath.normpath(mount.destination) for mount in ordered}
    return [
        mount
        for mount in system
        if mount.destination not in taken
        and not ("/dev" in taken and mount.destination.startswith("/dev/"))
    ]


def _depth(destination: str) -> int:
    return len(posixpath.normpath(destination).strip("/").split("/"))
