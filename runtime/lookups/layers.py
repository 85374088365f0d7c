"""Read a few files of a root file system without mounting it.

A snapshot of an overlay snapshotter is a stack of directories. Looking up a file in them takes some
microseconds; mounting them takes a hundred times as long and needs cleanup. Therefore the user
database of an image is read from the directories. The relevant rules of overlayfs:

* the topmost layer that has a name decides its type; directories are merged;
* a character device 0:0 is a whiteout: the name does not exist, whatever lies below;
* an opaque directory (extended attribute ``overlay.opaque``) hides what lies below it.

The layers belong to an image, so their content is untrusted: symbolic links are resolved within the
root file system, component by component, never by the kernel, and only regular files are read, up
to a limit.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from runtime import regular_files
from runtime.errors import FailedPrecondition

if TYPE_CHECKING:
    from generated.containerd import types_pb2

_MAX_SYMLINKS = 40
"""The kernel's limit for one path (MAXSYMLINKS)."""


@dataclass(frozen=True, slots=True)
class _Entry:
    """An entry of the merged view: a directory (one path per layer) or a single file."""

    paths: tuple[str, ...]
    mode: int


@dataclass(frozen=True, slots=True)
class Layers:
    """The merged, read-only view of ``directories``, topmost first."""

    directories: tuple[str, ...]
    opaque_attribute: str = "trusted.overlay.opaque"

    def read_file(self, path: str, *, limit: int) -> bytes | None:
        """The content of the regular file ``path``; None if it does not exist.

        Raises FailedPrecondition if the path is not a regular file, is larger than ``limit`` bytes,
        or has a loop of symbolic links.
        """
        entry = self._resolve(path)
        if entry is None:
            return None
        try:
            return regular_files.read(entry.paths[0], largest=limit, follow=False)
        except regular_files.UnusableFile as error:
            raise FailedPrecondition(f"{path} of the image: {error.strerror}") from error

    def directory(self, path: str) -> str | None:
        """Where the directory ``path`` is on the host, in the topmost layer that has it, without
        symbolic links; None if it is not a directory."""
        entry = self._resolve(path)
        return entry.paths[0] if entry is not None and stat.S_ISDIR(entry.mode) else None

    def is_other(self, path: str) -> bool:
        """Whether ``path`` exists and is not a directory."""
        entry = self._resolve(path)
        return entry is not None and not stat.S_ISDIR(entry.mode)

    def tree(self, path: str) -> Iterator[tuple[str, str]]:
        """The directory ``path`` and everything below it, parents first. Each item is the path
        relative to it ("" for itself), and the path on the host, in the topmost layer that has it.

        Empty if ``path`` is not a directory. Symbolic links below it are not followed.
        """
        entry = self._resolve(path)
        if entry is not None and stat.S_ISDIR(entry.mode):
            yield from self._walk(entry, "")

    def _walk(self, entry: _Entry, relative: str) -> Iterator[tuple[str, str]]:
        yield relative, entry.paths[0]
        if not stat.S_ISDIR(entry.mode):
            return
        names = {name for layer in entry.paths for name in os.listdir(layer)}
        for name in sorted(names):
            child = self._child(entry, name)
            if child is not None:
                yield from self._walk(child, f"{relative}/{name}".lstrip("/"))

    def _resolve(self, path: str) -> _Entry | None:
        root = _Entry(self.directories, stat.S_IFDIR)
        trail = [root]
        pending = path.split("/")[::-1]
        links = 0
        while pending:
            name = pending.pop()
            if name in ("", "."):
                continue
            if name == "..":
                # the parent of the root is the root, as after chroot
                del trail[max(1, len(trail) - 1) :]
                continue
            here = trail[-1]
            if not stat.S_ISDIR(here.mode):
                return None
            entry = self._child(here, name)
            if entry is None:
                return None
            if not stat.S_ISLNK(entry.mode):
                trail.append(entry)
                continue
            links += 1
            if links > _MAX_SYMLINKS:
                raise FailedPrecondition(f"{path} of the image: {os.strerror(errno.ELOOP)}")
            target = os.readlink(entry.paths[0])
            if target.startswith("/"):
                trail = [root]
            pending += target.split("/")[::-1]
        return trail[-1]

    def _child(self, directory: _Entry, name: str) -> _Entry | None:
        merged: list[str] = []
        for layer in directory.paths:
            path = f"{layer}/{name}"
            try:
                found = os.lstat(path)
            except (FileNotFoundError, NotADirectoryError):
                continue
            if stat.S_ISCHR(found.st_mode) and found.st_rdev == 0:
                break
            if not stat.S_ISDIR(found.st_mode):
                if merged:
                    break
                return _Entry((path,), found.st_mode)
            merged.append(path)
            if self._is_opaque(path):
                break
        return _Entry(tuple(merged), stat.S_IFDIR) if merged else None

    def _is_opaque(self, path: str) -> bool:
        try:
            return os.getxattr(path, self.opaque_attribute, follow_symlinks=False) == b"y"
        except OSError:
            return False


def layers_of(mounts: Sequence[types_pb2.Mount]) -> Layers | None:
    """The layers of a snapshot with these ``mounts``; None if the snapshot must be mounted to read
    it (block-device snapshotters, an overlay over another mount)."""
    if len(mounts) != 1:
        return None
    mount = mounts[0]
    if mount.type in ("bind", "rbind"):
        return Layers((mount.source,))
    if mount.type != "overlay":
        return None
    options = _option_values(mount.options)
    lower = options.get("lowerdir", "").split(":")
    upper = options.get("upperdir")
    directories = tuple(d for d in ([upper] if upper else []) + lower if d)
    if not directories or not all(os.path.isabs(d) for d in directories):
        return None
    namespace = "user" if "userxattr" in options else "trusted"
    return Layers(directories, f"{namespace}.overlay.opaque")


def _option_values(options: Iterable[str]) -> dict[str, str]:
    pairs = (option.partition("=") for option in options)
    return {key: value for key, _, value in pairs}
