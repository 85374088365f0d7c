"""The host side of a container's mounts: made where it is missing, resolved, its propagation known.

These are system calls on paths that may be network mounts which hang, so callers run them in a
thread.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass

from generated.cri import api_pb2
from runtime.errors import InvalidArgument
from runtime.steps import threads
from runtime.transforms.facts import MountSource

_MOUNTINFO = "/proc/self/mountinfo"


@dataclass(frozen=True, slots=True)
class MountPoint:
    """One line of mountinfo, as far as propagation goes."""

    path: str
    shared: bool
    slave: bool


def host_sources(mounts: Sequence[api_pb2.Mount]) -> tuple[MountSource, ...]:
    """The sources of ``mounts``, in order.

    Raises InvalidArgument for a source that can neither be found nor made.
    """
    # a mount that propagates nothing needs no look at a table of thousands of lines
    needs_table = any(mount.propagation != api_pb2.PROPAGATION_PRIVATE for mount in mounts)
    table = read_mount_points() if needs_table else ()
    return tuple(_host_source(index, mount, table) for index, mount in enumerate(mounts))


def read_mount_points() -> tuple[MountPoint, ...]:
    """The mounts that this process sees."""
    with open(_MOUNTINFO, encoding="utf-8", errors="surrogateescape") as file:
        return parse_mount_points(file.read())


def parse_mount_points(text: str) -> tuple[MountPoint, ...]:
    """The mounts in ``text``, the content of /proc/<pid>/mountinfo, in order."""
    points = []
    for line in text.splitlines():
        # id parent dev root mount-point options optional-fields... - type source super-options
        fields = line.partition(" - ")[0].split(" ")
        tags = [tag.partition(":")[0] for tag in fields[6:]]
        points.append(MountPoint(_unescape(fields[4]), "shared" in tags, "master" in tags))
    return tuple(points)


def mount_point_of(path: str, table: Sequence[MountPoint]) -> MountPoint | None:
    """The mount that holds ``path``: the longest mount point above it, the latest of equal ones."""
    best: MountPoint | None = None
    for point in table:
        prefix = point.path.rstrip("/") + "/"
        covers = path == point.path or path.startswith(prefix)
        if covers and (best is None or len(point.path) >= len(best.path)):
            best = point
    return best


def _host_source(index: int, mount: api_pb2.Mount, table: Sequence[MountPoint]) -> MountSource:
    threads.looking_at(mount.host_path)
    try:
        # makedirs and not a look first: a source that appears meanwhile is as good
        if not os.path.exists(mount.host_path):
            os.makedirs(mount.host_path, mode=0o755, exist_ok=True)
        path = os.path.realpath(mount.host_path, strict=True)
    except OSError as error:
        raise InvalidArgument(
            f"cannot use or make the source {mount.host_path}: {error.strerror}",
            field=f"config.mounts[{index}].host_path",
        ) from error
    point = mount_point_of(path, table)
    if point is None:
        return MountSource(path)
    return MountSource(path, point.shared, point.slave)


def _unescape(path: str) -> str:
    """mountinfo writes space, tab, newline and backslash as octal escapes."""
    if "\\" not in path:
        return path
    for character in " \t\n\\":
        path = path.replace(f"\\{ord(character):03o}", character)
    return path
