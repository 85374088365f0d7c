"""The place of a container in the cgroup tree."""

from __future__ import annotations

import posixpath

from generated.cri import api_pb2
from runtime.errors import InvalidArgument
from runtime.transforms.paths import why_too_long

_PREFIX = "cri-containerd"
"""Prefix of the scopes of the systemd driver (``cri-containerd-<id>.scope``), as in the built-in
plugin: tools on nodes look for it."""


_LONGEST = 3840
"""Maximum bytes of a pod's cgroup: what a path of the kernel leaves beside the mount point, the
container's own cgroup and the name of a file."""


def cgroups_path(*, cgroup_parent: str, id: str, systemd_cgroup: bool) -> str:
    """The cgroup of a container below its pod's, in the format of the handler's cgroup driver.

    The kubelet selects the driver by the parent's format: a slice means systemd, for which runc
    takes ``slice:prefix:name``. Without a parent the driver's own default is used.
    """
    if ".." in cgroup_parent.split("/"):
        raise InvalidArgument(
            f'must not contain "..", but is {cgroup_parent!r}',
            field="config.linux.cgroup_parent",
        )
    if problem := why_too_long(_directory(cgroup_parent), longest=_LONGEST):
        raise InvalidArgument(problem, field="config.linux.cgroup_parent")
    root = cgroup_parent.strip("/") == "" != cgroup_parent
    cgroup_parent = cgroup_parent.rstrip("/")
    parent = posixpath.basename(cgroup_parent)
    if parent.endswith(".slice"):
        return f"{parent}:{_PREFIX}:{id}"
    if not systemd_cgroup:
        return posixpath.join("/", cgroup_parent or ("/" if root else "/k8s.io"), id)
    if cgroup_parent:
        raise InvalidArgument(
            f"must end in .slice, not {cgroup_parent!r}: this runtime handler has"
            " SystemdCgroup = true; give the kubelet the same cgroup driver",
            field="config.linux.cgroup_parent",
        )
    return f"system.slice:{_PREFIX}:{id}"


def _directory(cgroup_parent: str) -> str:
    """The directory of the pod's cgroup: each dash in a slice is a level (systemd.slice(5))."""
    name = posixpath.basename(cgroup_parent.rstrip("/"))
    if not name.endswith(".slice"):
        return cgroup_parent
    parts = name.removesuffix(".slice").split("-")
    return "/".join(f"{'-'.join(parts[: count + 1])}.slice" for count in range(len(parts)))


def driver(*, systemd_cgroup: bool) -> api_pb2.CgroupDriver:
    """The cgroup driver of a handler; the kubelet must use the same."""
    return api_pb2.SYSTEMD if systemd_cgroup else api_pb2.CGROUPFS
