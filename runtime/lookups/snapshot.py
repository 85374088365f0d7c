"""Read the content of a snapshot, from its layer directories or through a mount."""

from __future__ import annotations

import mmap
import os
import shutil
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Final

from generated.containerd import types_pb2
from runtime.errors import FailedPrecondition
from runtime.linux import kernel, loop, mountinfo
from runtime.lookups.layers import Layers, layers_of

_SET: Final = {
    "ro": kernel.MS_RDONLY,
    "nosuid": kernel.MS_NOSUID,
    "nodev": kernel.MS_NODEV,
    "noexec": kernel.MS_NOEXEC,
    "noatime": kernel.MS_NOATIME,
    "bind": kernel.MS_BIND,
    "rbind": kernel.MS_BIND | kernel.MS_REC,
}
"""Options that are flags of the system call; all others are for the file system."""
_DEFAULTS: Final = frozenset({"rw", "defaults"})
_OWNERS: Final = ("uidmap=", "gidmap=")
"""Options that map owners, which only containerd's own mount code knows. This module shows a
snapshot with the owners that the image has."""
_LOOP: Final = "loop"
_LOWER: Final = "lowerdir="
_OPTIONS_LIMIT: Final = mmap.PAGESIZE - 512
"""Bytes of options from which on an overlay's layers are named relative to their directory: the
kernel reads one page at most."""
_MANAGED: Final = ("format/", "mkfs/", "mkdir/")
"""Beginnings of mount types that only containerd's mount manager understands."""
_HARDENED: Final = kernel.MS_NOSUID | kernel.MS_NODEV | kernel.MS_NOEXEC


@contextmanager
def open_snapshot(mounts: Sequence[types_pb2.Mount], scratch: Path) -> Iterator[Layers]:
    """The content of a snapshot with these ``mounts``, read-only. Blocks, so run it in a thread.

    ``scratch`` is a directory of the object, which is removed with it if this process dies here.
    """
    layers = layers_of(mounts)
    if layers is not None:
        yield layers
        return
    scratch.mkdir(parents=True, exist_ok=True)
    target = tempfile.mkdtemp(prefix="rootfs-", dir=scratch)
    mount_read_only(mounts, target, _HARDENED)
    try:
        yield Layers((target,))
    finally:
        _unmount(target)
        Path(target).rmdir()


def mount_read_only(mounts: Sequence[types_pb2.Mount], target: str, flags: int = 0) -> None:
    """Mount a snapshot on the directory ``target``: each mount over the one before it.

    ``flags`` are MS_* bits on top of the snapshot's own. Leaves nothing mounted if one fails:
    OSError, or FailedPrecondition for a mount that only containerd can make.
    """
    try:
        for mount in mounts:
            _mount(mount, target, flags | kernel.MS_RDONLY)
    except BaseException:
        _unmount(target)
        raise


def mount_mapped(mounts: Sequence[types_pb2.Mount], target: str, user_namespace: int) -> None:
    """As `mount_read_only`, with the owners as a user namespace maps them (a file descriptor).

    An overlay cannot be mounted so, but its layers can. Raises OSError: EINVAL if the layers' file
    system does not support it.
    """
    if len(mounts) != 1:
        raise FailedPrecondition(
            f"a snapshot of {len(mounts)} mounts cannot be mapped to a user namespace; use the"
            " overlayfs snapshotter for this runtime handler"
        )
    (mount,) = mounts
    scratch = tempfile.mkdtemp(prefix="layers-", dir=Path(target).parent)
    try:
        if mount.type == "overlay":
            mount_read_only([_with_mapped_layers(mount, scratch, user_namespace)], target)
        else:
            mount_read_only(mounts, scratch)
            kernel.mount_idmapped(scratch, target, user_namespace)
    finally:
        # the mount on the target keeps what it needs of these
        _unmount(scratch)
        shutil.rmtree(scratch)


def _with_mapped_layers(
    mount: types_pb2.Mount, scratch: str, user_namespace: int
) -> types_pb2.Mount:
    """The overlay with idmapped mounts of its layers, which are made below ``scratch``."""
    mapped = types_pb2.Mount()
    mapped.CopyFrom(mount)
    del mapped.options[:]
    for option in mount.options:
        if option.startswith(_LOWER):
            layers = option.removeprefix(_LOWER).split(":")
            places = [f"{scratch}/{number}" for number in range(len(layers))]
            for layer, place in zip(layers, places, strict=True):
                Path(place).mkdir()
                kernel.mount_idmapped(layer, place, user_namespace)
            option = _LOWER + ":".join(places)
        mapped.options.append(option)
    return mapped


def mount_writable(mounts: Sequence[types_pb2.Mount], target: str) -> None:
    """As `mount_read_only`, for a snapshot that is being made."""
    try:
        for mount in mounts:
            _mount(mount, target, 0)
    except BaseException:
        _unmount(target)
        raise


def is_mounted(mounts: Sequence[types_pb2.Mount], target: str) -> bool:
    """Whether each of ``mounts`` is on ``target``; not if a call was cut short between two."""
    return len(mountinfo.now_below(target)) == len(mounts)


def _unmount(target: str) -> None:
    for point in mountinfo.now_below(target):
        kernel.umount2(point, kernel.MNT_DETACH | kernel.UMOUNT_NOFOLLOW)


def _mount(mount: types_pb2.Mount, target: str, flags: int) -> None:
    if mount.type.startswith(_MANAGED):
        raise FailedPrecondition(
            f"the snapshotter asks for a mount of type {mount.type}, which only containerd's mount "
            "manager can make; use another snapshotter for this runtime handler"
        )
    place = f"{target}/{mount.target.lstrip('/')}" if mount.target else target
    options = [
        option
        for option in mount.options
        if option not in _DEFAULTS and not option.startswith(_OWNERS)
    ]
    for option in options:
        flags |= _SET.get(option, 0)
    data = [option for option in options if option not in _SET and option != _LOOP]
    if flags & kernel.MS_BIND:
        kernel.mount(mount.source, place, flags=flags & (kernel.MS_BIND | kernel.MS_REC))
        # the kernel ignores all other flags in the call that makes a bind mount
        kernel.mount("", place, flags=(flags & ~kernel.MS_REC) | kernel.MS_REMOUNT)
        return
    read_only = bool(flags & kernel.MS_RDONLY)
    device = loop.attached(mount.source, read_only=read_only) if _LOOP in options else None
    with device or nullcontext(mount.source) as source:
        _mount_with(source, place, mount.type, flags, data)


def _mount_with(source: str, place: str, kind: str, flags: int, data: list[str]) -> None:
    if sum(len(option) + 1 for option in data) < _OPTIONS_LIMIT:
        kernel.mount(source, place, kind, flags, ",".join(data))
        return
    directory, shorter = _relative_layers(data)
    _in_directory(directory, lambda: kernel.mount(source, place, kind, flags, ",".join(shorter)))


def _relative_layers(data: list[str]) -> tuple[str, list[str]]:
    """The directory of all layers of an overlay, and its options with layers relative to that."""
    layers = next((o[len(_LOWER) :] for o in data if o.startswith(_LOWER)), "").split(":")
    if not all(map(os.path.isabs, layers)):
        return "/", data
    directory = os.path.commonpath([os.path.dirname(layer) for layer in layers])
    lower = _LOWER + ":".join(os.path.relpath(layer, directory) for layer in layers)
    return directory, [lower if option.startswith(_LOWER) else option for option in data]


def _in_directory(directory: str, work: Callable[[], None]) -> None:
    """Run ``work`` in a working directory of its own: in a new thread, which ends with it."""
    failures: list[BaseException] = []

    def run() -> None:
        try:
            kernel.unshare(kernel.CLONE_FS)
            os.chdir(directory)
            work()
        except BaseException as error:
            failures.append(error)

    thread = threading.Thread(target=run, name="mount", daemon=True)
    thread.start()
    thread.join()
    for failure in failures:
        raise failure
