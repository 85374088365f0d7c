"""Read the content of a snapshot, from its layer directories or through a temporary mount."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from generated.containerd import types_pb2
from runtime.errors import FailedPrecondition
from runtime.linux import kernel
from runtime.lookups.layers import Layers, layers_of

_FLAGS = {
    "ro": kernel.MS_RDONLY,
    "nosuid": kernel.MS_NOSUID,
    "nodev": kernel.MS_NODEV,
    "noexec": kernel.MS_NOEXEC,
    "bind": kernel.MS_BIND,
    "rbind": kernel.MS_BIND | kernel.MS_REC,
}
_NO_FLAG = frozenset({"rw", "defaults"})


@contextmanager
def open_snapshot(mounts: Sequence[types_pb2.Mount], scratch: Path) -> Iterator[Layers]:
    """The content of a snapshot with these ``mounts``, read-only. Blocks, so run it in a thread.

    ``scratch`` is a directory of the object, which is removed with it if this process dies here.
    """
    layers = layers_of(mounts)
    if layers is not None:
        yield layers
        return
    if len(mounts) != 1:
        raise FailedPrecondition(
            f"a snapshot of {len(mounts)} mounts cannot be read; use the overlayfs snapshotter"
        )
    scratch.mkdir(parents=True, exist_ok=True)
    target = tempfile.mkdtemp(prefix="rootfs-", dir=scratch)
    _mount_read_only(mounts[0], target)
    try:
        yield Layers((target,))
    finally:
        kernel.umount2(target, kernel.MNT_DETACH | kernel.UMOUNT_NOFOLLOW)
        Path(target).rmdir()


def _mount_read_only(mount: types_pb2.Mount, target: str) -> None:
    flags = kernel.MS_RDONLY | kernel.MS_NOSUID | kernel.MS_NODEV | kernel.MS_NOEXEC
    data = []
    for option in mount.options:
        if option in _FLAGS:
            flags |= _FLAGS[option]
        elif option not in _NO_FLAG:
            data.append(option)
    kernel.mount(mount.source, target, mount.type, flags, ",".join(data))
