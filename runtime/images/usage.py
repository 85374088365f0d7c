"""Disk usage of images and containers, as reported by the snapshotters.

A committed snapshot never changes, so its usage is queried once; active ones (the writable layers
of containers) are queried in each walk. containerd walks directories for each query, so a slow walk
is followed by a longer pause.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Final

import grpc
import structlog
from grpc import aio

from generated.containerd import snapshots_pb2
from runtime.containerd.client import Containerd
from runtime.readings import LayerUsage
from runtime.steps.watched import ended, watched

log = structlog.get_logger(__name__)

_IDLE_SHARE: Final = 20
"""A walk may take at most one n-th of the time."""
_FIRST_WALK: Final = 0.5
"""Seconds after the start: the first pods need the daemon more."""


@dataclass(frozen=True, slots=True)
class SnapshotUsage:
    """The usage of one snapshot, without its parents."""

    size: int
    """Bytes."""
    inodes: int
    writable: bool
    """Whether it is a container's layer, not an image's."""
    taken_at: int
    """Nanoseconds since the epoch."""


@dataclass(frozen=True, slots=True)
class Usage:
    """A sum over snapshots."""

    size: int = 0
    inodes: int = 0
    taken_at: int = 0
    """Time of the oldest measurement in the sum; 0 without one."""


class ImageUsage:
    """The usage of these snapshotters, measured every ``period`` seconds while started."""

    def __init__(
        self, containerd: Containerd, snapshotters: Collection[str], period: float
    ) -> None:
        self._containerd = containerd
        self._period = period
        self._snapshots: dict[str, dict[str, SnapshotUsage]] = {name: {} for name in snapshotters}
        self._walker: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Start to measure."""
        self._walker = watched("snapshot usage", self._walk_for_ever)

    async def close(self) -> None:
        """Stop measuring."""
        await ended(self._walker)

    def of_snapshot(self, snapshotter: str, key: str) -> SnapshotUsage | None:
        """The last measurement of one snapshot; None if not measured yet."""
        return self._snapshots.get(snapshotter, {}).get(key)

    def total(self, snapshotter: str) -> Usage:
        """The total usage of a snapshotter."""
        return _sum(self._snapshots[snapshotter].values())

    def writable(self, snapshotter: str) -> Usage:
        """The usage of a snapshotter's writable layers."""
        return _sum(usage for usage in self._snapshots[snapshotter].values() if usage.writable)

    async def walk(self) -> None:
        """Measure now."""
        for snapshotter, known in self._snapshots.items():
            if snapshotter in self._containerd.capabilities.snapshotters:
                self._snapshots[snapshotter] = await self._figures(snapshotter, known)

    async def measure(self, snapshotter: str, key: str) -> None:
        """Measure one writable snapshot now; without effect if that fails."""
        try:
            figure = await self._figure(snapshotter, key, active=True)
        except aio.AioRpcError as error:
            log.debug("could not measure a snapshot", snapshot=key, why=error.details())
            return
        if figure and snapshotter in self._snapshots:
            self._snapshots[snapshotter][key] = figure

    async def _walk_for_ever(self) -> None:
        await asyncio.sleep(_FIRST_WALK)
        while True:
            began = time.monotonic()
            try:
                await self.walk()
            except aio.AioRpcError as error:
                log.debug("could not measure the snapshots", why=error.details())
            took = time.monotonic() - began
            await asyncio.sleep(max(self._period, took * _IDLE_SHARE))

    async def _figures(
        self, snapshotter: str, known: dict[str, SnapshotUsage]
    ) -> dict[str, SnapshotUsage]:
        figures: dict[str, SnapshotUsage] = {}
        request = snapshots_pb2.ListSnapshotsRequest(snapshotter=snapshotter)
        async for answer in self._containerd.snapshots.List(request):
            for info in answer.info:
                old = known.get(info.name)
                active = info.kind == snapshots_pb2.ACTIVE
                if old and not active and not old.writable:
                    figures[info.name] = old
                    continue
                figure = await self._figure(snapshotter, info.name, active)
                if figure:
                    figures[info.name] = figure
        return figures

    async def _figure(self, snapshotter: str, key: str, active: bool) -> SnapshotUsage | None:
        try:
            answer = await self._containerd.snapshots.Usage(
                snapshots_pb2.UsageRequest(snapshotter=snapshotter, key=key)
            )
        except aio.AioRpcError as error:
            if error.code() is grpc.StatusCode.NOT_FOUND:  # removed since it was listed
                return None
            raise
        return SnapshotUsage(answer.size, answer.inodes, active, time.time_ns())


def written(usage: Usage, mountpoint: str) -> LayerUsage:
    """A sum as a reading, located at the snapshotter's directory."""
    return LayerUsage(usage.taken_at or time.time_ns(), usage.size, usage.inodes, mountpoint)


def _sum(figures: Iterable[SnapshotUsage]) -> Usage:
    figures = list(figures)
    return Usage(
        size=sum(figure.size for figure in figures),
        inodes=sum(figure.inodes for figure in figures),
        taken_at=min((figure.taken_at for figure in figures), default=0),
    )
