"""The requested mounts: the lookups they need, and one of them as an OCI mount.

Errors of one mount name their field within it.
"""

from __future__ import annotations

from collections.abc import Sequence

from generated.cri import api_pb2
from generated.oci import types
from runtime.errors import InvalidArgument, RecursiveReadOnlyUnsupported
from runtime.transforms.facts import ImageMount, RequestedMount

_PROPAGATION = {
    api_pb2.PROPAGATION_PRIVATE: "rprivate",
    api_pb2.PROPAGATION_HOST_TO_CONTAINER: "rslave",
    api_pb2.PROPAGATION_BIDIRECTIONAL: "rshared",
}


def image(*, image: str | None) -> str | None:
    """The image that is mounted; None for a host path."""
    return image


def images(*, mounts: Sequence[RequestedMount]) -> list[ImageMount]:
    """The mounts whose source is an image instead of a host path."""
    return [
        _image(ImageMount(index, mount.image, mount.sub_path, mount.uid_map, mount.gid_map))
        for index, mount in enumerate(mounts)
        if mount.image is not None
    ]


def _image(found: ImageMount) -> ImageMount:
    if not found.reference:
        raise InvalidArgument("must name an image", field=f"{found.field}.image.image")
    if found.sub_path.startswith("/") or ".." in found.sub_path.split("/"):
        raise InvalidArgument(
            f"must be a path below the image's root without '..', not {found.sub_path!r}",
            field=f"{found.field}.image_sub_path",
        )
    return found


def id_map(*, mappings: list[types.LinuxIDMapping]) -> str:
    """In the format of /proc/PID/uid_map."""
    return "\n".join(f"{ids.containerID} {ids.hostID} {ids.size}" for ids in mappings)


def propagation_option(*, propagation: api_pb2.MountPropagation) -> str:
    """The mount option for the propagation."""
    return _PROPAGATION[propagation]


def kind() -> str:
    """A requested mount is always a bind mount."""
    return "bind"


def options(
    *,
    readonly: bool,
    recursive_read_only: bool,
    propagation: api_pb2.MountPropagation,
    path: str,
    shared: bool,
    slave: bool,
    supports_recursive_read_only: bool,
) -> list[str]:
    """The mount options: with all mounts below the source, its propagation, and whether it can be
    written to. ``path``, ``shared`` and ``slave`` are those of the source."""
    return [
        "rbind",
        _propagation(propagation, path, shared, slave),
        _mode(readonly, recursive_read_only, propagation, supports_recursive_read_only),
    ]


def mapped_ids(
    *,
    mappings: list[types.LinuxIDMapping],
    is_mapped: bool,
    user_namespaces_problem: str,
    idmap_problem: str,
    path: str,
) -> list[types.LinuxIDMapping]:
    """The ID mappings of an idmapped mount of ``path``.

    Empty if ``path`` shows the mapped IDs already, as an image that is mounted on the node does.
    The problems say why the handler, or the file system of ``path``, cannot map IDs; "" if they
    can.
    """
    if is_mapped:
        return []
    problem = user_namespaces_problem or idmap_problem
    if mappings and problem:
        raise InvalidArgument(
            f"cannot map the IDs of a mount of {path}: {problem}", field="uidMappings"
        )
    return mappings


def _propagation(
    propagation: api_pb2.MountPropagation, path: str, shared: bool, slave: bool
) -> str:
    """The option for the propagation, which the source's own mount must allow."""
    if propagation == api_pb2.PROPAGATION_BIDIRECTIONAL and not shared:
        raise InvalidArgument(
            f"BIDIRECTIONAL needs a source on a shared mount, but {path} is on none;"
            " make it one with: mount --make-rshared",
            field="propagation",
        )
    if propagation == api_pb2.PROPAGATION_HOST_TO_CONTAINER and not (shared or slave):
        raise InvalidArgument(
            f"HOST_TO_CONTAINER needs a source on a shared or slave mount, and {path} is on"
            " none; make it one with: mount --make-rshared",
            field="propagation",
        )
    return propagation_option(propagation=propagation)


def _mode(
    readonly: bool,
    recursive_read_only: bool,
    propagation: api_pb2.MountPropagation,
    supported: bool,
) -> str:
    """The option for ``readonly`` and ``recursive_read_only``.

    The kubelet looks for the word RROUnsupported at the beginning of an error.
    """
    if not recursive_read_only:
        return "ro" if readonly else "rw"
    if not readonly:
        raise InvalidArgument("RROUnsupported: requires readonly", field="recursive_read_only")
    if propagation != api_pb2.PROPAGATION_PRIVATE:
        raise InvalidArgument(
            "RROUnsupported: requires PROPAGATION_PRIVATE", field="recursive_read_only"
        )
    if not supported:
        raise RecursiveReadOnlyUnsupported(
            "the kernel or the OCI runtime of this handler does not support it (see the features"
            " in Status)",
            field="recursive_read_only",
        )
    return "rro"
