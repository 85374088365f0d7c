"""Unpack layers into snapshots: Prepare, Apply, Commit, one layer on top of the other.

A snapshot is named by its chain ID, so images share common layers, and layers unpacked by others
(the built-in plugin, ``ctr``, a concurrent pull) are reused.
"""

from __future__ import annotations

import asyncio
import base64
import secrets
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, nullcontext, suppress
from dataclasses import dataclass
from functools import partial
from typing import Final

import grpc
from grpc import aio

from generated.containerd import diff_pb2, leases_pb2, snapshots_pb2, types_pb2
from runtime.containerd.client import Containerd, Metadata
from runtime.errors import FailedPrecondition, Unknown, from_rpc
from runtime.images import snapshot_labels
from runtime.images.content import set_labels
from runtime.images.manifest import Descriptor, Manifest, chain_ids
from runtime.steps.shared_tasks import SharedTasks

_PREPARE_TRIES: Final = 3
_DOCKER_ZSTD: Final = "application/vnd.docker.image.rootfs.diff.tar.zstd"
_OCI_ZSTD: Final = "application/vnd.oci.image.layer.v1.tar+zstd"

Fetched = Callable[[Descriptor], Awaitable[None]]
"""Returns when the layer's blob is in the content store."""
_Ready = Callable[[], Awaitable[None]]
"""The same for one layer."""


async def snapshot_exists(containerd: Containerd, snapshotter: str, name: str) -> bool:
    """Whether a snapshot (active or committed) with this name exists."""
    try:
        await containerd.snapshots.Stat(
            snapshots_pb2.StatSnapshotRequest(snapshotter=snapshotter, key=name)
        )
    except aio.AioRpcError as error:
        if error.code() is grpc.StatusCode.NOT_FOUND:
            return False
        raise
    return True


async def keep_in_lease(containerd: Containerd, lease: Metadata, kind: str, name: str) -> None:
    """Add an existing object to a lease: ``content`` or ``snapshots/<snapshotter>``."""
    resource = leases_pb2.Resource(id=name, type=kind)
    request = leases_pb2.AddResourceRequest(id=dict(lease)["containerd-lease"], resource=resource)
    await containerd.leases.AddResource(request)


@dataclass(frozen=True, slots=True)
class _Step:
    """One layer to be unpacked on its parent's snapshot."""

    place: str
    """The layer in errors: its position, its digest and its image."""
    layer: Descriptor
    diff_id: str
    parent: str
    chain_id: str
    snapshotter: str
    lease: Metadata
    about: Mapping[str, str]
    """Labels that say what the layer is part of."""

    @property
    def labels(self) -> dict[str, str]:
        """Labels read by snapshotters that fetch by themselves; ``snapshot.ref`` is the snapshot to
        create."""
        return {
            **self.about,
            "containerd.io/snapshot.ref": self.chain_id,
            "containerd.io/snapshot/diff-id": self.diff_id,
            "containerd.io/snapshot/parent-chain-id": self.parent,
        }


class Unpacker:
    """Unpacks layers; one for the whole server, because pulls share work."""

    def __init__(
        self,
        containerd: Containerd,
        *,
        annotations: bool = False,
        sync: bool = False,
        slots: AbstractAsyncContextManager[object] | None = None,
    ) -> None:
        """With ``annotations``, snapshotters are told of the image, and a layer is fetched only if
        its snapshotter cannot provide it. With ``sync``, a layer is on the disk before it counts,
        which needs containerd 2.0. ``slots`` limits the layers applied at the same time.
        """
        self._containerd = containerd
        self._annotations = annotations
        self._sync = sync
        self._slots = slots or nullcontext()
        self._steps = SharedTasks()

    async def unpack(
        self,
        image: str,
        manifest: Manifest,
        diff_ids: Sequence[str],
        *,
        snapshotter: str,
        lease: Metadata,
        fetched: Fetched,
    ) -> str:
        """Create the snapshots of all layers that have none; returns the chain ID of the last.

        ``fetched`` is awaited for a layer before it is applied, and not called for others: the
        layers below an existing snapshot need not be downloaded. ``image`` is its reference.
        """
        layers = manifest.layers
        if self._sync and not self._containerd.capabilities.runtime_info:
            raise FailedPrecondition(
                "images.image_pull_with_sync_fs needs containerd 2.0 or newer; remove the key from"
                " the configuration"
            )
        if len(layers) != len(diff_ids):
            raise FailedPrecondition(
                f"the manifest of {image} has {len(layers)} layers and its config {len(diff_ids)}"
            )
        chain = chain_ids(diff_ids)
        about = snapshot_labels.of_layers(image, manifest, annotations=self._annotations)
        first = await self._held(lease, snapshotter, chain)
        for i in range(first, len(chain)):
            step = _Step(
                f"layer {i + 1} of {len(chain)} ({layers[i].digest}) of {image}",
                layers[i],
                diff_ids[i],
                chain[i - 1] if i else "",
                chain[i],
                snapshotter,
                lease,
                about[i],
            )
            await self._take(step, partial(fetched, layers[i]))
        return chain[-1] if chain else ""

    async def _take(self, step: _Step, fetched: _Ready) -> None:
        """Have the layer's snapshot, under our lease.

        The layer is fetched while its snapshot is prepared, unless the snapshotter may provide it.
        """
        if self._annotations:
            await self._unpacked(step, fetched)
            return
        fetching = asyncio.ensure_future(fetched())
        try:
            await self._unpacked(step, lambda: fetching)
            # another pull may have unpacked it: its lease protects the blob, and ours must as well
            await fetching
        finally:
            fetching.cancel()
            await asyncio.gather(fetching, return_exceptions=True)

    async def _unpacked(self, step: _Step, fetched: _Ready) -> None:
        work = partial(self._apply, step, fetched)
        if not await self._steps.run((step.snapshotter, step.chain_id), work):
            await self._keep(step.lease, step.snapshotter, step.chain_id)

    async def _held(self, lease: Metadata, snapshotter: str, chain: Sequence[str]) -> int:
        """The number of unpacked layers, counted from the lowest, protected by the lease.

        A snapshot can be garbage-collected between the check and the lease, with the last image
        that used it, so it counts only if it still exists once the lease protects it.
        """
        while first := await self._first_missing(snapshotter, chain):
            await self._keep(lease, snapshotter, chain[first - 1])
            if await snapshot_exists(self._containerd, snapshotter, chain[first - 1]):
                break
        return first

    async def _first_missing(self, snapshotter: str, chain: Sequence[str]) -> int:
        """The number of unpacked layers, counted from the lowest."""
        if not chain or await snapshot_exists(self._containerd, snapshotter, chain[-1]):
            return len(chain)
        for count, name in enumerate(chain):
            if not await snapshot_exists(self._containerd, snapshotter, name):
                return count
        return len(chain)

    async def _keep(self, lease: Metadata, snapshotter: str, name: str) -> None:
        await keep_in_lease(self._containerd, lease, f"snapshots/{snapshotter}", name)

    async def _apply(self, step: _Step, fetched: _Ready) -> None:
        try:
            await self._apply_one(step, fetched)
        except aio.AioRpcError as error:
            raise from_rpc(error, f"unpack {step.place}") from error

    async def _apply_one(self, step: _Step, fetched: _Ready) -> None:
        """Create the snapshot of a layer once it is ``fetched``."""
        prepared = await self._prepare(step)
        if prepared is None:
            return
        key, mounts = prepared
        try:
            await fetched()
            async with self._slots:
                applied = await self._containerd.diff.Apply(
                    diff_pb2.ApplyRequest(
                        diff=_descriptor(step.layer), mounts=mounts, sync_fs=self._sync
                    ),
                    metadata=step.lease,
                )
            if applied.applied.digest != step.diff_id:
                raise FailedPrecondition(
                    f"{step.place} unpacks to {applied.applied.digest}, "
                    f"but its image says {step.diff_id}"
                )
            label = {"containerd.io/uncompressed": step.diff_id}
            await asyncio.gather(
                self._commit(step, key),
                set_labels(self._containerd, step.layer.digest, label),
            )
        except BaseException:
            await asyncio.shield(self._discard(step.snapshotter, key))
            raise

    async def _prepare(self, step: _Step) -> tuple[str, Sequence[types_pb2.Mount]] | None:
        """Key and mounts of a new snapshot to unpack into; None if the layer exists already, or if
        the snapshotter provides it by itself."""
        for _ in range(_PREPARE_TRIES):
            key = _extraction_key(step.chain_id)
            try:
                answer = await self._containerd.snapshots.Prepare(
                    snapshots_pb2.PrepareSnapshotRequest(
                        snapshotter=step.snapshotter,
                        key=key,
                        parent=step.parent,
                        labels=step.labels,
                    ),
                    metadata=step.lease,
                )
                return key, answer.mounts
            except aio.AioRpcError as error:
                if error.code() is not grpc.StatusCode.ALREADY_EXISTS:
                    raise
            if await snapshot_exists(self._containerd, step.snapshotter, step.chain_id):
                return None
        raise Unknown(
            f"snapshotter {step.snapshotter} contradicts itself about snapshot {step.chain_id}"
        )

    async def _commit(self, step: _Step, key: str) -> None:
        try:
            await self._containerd.snapshots.Commit(
                snapshots_pb2.CommitSnapshotRequest(
                    snapshotter=step.snapshotter, name=step.chain_id, key=key, labels=step.labels
                ),
                metadata=step.lease,
            )
        except aio.AioRpcError as error:
            if error.code() is not grpc.StatusCode.ALREADY_EXISTS:
                raise
            await self._discard(step.snapshotter, key)  # another client was faster

    async def _discard(self, snapshotter: str, key: str) -> None:
        with suppress(aio.AioRpcError):  # the garbage collector removes what is left
            await self._containerd.snapshots.Remove(
                snapshots_pb2.RemoveSnapshotRequest(snapshotter=snapshotter, key=key)
            )


def _descriptor(layer: Descriptor) -> types_pb2.Descriptor:
    # daemons before 1.7 know zstd only by OCI's name
    media_type = _OCI_ZSTD if layer.media_type == _DOCKER_ZSTD else layer.media_type
    return types_pb2.Descriptor(media_type=media_type, digest=layer.digest, size=layer.size)


def _extraction_key(chain_id: str) -> str:
    """A new key for unpacking, in the format of containerd's own clients."""
    unique = base64.urlsafe_b64encode(secrets.token_bytes(3)).decode()
    return f"extract-{time.time_ns() % 10**9}-{unique} {chain_id}"
