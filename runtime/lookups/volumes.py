"""The VOLUMEs of an image: one host directory each, filled with the image's content of that path.

Kubernetes does not manage them, so they are in the container's root directory and removed with it.
"""

from __future__ import annotations

import os
import secrets
import shutil
import stat
from collections.abc import Iterable, Sequence
from pathlib import Path

import structlog

from runtime.errors import FailedPrecondition
from runtime.linux import owners
from runtime.lookups.layers import Layers
from runtime.transforms.facts import Volume
from runtime.transforms.id_maps import IdMaps

log = structlog.get_logger(__name__)

_NAME_LIMIT = 255
"""Bytes of the longest name of a file."""

_NOT_COPIED = ("security.selinux", "trusted.overlay.", "user.overlay.")
"""Attributes that must not be copied: SELinux labels, and overlayfs' own attributes."""


def uncovered(
    volumes: Iterable[str], mount_points: Iterable[str], container_root: Path
) -> tuple[Volume, ...]:
    """A directory below ``container_root`` for each volume that no requested mount covers.

    ``mount_points`` are the paths of the requested mounts in the container.

    Only chooses the paths; ``fill`` creates the directories.
    """
    covered = {os.path.normpath(path) for path in mount_points}
    paths = [os.path.normpath(f"/{path.lstrip('/')}") for path in volumes]
    return tuple(
        Volume(path, str(container_root / "volumes" / secrets.token_hex(16)))
        for path in paths
        if path not in covered
    )


def fill(volumes: Sequence[Volume], root: Layers, maps: IdMaps | None = None) -> None:
    """Create the directories and copy the image's content, including owners and attributes.

    In a pod with a user namespace, ``maps`` gives its ids: the copies belong to those of the node.
    Blocks, because files can be large. Raises FailedPrecondition for a volume that is a file in the
    image, or has an impossible name.
    """
    for volume in volumes:
        if any(len(os.fsencode(name)) > _NAME_LIMIT for name in volume.container_path.split("/")):
            raise FailedPrecondition(
                f"VOLUME {volume.container_path[:80]}… of the image has a name of more than"
                f" {_NAME_LIMIT} bytes, which no file can have; fix the image"
            )
        if root.is_other(volume.container_path):
            raise FailedPrecondition(
                f"VOLUME {volume.container_path} of the image is not a directory there; mount a"
                " volume at this path, or fix the image"
            )
        os.makedirs(volume.host_path, mode=0o755)
        if maps is not None:
            os.chown(volume.host_path, *maps.root)
        _copy(volume, root, maps)


def _copy(volume: Volume, root: Layers, maps: IdMaps | None) -> None:
    linked: dict[tuple[int, int], str] = {}
    directories: list[tuple[str, os.stat_result]] = []
    for relative, source in root.tree(volume.container_path):
        target = f"{volume.host_path}/{relative}".rstrip("/")
        found = os.lstat(source)
        inode = (found.st_dev, found.st_ino)
        first = linked.get(inode)
        if first is not None:
            os.link(first, target, follow_symlinks=False)
            continue
        if not _make(source, target, found):
            continue
        _copy_owner_and_attributes(source, target, found)
        if maps is not None:
            owners.change_one(target, maps.of_file)
        if stat.S_ISDIR(found.st_mode):
            directories.append((target, found))
        elif found.st_nlink > 1:
            linked[inode] = target
    # filling a directory changes its times
    for target, found in reversed(directories):
        os.utime(target, ns=(found.st_atime_ns, found.st_mtime_ns))


def _make(source: str, target: str, found: os.stat_result) -> bool:
    """Create a file of the same type and content; False for a socket, which has no listener."""
    mode = found.st_mode
    if stat.S_ISDIR(mode):
        os.makedirs(target, exist_ok=True)
    elif stat.S_ISREG(mode):
        shutil.copyfile(source, target, follow_symlinks=False)
    elif stat.S_ISLNK(mode):
        os.symlink(os.readlink(source), target)
    elif stat.S_ISSOCK(mode):
        return False
    else:
        os.mknod(target, mode, found.st_rdev)
    return True


def _copy_owner_and_attributes(source: str, target: str, found: os.stat_result) -> None:
    os.chown(target, found.st_uid, found.st_gid, follow_symlinks=False)
    if not stat.S_ISLNK(found.st_mode):
        # after chown, which clears the set-id bits
        os.chmod(target, stat.S_IMODE(found.st_mode))
    for name in os.listxattr(source, follow_symlinks=False):
        if name.startswith(_NOT_COPIED):
            continue
        try:
            value = os.getxattr(source, name, follow_symlinks=False)
            os.setxattr(target, name, value, follow_symlinks=False)
        except OSError as error:
            log.debug("attribute not copied", path=target, attribute=name, error=error.strerror)
    os.utime(target, ns=(found.st_atime_ns, found.st_mtime_ns), follow_symlinks=False)
