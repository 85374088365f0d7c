"""The mounts that this process sees, from /proc/self/mountinfo (proc_pid_mountinfo(5))."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, TextIO

_MOUNTINFO: Final = "/proc/self/mountinfo"
_OCTAL: Final = re.compile(r"\\([0-7]{3})")
_ESCAPED: Final = re.compile(r"[ \t\n\\]")


@dataclass(frozen=True, slots=True)
class Mount:
    """One line of mountinfo."""

    path: str
    """The mount point."""
    kind: str
    """The type of the file system, e.g. ``cgroup2``."""
    options: tuple[str, ...]
    """Options of the file system itself, e.g. ``nsdelegate``."""
    shared: bool
    """Mounts below it reach its peers (``shared:``)."""
    slave: bool
    """Mounts of its master reach it (``master:``)."""


def read() -> tuple[Mount, ...]:
    """The mounts of this process, in mount order."""
    with _opened() as file:
        return parse(file.read())


def _opened() -> TextIO:
    # only "\n" ends a line: the kernel escapes no other line end in a path
    return open(_MOUNTINFO, encoding="utf-8", errors="surrogateescape", newline="\n")


def parse(text: str) -> tuple[Mount, ...]:
    """The mounts in ``text``, the content of a mountinfo file."""
    return tuple(_mount(line) for line in text.split("\n") if line)


def _mount(line: str) -> Mount:
    # id parent dev root mount-point options optional-fields... - type source super-options
    before, _, after = line.partition(" - ")
    fields = before.split(" ")
    tags = [tag.partition(":")[0] for tag in fields[6:]]
    kind, _, options = after.split(" ", 2)
    return Mount(
        path=_unescape(fields[4]),
        kind=kind,
        options=tuple(options.split(",")),
        shared="shared" in tags,
        slave="master" in tags,
    )


def holding(path: str, mounts: Sequence[Mount]) -> Mount | None:
    """The mount that contains ``path``: the longest matching mount point, the latest if equal."""
    best: Mount | None = None
    for mount in mounts:
        covers = path == mount.path or path.startswith(mount.path.rstrip("/") + "/")
        if covers and (best is None or len(mount.path) >= len(best.path)):
            best = mount
    return best


def below(directory: str, mounts: Sequence[Mount]) -> list[str]:
    """The mount points at or below ``directory``, deepest and newest first.

    Unmounting them in this order removes all of them.
    """
    directory = os.path.realpath(directory)
    prefix = directory.rstrip("/") + "/"
    points = [m.path for m in mounts if m.path == directory or m.path.startswith(prefix)]
    return sorted(reversed(points), key=lambda point: -point.count("/"))


def now_below(directory: str) -> list[str]:
    """As `below`, for the mounts of this process.

    Only the lines that mention the directory are parsed: a node has a dozen mounts for each pod.
    """
    directory = os.path.realpath(directory)
    mention = _escape(directory)
    with _opened() as file:
        lines = [line for line in file if mention in line]
    return below(directory, parse("".join(lines)))


def _escape(path: str) -> str:
    """A path as in the file."""
    return _ESCAPED.sub(lambda match: f"\\{ord(match[0]):03o}", path)


def _unescape(path: str) -> str:
    """Undo the octal escapes (space, tab, line end, backslash)."""
    return _OCTAL.sub(lambda match: chr(int(match[1], 8)), path) if "\\" in path else path
