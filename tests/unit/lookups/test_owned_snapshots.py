"""Root file systems for pods with a user namespace: labels for the snapshotter, or a copy."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Any
from unittest import mock

import grpc
import pytest
from grpc import aio

from generated.containerd import snapshots_pb2, types_pb2
from runtime.linux import owners
from runtime.lookups.owned_snapshots import OwnedSnapshots, Rootfs, copy_name
from runtime.transforms.id_maps import id_maps

MAPS = id_maps("0:100000:65536", "0:200000:65536")
assert MAPS is not None
COPY = copy_name("sha256:base", MAPS)


class Daemon:
    """The snapshots of a containerd: what is prepared, and what is committed."""

    def __init__(self) -> None:
        self.snapshots = self
        self.active: dict[str, snapshots_pb2.PrepareSnapshotRequest] = {}
        self.committed = {"sha256:base"}
        self.leases: list[Any] = []

    def with_lease(self, lease: str) -> str:
        return lease

    async def Stat(self, request: Any) -> Any:
        if request.key not in self.committed:
            raise _error(grpc.StatusCode.NOT_FOUND)

    async def Prepare(self, request: Any, metadata: Any) -> Any:
        if request.parent not in self.committed:
            raise _error(grpc.StatusCode.NOT_FOUND)
        self.active[request.key] = request
        self.leases.append(metadata)
        mount = types_pb2.Mount(type="overlay", source="overlay", options=[request.key])
        return snapshots_pb2.PrepareSnapshotResponse(mounts=[mount])

    async def Commit(self, request: Any, metadata: Any) -> None:
        del self.active[request.key]
        self.committed.add(request.name)
        self.leases.append(metadata)

    async def Remove(self, request: Any) -> None:
        del self.active[request.key]


def _error(code: grpc.StatusCode) -> aio.AioRpcError:
    return aio.AioRpcError(code, aio.Metadata(), aio.Metadata())


def rootfs(scratch: Path, key: str = "c", **changes: Any) -> Rootfs:
    return Rootfs(key=key, snapshotter="overlayfs", lease="pod", scratch=scratch, **changes)


def prepared(daemon: Daemon) -> OwnedSnapshots:
    return OwnedSnapshots(daemon)  # type: ignore[arg-type]


@pytest.fixture
def changed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The snapshots whose owners were changed."""
    found: list[str] = []

    async def change(mount: Any, target: str, owner: Any) -> None:
        mounts, place = mount.args
        assert place == target
        assert os.listdir(target) == []
        assert owner(0, 0) == (100000, 200000)
        await asyncio.sleep(0.01)
        found.extend(mounts[0].options)

    monkeypatch.setattr(owners, "change", change)
    return found


async def test_a_pod_without_a_user_namespace_gets_its_labels_alone(tmp_path: Path) -> None:
    daemon = Daemon()
    await prepared(daemon).prepare(rootfs(tmp_path, labels={"a": "b"}), "sha256:base")
    assert dict(daemon.active["c"].labels) == {"a": "b"}
    assert daemon.leases == ["pod"]


async def test_a_snapshotter_that_maps_owners_is_told_the_ids(tmp_path: Path) -> None:
    daemon = Daemon()
    wanted = rootfs(tmp_path, maps=MAPS, labels={"a": "b"})
    await prepared(daemon).prepare(wanted, "sha256:base")
    assert dict(daemon.active["c"].labels) == {
        "a": "b",
        "containerd.io/snapshot/uidmapping": "0:100000:65536",
        "containerd.io/snapshot/gidmapping": "0:200000:65536",
    }
    assert daemon.active["c"].parent == "sha256:base"


def test_a_copy_has_the_name_that_containerds_client_gives_it() -> None:
    # sha256 of {"Parent":"sha256:base","IDMap":{"UidMap":[{"containerID":0,"hostID":100000,…
    assert COPY == "sha256:c54c340acc1bda35743831019ef386cd4006c25fec97ae6f4e55b0faa6ec2af0"


async def test_a_copy_is_made_once_for_all_containers_of_the_same_ids(
    tmp_path: Path, changed: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    log = mock.Mock()
    monkeypatch.setattr("runtime.lookups.owned_snapshots.log", log)
    daemon = Daemon()
    snapshots = prepared(daemon)
    await asyncio.gather(
        *(
            snapshots.prepare(rootfs(tmp_path, key, maps=MAPS, by_copy=True), "sha256:base")
            for key in "abc"
        )
    )
    assert len(changed) == 1
    assert changed[0].startswith(f"{COPY}-remap ")
    assert {daemon.active[key].parent for key in "abc"} == {COPY}
    assert set(daemon.active) == set("abc")
    assert set(daemon.leases) == {"pod"}
    log.warning.assert_called_once()
    assert os.listdir(tmp_path) == []


async def test_a_copy_that_fails_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def change(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(owners, "change", change)
    daemon = Daemon()
    with pytest.raises(OSError, match="No space"):
        await prepared(daemon).prepare(rootfs(tmp_path, maps=MAPS, by_copy=True), "sha256:base")
    assert (daemon.active, daemon.committed) == ({}, {"sha256:base"})
    assert os.listdir(tmp_path) == []


async def test_a_client_that_gives_up_leaves_a_whole_copy(
    tmp_path: Path, changed: list[str]
) -> None:
    daemon = Daemon()
    call = asyncio.create_task(
        prepared(daemon).prepare(rootfs(tmp_path, maps=MAPS, by_copy=True), "sha256:base")
    )
    await asyncio.sleep(0.005)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    assert (daemon.active, daemon.committed) == ({}, {"sha256:base", COPY})


async def test_a_missing_layer_is_reported_to_the_caller(tmp_path: Path) -> None:
    daemon = Daemon()
    wanted = rootfs(tmp_path, maps=MAPS, by_copy=True)
    with pytest.raises(aio.AioRpcError) as error:
        await prepared(daemon).prepare(wanted, "sha256:gone")
    assert error.value.code() is grpc.StatusCode.NOT_FOUND
    assert daemon.active == {}
