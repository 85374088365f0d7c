"""A lease for the temporary objects of one operation."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Final

import structlog
from grpc import aio

from generated.containerd import leases_pb2
from runtime.containerd.client import Containerd, Metadata

log = structlog.get_logger(__name__)

_EXPIRY: Final = timedelta(hours=24)
"""If this server is killed, containerd deletes the lease after this time."""


@asynccontextmanager
async def temporary(containerd: Containerd, kind: str) -> AsyncIterator[Metadata]:
    """The metadata that puts calls under a new lease, which is deleted in the end.

    Everything that was created under it, and that nothing else refers to, is then garbage. ``kind``
    begins its ID. Raises AioRpcError.
    """
    lease = f"cri-{kind}-{secrets.token_hex(8)}"
    expires = (datetime.now(UTC) + _EXPIRY).strftime("%Y-%m-%dT%H:%M:%SZ")
    request = leases_pb2.CreateRequest(id=lease, labels={"containerd.io/gc.expire": expires})
    try:
        await containerd.leases.Create(request)
        yield containerd.with_lease(lease)
    finally:
        await asyncio.shield(_delete(containerd, lease))


async def _delete(containerd: Containerd, lease: str) -> None:
    try:
        await containerd.leases.Delete(leases_pb2.DeleteRequest(id=lease))
    except aio.AioRpcError as error:
        # it expires by itself
        log.debug("could not delete a lease", lease=lease, why=error.details())
