"""Leases of pulls: they protect fetched data from garbage collection until the records do.

A pull that fails because of the network keeps its lease for a while, and thereby the blobs it has
fetched in part: the kubelet retries within minutes, and then only the rest is fetched. A lease is
labelled with the state directory of its server. A killed server leaves its leases; the next one on
that directory (there is only one at a time) deletes them when it starts.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime, timedelta
from typing import Final

import grpc
import structlog
from grpc import aio

from generated.containerd import leases_pb2
from runtime.containerd.client import Containerd, Metadata
from runtime.errors import RegistryUnavailable, Unavailable

log = structlog.get_logger(__name__)

_PREFIX: Final = "cri-pull-"
_OWNER: Final = "io.cri-containerd.pull.state"
"""The label with the state directory of the server whose pull it is."""
_EXPIRY: Final = timedelta(hours=24)
_KEPT: Final = 600.0
"""Seconds that the lease of a failed pull is kept: twice the kubelet's longest back-off."""


class PullLeases:
    """The leases of all pulls of this server."""

    def __init__(self, containerd: Containerd, state: str) -> None:
        self._containerd = containerd
        self._state = state
        self._kept: dict[str, asyncio.Task[None]] = {}
        """By reference: the task that deletes its lease later. The name of the task is the
        lease's ID."""

    async def delete_leftovers(self) -> None:
        """Delete the leases of an earlier server on this state directory; called before the first
        pull."""
        answer = await self._containerd.leases.List(leases_pb2.ListRequest())
        left = [
            lease.id
            for lease in answer.leases
            if lease.id.startswith(_PREFIX) and lease.labels.get(_OWNER) == self._state
        ]
        await asyncio.gather(*map(self._delete, left))
        if left:
            log.info("deleted the leases of interrupted pulls", count=len(left))

    @asynccontextmanager
    async def hold(self, reference: str) -> AsyncIterator[Metadata]:
        """A lease for a pull of ``reference``, with what an earlier attempt left under it;
        returns the metadata that puts a call under the lease."""
        lease = await self._take(reference)
        try:
            yield self._containerd.with_lease(lease)
        except (RegistryUnavailable, Unavailable, asyncio.CancelledError):
            if reference in self._kept:  # if a concurrent pull has one, its lease is enough
                await asyncio.shield(self._delete(lease))
            else:
                later = self._delete_later(reference, lease)
                self._kept[reference] = asyncio.create_task(later, name=lease)
            raise
        except BaseException:
            await asyncio.shield(self._delete(lease))
            raise
        await asyncio.shield(self._delete(lease))

    async def close(self) -> None:
        """Delete all kept leases."""
        leases = [task.get_name() for task in self._kept.values()]
        for task in self._kept.values():
            task.cancel()
        self._kept.clear()
        await asyncio.gather(*map(self._delete, leases))

    async def _take(self, reference: str) -> str:
        kept = self._kept.pop(reference, None)
        if kept:
            kept.cancel()
            return kept.get_name()
        lease = f"{_PREFIX}{secrets.token_hex(8)}"
        creation = asyncio.ensure_future(self._create(lease))
        try:
            await asyncio.shield(creation)
        except asyncio.CancelledError:
            await asyncio.shield(self._undo(creation, lease))
            raise
        return lease

    async def _create(self, lease: str) -> None:
        expires = (datetime.now(UTC) + _EXPIRY).strftime("%Y-%m-%dT%H:%M:%SZ")
        labels = {"containerd.io/gc.expire": expires, _OWNER: self._state}
        await self._containerd.leases.Create(leases_pb2.CreateRequest(id=lease, labels=labels))

    async def _undo(self, creation: asyncio.Future[None], lease: str) -> None:
        """Delete the lease of a cancelled creation: containerd may still create it, after a
        deletion that comes too early."""
        with suppress(aio.AioRpcError):
            await creation
        await self._delete(lease)

    async def _delete_later(self, reference: str, lease: str) -> None:
        await asyncio.sleep(_KEPT)
        del self._kept[reference]
        await self._delete(lease)

    async def _delete(self, lease: str) -> None:
        try:
            await self._containerd.leases.Delete(leases_pb2.DeleteRequest(id=lease))
        except aio.AioRpcError as error:
            if error.code() is grpc.StatusCode.NOT_FOUND:
                return
            # it expires by itself; the pull that it protected must not fail because of it
            log.warning(
                "could not delete the lease of a pull; it expires by itself",
                lease=lease,
                why=error.details(),
            )
