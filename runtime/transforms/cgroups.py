"""Where in the cgroup tree a container is."""

from __future__ import annotations

import posixpath

from generated.cri import api_pb2
from runtime.errors import InvalidArgument

_PREFIX = "cri-containerd"
"""Names the scopes of the systemd driver (``cri-containerd-<id>.scope``), as the built-in plugin
does: tools on nodes look for it."""


def cgroups_path(*, cgroup_parent: str, id: str, systemd_cgroup: bool) -> str:
    """The cgroup of a container below its pod's, in the form of the driver that makes it.

    The kubelet tells the driver by the parent's form: a slice is systemd's, and runc takes
    ``slice:prefix:name`` for it. Without a parent the driver's own default is taken.
    """
    if ".." in cgroup_parent.split("/"):
        raise InvalidArgument(
            f'must not climb with "..", but is {cgroup_parent!r}',
            field="config.linux.cgroup_parent",
        )
    cgroup_parent = cgroup_parent.rstrip("/")
    parent = posixpath.basename(cgroup_parent)
    if parent.endswith(".slice"):
        return f"{parent}:{_PREFIX}:{id}"
    if not systemd_cgroup:
        return posixpath.join("/", cgroup_parent or "/k8s.io", id)
    if cgroup_parent:
        raise InvalidArgument(
            f"must end in .slice, not {cgroup_parent!r}: this runtime handler has"
            " SystemdCgroup = true; give the kubelet the same cgroup driver",
            field="config.linux.cgroup_parent",
        )
    return f"system.slice:{_PREFIX}:{id}"


def driver(*, systemd_cgroup: bool) -> api_pb2.CgroupDriver:
    """Who makes cgroups for a handler; the kubelet must share it."""
    return api_pb2.SYSTEMD if systemd_cgroup else api_pb2.CGROUPFS
