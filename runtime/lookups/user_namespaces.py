"""Whether this node can run pods with user namespaces, and how their root file systems get their
owners."""

from __future__ import annotations

import errno
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from runtime.containerd.capabilities import Snapshotter
from runtime.linux import kernel, userns

_ANY_IDS: Final = userns.MapLines("0 1 1", "0 1 1")
_REMAPS: Final = "remap-ids"
_ONLY_REMAPS: Final = "only-remap-ids"
"""Capabilities of a snapshotter: it maps owners; it does not allow copies instead."""


@dataclass(frozen=True, slots=True)
class Kernel:
    """What the kernel supports."""

    problem: str = ""
    """Why it cannot create a user namespace for a pod; empty if it can."""
    unmappable: Mapping[str, str] | None = None
    """Directories whose file system cannot be mounted idmapped, with the reason."""


@dataclass(frozen=True, slots=True)
class Support:
    """What a runtime handler supports."""

    problem: str
    """Why its pods cannot have a user namespace, with the remedy; empty if they can."""
    owners_by_copy: bool = False


def lists_idmapped_mounts(features: Mapping[str, Any]) -> bool:
    """Whether an OCI runtime supports user namespaces and idmapped mounts, by its features (OCI
    runtime spec, features.md: ``linux.namespaces``, ``linux.mountExtensions.idmap``)."""
    linux = _object(features, "linux")
    namespaces = linux.get("namespaces")
    idmap = _object(_object(linux, "mountExtensions"), "idmap")
    return isinstance(namespaces, list) and "user" in namespaces and idmap.get("enabled") is True


def probe(directories: list[str]) -> Kernel:
    """Create a user namespace, and try an idmapped mount of each directory. Leaves nothing behind.
    Blocks for some milliseconds."""
    unmappable = {}
    try:
        with userns.held(_ANY_IDS) as namespace:
            descriptor = os.open(namespace, os.O_RDONLY | os.O_CLOEXEC)
        try:
            for directory in directories:
                problem = idmap_problem(directory, descriptor)
                if problem:
                    unmappable[directory] = problem
        finally:
            os.close(descriptor)
    except OSError as error:
        return Kernel(error.strerror or str(error))
    return Kernel(unmappable=unmappable)


def idmap_problem(path: str, user_namespace: int) -> str:
    """Why a mount of ``path`` cannot map IDs; empty if it can. ``user_namespace`` is a file
    descriptor."""
    try:
        kernel.try_idmap(path, user_namespace)
    except OSError as error:
        if error.errno == errno.EINVAL:
            return (
                "its file system cannot be mounted idmapped on this kernel"
                " (ext4, xfs and btrfs can since Linux 5.15, tmpfs since 6.3, NFS cannot)"
            )
        if error.errno == errno.ENOSYS:
            return "idmapped mounts need Linux 5.12 or newer"
        return error.strerror or str(error)
    return ""


def support(features: Mapping[str, Any], found: Kernel, snapshotter: Snapshotter | None) -> Support:
    """What a handler supports, from the features of its OCI runtime, the kernel and the
    snapshotter of its containers (None: the daemon does not list it)."""
    if not lists_idmapped_mounts(features):
        return Support(
            "its OCI runtime has no idmapped mounts (mountExtensions.idmap in its features);"
            " runc 1.2 or newer has, and so does crun 1.9"
        )
    if found.problem:
        return Support(found.problem)
    capabilities = snapshotter.capabilities if snapshotter else frozenset()
    unmappable = (found.unmappable or {}).get(snapshotter.root, "") if snapshotter else ""
    if _REMAPS in capabilities and not unmappable:
        return Support("")
    if _ONLY_REMAPS not in capabilities:
        return Support("", owners_by_copy=True)
    name = snapshotter.name if snapshotter else ""
    return Support(
        f"snapshotter {name} cannot map owners:"
        f" {unmappable or 'it needs Linux 5.19 or newer'}; or set slow_chown = true in"
        f' [plugins."io.containerd.snapshotter.v1.{name}"] of containerd\'s configuration, which'
        " copies every image for each pod"
    )


def _object(parent: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    value = parent.get(key)
    return value if isinstance(value, Mapping) else {}
