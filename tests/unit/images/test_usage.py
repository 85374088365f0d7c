"""Disk usage is not queried more often than it can change."""

from __future__ import annotations

from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any

from generated.containerd import snapshots_pb2
from generated.statuses import filesystem_usage
from runtime.containerd.capabilities import Capabilities, Snapshotter
from runtime.images.usage import ImageUsage, Usage, written


class FakeSnapshots:
    """Snapshots by name and kind; each grows by one byte per query."""

    def __init__(self, **kinds: snapshots_pb2.Kind) -> None:
        self.kinds = kinds
        self.asked: list[str] = []

    async def List(self, request: Any) -> AsyncIterator[Any]:
        infos = [snapshots_pb2.Info(name=name, kind=kind) for name, kind in self.kinds.items()]
        yield snapshots_pb2.ListSnapshotsResponse(info=infos)

    async def Usage(self, request: Any) -> Any:
        self.asked.append(request.key)
        return snapshots_pb2.UsageResponse(size=100 + len(self.asked), inodes=2)


def usage_of(snapshots: FakeSnapshots) -> ImageUsage:
    known = {"overlayfs": Snapshotter("overlayfs", "/root", frozenset())}
    containerd: Any = SimpleNamespace(
        snapshots=snapshots, capabilities=Capabilities(snapshotters=known)
    )
    return ImageUsage(containerd, ("overlayfs", "absent"), 10)


async def test_layers_of_images_are_measured_once_and_those_of_containers_always() -> None:
    snapshots = FakeSnapshots(image=snapshots_pb2.COMMITTED, container=snapshots_pb2.ACTIVE)
    usage = usage_of(snapshots)
    await usage.walk()
    await usage.walk()
    assert snapshots.asked == ["image", "container", "container"]
    assert usage.total("overlayfs").size == 101 + 103
    assert usage.writable("overlayfs").size == 103
    assert usage.total("absent") == Usage()


async def test_snapshot_that_became_a_layer_is_measured_again() -> None:
    snapshots = FakeSnapshots(one=snapshots_pb2.ACTIVE)
    usage = usage_of(snapshots)
    await usage.walk()
    snapshots.kinds["one"] = snapshots_pb2.COMMITTED
    await usage.walk()
    assert len(snapshots.asked) == 2
    assert usage.writable("overlayfs") == Usage()


async def test_removed_snapshots_are_forgotten() -> None:
    snapshots = FakeSnapshots(one=snapshots_pb2.ACTIVE)
    usage = usage_of(snapshots)
    await usage.walk()
    assert usage.of_snapshot("overlayfs", "one") is not None
    snapshots.kinds.clear()
    await usage.walk()
    assert usage.of_snapshot("overlayfs", "one") is None


def test_disk_usage_in_cri_messages() -> None:
    reading = written(Usage(size=5, inodes=2, taken_at=7), "/root")
    told = filesystem_usage.read(layer_usage=reading)
    assert (told.used_bytes.value, told.inodes_used.value, told.timestamp) == (5, 2, 7)
    assert told.fs_id.mountpoint == "/root"
    assert written(Usage(), "/root").timestamp > 0
