"""Delete containerd objects; each call succeeds if the object does not exist."""

from __future__ import annotations

from collections.abc import Awaitable

import grpc
from grpc import aio

from generated.containerd import containers_pb2, leases_pb2, snapshots_pb2
from runtime.containerd.client import Containerd, Metadata


async def delete_container(containerd: Containerd, container_id: str) -> None:
    """Delete a container's record; its task must have been deleted."""
    await _delete_existing(
        containerd.containers.Delete(containers_pb2.DeleteContainerRequest(id=container_id))
    )


async def delete_lease(containerd: Containerd, lease_id: str) -> None:
    """Delete a lease; what only it protected is garbage-collected later."""
    await _delete_existing(containerd.leases.Delete(leases_pb2.DeleteRequest(id=lease_id)))


async def remove_snapshot(
    containerd: Containerd, snapshotter: str, key: str, *, lease: Metadata | None = None
) -> None:
    """Remove a snapshot, which must not be mounted, and what the lease has of it."""
    request = snapshots_pb2.RemoveSnapshotRequest(snapshotter=snapshotter, key=key)
    remove = containerd.snapshots.Remove
    await _delete_existing(remove(request) if lease is None else remove(request, metadata=lease))


def is_not_found(error: aio.AioRpcError) -> bool:
    """Whether the error says that the object does not exist."""
    return error.code() is grpc.StatusCode.NOT_FOUND


async def _delete_existing(call: Awaitable[object]) -> None:
    try:
        await call
    except aio.AioRpcError as error:
        if not is_not_found(error):
            raise
