"""Root file systems whose files belong to the IDs of a pod's user namespace.

A snapshotter that maps owners gets the IDs in labels and mounts the image's layers idmapped. For
other snapshotters, the last layer of the image is copied once for each range of IDs, and every file
of the copy gets its new owner. The copies are named like those of containerd's own client, so a
node that is migrated from the built-in plugin keeps using them.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import secrets
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Final

import structlog
from grpc import aio

from generated.containerd import snapshots_pb2, types_pb2
from runtime.containerd.client import Containerd
from runtime.containerd.deletions import is_not_found
from runtime.linux import owners
from runtime.lookups.snapshot import mount_writable
from runtime.steps.parallel import all_finished
from runtime.steps.shared_tasks import SharedTasks
from runtime.transforms.id_maps import IdMap, IdMaps

log = structlog.get_logger(__name__)

UIDS_LABEL: Final = "containerd.io/snapshot/uidmapping"
GIDS_LABEL: Final = "containerd.io/snapshot/gidmapping"


@dataclass(frozen=True, slots=True)
class Rootfs:
    """A root file system to be prepared."""

    key: str
    """The ID of the container and of its snapshot."""
    snapshotter: str
    lease: str
    scratch: Path
    """A directory of the container, used temporarily."""
    maps: IdMaps | None = None
    """The IDs that own the files; None without a user namespace."""
    by_copy: bool = False
    """Whether the snapshotter cannot map owners (`Handler.owners_by_copy`)."""
    labels: Mapping[str, str] = field(default_factory=dict)


class OwnedSnapshots:
    """Prepares root file systems; one for the whole server, because containers share copies."""

    def __init__(self, containerd: Containerd) -> None:
        self._containerd = containerd
        self._copies = SharedTasks()
        self._told: set[str] = set()

    async def prepare(self, rootfs: Rootfs, parent: str) -> list[types_pb2.Mount]:
        """The mounts of a new root file system on top of the layer ``parent``.

        Raises AioRpcError; NOT_FOUND if there is no such layer.
        """
        labels = dict(rootfs.labels)
        if rootfs.maps is not None and rootfs.by_copy:
            parent = await self._copy(rootfs, rootfs.maps, parent)
        elif rootfs.maps is not None:
            labels[UIDS_LABEL] = rootfs.maps.uids.label
            labels[GIDS_LABEL] = rootfs.maps.gids.label
        answer = await self._containerd.snapshots.Prepare(
            snapshots_pb2.PrepareSnapshotRequest(
                snapshotter=rootfs.snapshotter, key=rootfs.key, parent=parent, labels=labels
            ),
            metadata=self._containerd.with_lease(rootfs.lease),
        )
        return list(answer.mounts)

    async def _copy(self, rootfs: Rootfs, maps: IdMaps, parent: str) -> str:
        """The name of the layer's copy for these IDs, which is created if it does not exist."""
        name = copy_name(parent, maps)
        if not await self._exists(rootfs.snapshotter, name):
            self._tell(rootfs.snapshotter)
            make = partial(self._make, rootfs, maps, parent, name)
            await self._copies.run((rootfs.snapshotter, name), lambda: all_finished(make()))
        return name

    def _tell(self, snapshotter: str) -> None:
        if snapshotter not in self._told:
            self._told.add(snapshotter)
            log.warning(
                "user namespaces: the snapshotter cannot map owners, so every pod gets its own copy"
                " of its images, which takes time and space",
                snapshotter=snapshotter,
                remedy="containerd 2.0 and Linux 5.19 or newer, with overlayfs on a file system"
                " that can be mounted idmapped",
            )

    async def _make(self, rootfs: Rootfs, maps: IdMaps, parent: str, name: str) -> None:
        key = f"{name}-remap {secrets.token_hex(4)}"
        snapshots = self._containerd.snapshots
        lease = self._containerd.with_lease(rootfs.lease)
        answer = await snapshots.Prepare(
            snapshots_pb2.PrepareSnapshotRequest(
                snapshotter=rootfs.snapshotter, key=key, parent=parent
            ),
            metadata=lease,
        )
        try:
            await _change_owners(answer.mounts, maps, rootfs.scratch)
            await snapshots.Commit(
                snapshots_pb2.CommitSnapshotRequest(
                    snapshotter=rootfs.snapshotter, name=name, key=key
                ),
                metadata=lease,
            )
        except BaseException:
            with contextlib.suppress(aio.AioRpcError):  # the garbage collector removes what is left
                await snapshots.Remove(
                    snapshots_pb2.RemoveSnapshotRequest(snapshotter=rootfs.snapshotter, key=key)
                )
            raise

    async def _exists(self, snapshotter: str, name: str) -> bool:
        try:
            await self._containerd.snapshots.Stat(
                snapshots_pb2.StatSnapshotRequest(snapshotter=snapshotter, key=name)
            )
        except aio.AioRpcError as error:
            if not is_not_found(error):
                raise
            return False
        return True


async def _change_owners(mounts: list[types_pb2.Mount], maps: IdMaps, scratch: Path) -> None:
    os.makedirs(scratch, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="owners-", dir=scratch) as target:
        mount = partial(mount_writable, mounts, target)
        await all_finished(owners.change(mount, target, maps.of_file))


def copy_name(parent: str, maps: IdMaps) -> str:
    """The snapshot's name: a digest over the layer and the IDs, as in containerd's client."""
    ids = {"UidMap": [_go(maps.uids)], "GidMap": [_go(maps.gids)]}
    text = json.dumps({"Parent": parent, "IDMap": ids}, separators=(",", ":"))
    return f"sha256:{hashlib.sha256(text.encode()).hexdigest()}"


def _go(ids: IdMap) -> dict[str, int]:
    return {"containerID": 0, "hostID": ids.first, "size": ids.size}
