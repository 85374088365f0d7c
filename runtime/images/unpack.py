"""Unpack layers into snapshots: Prepare, Apply, Commit, one layer on top of the other.

A snapshot is named by its chain ID, so images share common layers, and layers unpacked by others
(the built-in plugin, ``ctr``, a concurrent pull) are reused.

A snapshotter with the capability ``rebase`` (overlayfs since containerd 2.2) takes the parent of a
snapshot at Commit. Then several layers of an image are applied at the same time, each prepared
without a parent, and only the commits follow the order of the layers.
"""

from __future__ import annotations

import asyncio
import base64
import secrets
import time
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, nullcontext, suppress
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

import grpc
from grpc import aio

from generated.containerd import diff_pb2, leases_pb2, snapshots_pb2, types_pb2
from runtime.containerd.client import Containerd, Metadata
from runtime.errors import FailedPrecondition, Unknown, from_rpc
from runtime.images import snapshot_labels
from runtime.images.content import set_labels
from runtime.images.manifest import Descriptor, Manifest, chain_ids
from runtime.steps.background import to_the_end
from runtime.steps.parallel import all_succeeded, cancel_all
from runtime.steps.shared_tasks import SharedTasks

_PREPARE_TRIES: Final = 3
_OVERLAYFS: Final = "overlayfs"
_REBASE: Final = "rebase"
"""The capability of a snapshotter whose Commit takes the snapshot's parent."""
_DOCKER_ZSTD: Final = "application/vnd.docker.image.rootfs.diff.tar.zstd"
_OCI_ZSTD: Final = "application/vnd.oci.image.layer.v1.tar+zstd"

Fetched = Callable[[Descriptor], Coroutine[Any, Any, None]]
"""Returns when the layer's blob is in the content store."""
_Ready = Callable[[], Awaitable[None]]
"""Returns when what a layer waits for is there: its blob, or the snapshot below it."""


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
    """The chain ID of the layer below; "" for the lowest."""
    chain_id: str
    snapshotter: str
    lease: Metadata
    about: Mapping[str, str]
    """Labels that say what the layer is part of."""
    rebased: bool
    """Whether the snapshot gets its parent when it is committed, not when it is prepared."""

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
        concurrent: int = 1,
    ) -> None:
        """With ``annotations``, snapshotters are told of the image, and a layer is fetched only if
        its snapshotter cannot provide it. With ``sync``, a layer is on the disk before it counts,
        which needs containerd 2.0. If ``concurrent`` is more than 1, so many layers are applied at
        the same time, over all images; otherwise those of an image one after the other.
        """
        self._containerd = containerd
        self._annotations = annotations
        self._sync = sync
        self._concurrent = concurrent
        self._slots: AbstractAsyncContextManager[object] = (
            asyncio.Semaphore(concurrent) if concurrent > 1 else nullcontext()
        )
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
        rebases = self._rebases(snapshotter)
        steps = [
            _Step(
                f"layer {i + 1} of {len(chain)} ({layers[i].digest}) of {image}",
                layers[i],
                diff_ids[i],
                chain[i - 1] if i else "",
                chain[i],
                snapshotter,
                lease,
                about[i],
                rebased=rebases and i > first,
            )
            for i in range(first, len(chain))
        ]
        if rebases and len(steps) > 1:
            await self._side_by_side(steps, fetched)
        else:
            for step in steps:
                await self._take(step, partial(fetched, step.layer), _at_once)
        return chain[-1] if chain else ""

    def _rebases(self, snapshotter: str) -> bool:
        """Whether layers of one image are unpacked at the same time.

        With ``annotations`` they are not: a layer that the snapshotter provides by itself is
        committed during Prepare, which must therefore name its parent.
        """
        if self._concurrent <= 1 or self._annotations:
            return False
        known = self._containerd.capabilities.snapshotters.get(snapshotter)
        return known is not None and _REBASE in known.capabilities

    async def _side_by_side(self, steps: Sequence[_Step], fetched: Fetched) -> None:
        """Have all of these snapshots; if a layer fails, the others are cancelled."""
        taken: list[asyncio.Task[None]] = []
        below: _Ready = _at_once
        for step in steps:
            take = self._take(step, partial(fetched, step.layer), below)
            taken.append(asyncio.ensure_future(take))
            below = partial(_done, taken[-1])
        await all_succeeded(taken)

    async def _take(self, step: _Step, fetched: _Ready, below: _Ready) -> None:
        """Have the layer's snapshot, under our lease.

        The layer is fetched while its snapshot is prepared, unless the snapshotter may provide it.
        """
        if self._annotations:
            await self._unpacked(step, fetched, below)
            return
        fetching = asyncio.ensure_future(fetched())
        try:
            await self._unpacked(step, lambda: fetching, below)
            # another pull may have unpacked it: its lease protects the blob, and ours must as well
            await fetching
        finally:
            await cancel_all([fetching])

    async def _unpacked(self, step: _Step, fetched: _Ready, below: _Ready) -> None:
        work = partial(self._apply, step, fetched, below)
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

    async def _apply(self, step: _Step, fetched: _Ready, below: _Ready) -> None:
        try:
            await self._apply_one(step, fetched, below)
        except aio.AioRpcError as error:
            raise from_rpc(error, f"unpack {step.place}") from error

    async def _apply_one(self, step: _Step, fetched: _Ready, below: _Ready) -> None:
        """Create the snapshot of a layer: apply it once it is ``fetched``, and commit it once the
        snapshot ``below`` is there."""
        prepared = await self._prepare(step)
        if prepared is None:
            return
        key, mounts = prepared
        try:
            await fetched()
            async with self._slots:
                applied = await self._containerd.diff.Apply(
                    diff_pb2.ApplyRequest(
                        diff=_descriptor(step.layer),
                        mounts=_mounts_to_apply(step, mounts),
                        sync_fs=self._sync,
                    ),
                    metadata=step.lease,
                )
            if applied.applied.digest != step.diff_id:
                raise FailedPrecondition(
                    f"{step.place} unpacks to {applied.applied.digest}, "
                    f"but its image says {step.diff_id}"
                )
            await below()
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
            preparing = asyncio.ensure_future(
                self._containerd.snapshots.Prepare(
                    snapshots_pb2.PrepareSnapshotRequest(
                        snapshotter=step.snapshotter,
                        key=key,
                        parent="" if step.rebased else step.parent,
                        labels=step.labels,
                    ),
                    metadata=step.lease,
                )
            )
            try:
                return key, (await asyncio.shield(preparing)).mounts
            except asyncio.CancelledError:  # containerd may create it nevertheless
                await to_the_end(self._discard_prepared(preparing, step.snapshotter, key))
                raise
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
                    snapshotter=step.snapshotter,
                    name=step.chain_id,
                    key=key,
                    labels=step.labels,
                    parent=step.parent if step.rebased else "",
                ),
                metadata=step.lease,
            )
        except aio.AioRpcError as error:
            if error.code() is not grpc.StatusCode.ALREADY_EXISTS:
                raise
            await self._discard(step.snapshotter, key)  # another client was faster

    async def _discard_prepared(
        self, preparing: asyncio.Future[Any], snapshotter: str, key: str
    ) -> None:
        with suppress(aio.AioRpcError):
            await preparing
            await self._discard(snapshotter, key)

    async def _discard(self, snapshotter: str, key: str) -> None:
        with suppress(aio.AioRpcError):  # the garbage collector removes what is left
            await self._containerd.snapshots.Remove(
                snapshots_pb2.RemoveSnapshotRequest(snapshotter=snapshotter, key=key)
            )


async def _at_once() -> None:
    """There is nothing to wait for."""


async def _done(task: asyncio.Task[None]) -> None:
    """Wait for a task, which is not cancelled with us, and raise its error."""
    await asyncio.wait({task})
    task.result()


def _mounts_to_apply(step: _Step, mounts: Sequence[types_pb2.Mount]) -> Sequence[types_pb2.Mount]:
    """The mounts with which containerd applies a layer.

    Without a parent, overlayfs gives a bind mount. On that, containerd would carry out the layer's
    whiteouts, which then hide nothing in the layers below; on the upper directory of an overlay it
    writes them as overlayfs reads them.
    """
    if not step.rebased or step.snapshotter != _OVERLAYFS or [m.type for m in mounts] != ["bind"]:
        return mounts
    (bind,) = mounts
    options = [option for option in bind.options if option != "rbind"]
    options.append(f"upperdir={bind.source}")
    return [types_pb2.Mount(type="overlay", source="overlay", options=options)]


def _descriptor(layer: Descriptor) -> types_pb2.Descriptor:
    # daemons before 1.7 know zstd only by OCI's name
    media_type = _OCI_ZSTD if layer.media_type == _DOCKER_ZSTD else layer.media_type
    return types_pb2.Descriptor(media_type=media_type, digest=layer.digest, size=layer.size)


def _extraction_key(chain_id: str) -> str:
    """A new key for unpacking, in the format of containerd's own clients."""
    unique = base64.urlsafe_b64encode(secrets.token_bytes(3)).decode()
    return f"extract-{time.time_ns() % 10**9}-{unique} {chain_id}"
