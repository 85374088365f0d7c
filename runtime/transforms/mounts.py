"""The mounts of a container, their order and options.

Three groups, later ones over earlier ones: those of the default spec (proc, dev, sys, cgroup), the
pod's files (hostname, hosts, resolv.conf, shared memory) with the image's volumes, and the
requested mounts. A request may replace anything: its mount removes an earlier one at the same
place.
"""

from __future__ import annotations

import posixpath
from collections.abc import Iterable, Sequence
from dataclasses import replace

from generated.cri import api_pb2
from generated.items import id_mapping
from generated.oci import types
from generated.oci.defaults import container_spec, sandbox_spec
from runtime.errors import InvalidArgument, RecursiveReadOnlyUnsupported
from runtime.transforms.facts import MountSource, SandboxFiles, Volume
from runtime.transforms.namespaces import gid_mappings, uid_mappings

_PROPAGATION = {
    api_pb2.PROPAGATION_PRIVATE: "rprivate",
    api_pb2.PROPAGATION_HOST_TO_CONTAINER: "rslave",
    api_pb2.PROPAGATION_BIDIRECTIONAL: "rshared",
}
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
    sandbox_options: api_pb2.NamespaceOption | None,
    cgroup_writable: bool,
    cgroup_unified: bool,
    cgroup_mount_options: Sequence[str],
    recursive_read_only: bool,
    user_namespaces_problem: str,
    injected: Sequence[types.Mount],
    base: Sequence[types.Mount] | None,
) -> list[types.Mount]:
    """All mounts of an application container; those of CDI devices take precedence."""
    asked = [
        requested_mount(
            index,
            mount,
            source,
            recursive_read_only=recursive_read_only,
            idmap_problem=user_namespaces_problem,
        )
        for index, (mount, source) in enumerate(zip(requested, sources, strict=True))
    ]
    taken = {posixpath.normpath(mount.destination) for mount in asked}
    given = [
        mount
        for mount in (*_pod_files(files, readonly_rootfs), *map(_volume, volumes))
        if posixpath.normpath(mount.destination) not in taken
    ]
    # deeper mounts come later, so that no mount hides another
    ordered = sorted([*asked, *given], key=lambda mount: _depth(mount.destination))
    cgroup_options = cgroup_mount_options if cgroup_unified and privileged else ()
    system = (
        _system(
            mount,
            writable=privileged or (cgroup_writable and mount.destination == _CGROUP),
            on_node_in_userns=_on_node_in_userns(sandbox_options),
            cgroup_options=cgroup_options,
        )
        for mount in (container_spec().mounts if base is None else base)
    )
    mounts = [*_not_covered(system, ordered), *ordered]
    return _with_devices(mounts, injected, sandbox_options) if injected else mounts


def _with_devices(
    mounts: Sequence[types.Mount],
    injected: Sequence[types.Mount],
    sandbox_options: api_pb2.NamespaceOption | None,
) -> list[types.Mount]:
    """The mounts of CDI devices, which replace those with the same destination, ordered by depth.

    In a pod with a user namespace, the IDs of bind mounts are mapped like the pod's.
    """
    destinations = {mount.destination for mount in injected}
    kept = [mount for mount in mounts if mount.destination not in destinations]
    last = {mount.destination: mount for mount in injected}  # one for each place, the last wins
    uids = uid_mappings(namespace_options=sandbox_options) or []
    gids = gid_mappings(namespace_options=sandbox_options) or []
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
    namespace_options: api_pb2.NamespaceOption | None,
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
            on_node_in_userns=_on_node_in_userns(namespace_options),
            cgroup_options=(),
        )
        for mount in sandbox_spec().mounts
    )
    return [*system, *given]


def rootfs_propagation(*, requested: Sequence[api_pb2.Mount]) -> str | None:
    """The propagation of the root that the mounts below it need."""
    wanted = {mount.propagation for mount in requested}
    if api_pb2.PROPAGATION_BIDIRECTIONAL in wanted:
        return "rshared"
    return "rslave" if api_pb2.PROPAGATION_HOST_TO_CONTAINER in wanted else None


def requested_mount(
    index: int,
    mount: api_pb2.Mount,
    source: MountSource,
    *,
    recursive_read_only: bool,
    idmap_problem: str,
) -> types.Mount:
    """One requested mount; raises InvalidArgument if the node or the handler does not support it.

    ``idmap_problem`` is why this handler maps no IDs, empty if it does.
    """
    field = f"config.mounts[{index}]"
    uids, gids = id_mapping.items(mount.uidMappings), id_mapping.items(mount.gidMappings)
    problem = idmap_problem or source.idmap_problem
    if uids and problem:
        raise InvalidArgument(
            f"cannot map the IDs of a mount of {source.path}: {problem}",
            field=f"{field}.uidMappings",
        )
    return types.Mount(
        destination=mount.container_path,
        type="bind",
        source=source.path,
        options=[
            "rbind",
            propagation(mount=mount, source=source, field=field),
            mode(mount=mount, supported=recursive_read_only, field=field),
        ],
        uidMappings=uids,
        gidMappings=gids,
    )


def propagation(*, mount: api_pb2.Mount, source: MountSource, field: str) -> str:
    """The mount option for ``propagation``, which the source's own mount must allow."""
    if mount.propagation == api_pb2.PROPAGATION_BIDIRECTIONAL and not source.shared:
        raise InvalidArgument(
            f"BIDIRECTIONAL needs a source on a shared mount, but {source.path} is on none;"
            " make it one with: mount --make-rshared",
            field=f"{field}.propagation",
        )
    if mount.propagation == api_pb2.PROPAGATION_HOST_TO_CONTAINER and not (
        source.shared or source.slave
    ):
        raise InvalidArgument(
            f"HOST_TO_CONTAINER needs a source on a shared or slave mount, and {source.path} is on"
            " none; make it one with: mount --make-rshared",
            field=f"{field}.propagation",
        )
    return _PROPAGATION[mount.propagation]


def mode(*, mount: api_pb2.Mount, supported: bool, field: str) -> str:
    """The mount option for ``readonly`` and ``recursive_read_only``.

    The kubelet looks for the word RROUnsupported at the beginning of an error.
    """
    if not mount.recursive_read_only:
        return "ro" if mount.readonly else "rw"
    path = f"{field}.recursive_read_only"
    if not mount.readonly:
        raise InvalidArgument("RROUnsupported: requires readonly", field=path)
    if mount.propagation != api_pb2.PROPAGATION_PRIVATE:
        raise InvalidArgument("RROUnsupported: requires PROPAGATION_PRIVATE", field=path)
    if not supported:
        raise RecursiveReadOnlyUnsupported(
            "the kernel or the OCI runtime of this handler does not support it (see the features"
            " in Status)",
            field=path,
        )
    return "rro"


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


def _on_node_in_userns(options: api_pb2.NamespaceOption | None) -> bool:
    """Whether the pod shares the node's network but not its user namespace."""
    return (
        options is not None
        and options.network == api_pb2.NODE
        and options.HasField("userns_options")
        and options.userns_options.mode == api_pb2.POD
    )


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
