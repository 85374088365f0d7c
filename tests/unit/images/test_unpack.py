"""Snapshots found by a pull are protected by its lease before they count."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import grpc
import pytest
from grpc import aio

from generated.containerd import content_pb2, snapshots_pb2
from runtime.errors import FailedPrecondition, NotFound
from runtime.images.manifest import Descriptor, Manifest, chain_ids
from runtime.images.unpack import Unpacker
from tests.harness.waiting import PATIENCE
from tests.unit.sandboxes.fakes import rpc_error

from .layers import image

DIFF_IDS = ["sha256:" + letter * 64 for letter in "abc"]
CHAIN = chain_ids(DIFF_IDS)
LEASE = (("containerd-lease", "pull"),)


class Daemon:
    """Snapshots by name; the collector may remove them just before a lease protects one."""

    def __init__(self, names: list[str], collected: list[set[str]]) -> None:
        self.names = set(names)
        self.held: list[str] = []
        self._collected = collected
        self.snapshots = SimpleNamespace(Stat=self._stat)
        self.leases = SimpleNamespace(AddResource=self._add)

    async def _stat(self, request: Any) -> None:
        if request.key not in self.names:
            raise aio.AioRpcError(
                grpc.StatusCode.NOT_FOUND, aio.Metadata(), aio.Metadata(), request.key
            )

    async def _add(self, request: Any) -> None:
        if self._collected:
            self.names -= self._collected.pop(0)
        self.held.append(request.resource.id)


@pytest.mark.parametrize(
    ("names", "collected", "count"),
    [
        pytest.param([], [], 0, id="none is there"),
        pytest.param(CHAIN, [], 3, id="all are there"),
        pytest.param(CHAIN[:2], [], 2, id="the lower ones"),
        pytest.param(CHAIN, [{CHAIN[2]}], 2, id="the last is collected"),
        pytest.param(CHAIN, [set(CHAIN)], 0, id="all are collected"),
        pytest.param(CHAIN, [{CHAIN[2]}, {CHAIN[1]}], 1, id="one after the other"),
    ],
)
async def test_a_snapshot_collected_before_the_lease_does_not_count(
    names: list[str], collected: list[set[str]], count: int
) -> None:
    daemon = Daemon(names, collected)
    unpacker = Unpacker(daemon)  # type: ignore[arg-type]
    assert await unpacker._held(LEASE, "overlayfs", CHAIN) == count
    if count:
        assert daemon.held[-1] == CHAIN[count - 1]


class Provider:
    """A snapshotter that provides some layers by itself; records its calls."""

    def __init__(self, provided: set[str]) -> None:
        self.asked: list[str] = []
        self.synced: list[bool] = []
        self.capabilities = SimpleNamespace(runtime_info=False)
        self._provided = provided
        self._names: set[str] = set()
        self.snapshots = SimpleNamespace(
            Stat=self._stat, Prepare=self._prepare, Commit=self._commit, Remove=self._remove
        )
        self.leases = SimpleNamespace(AddResource=self._nothing)
        self.diff = SimpleNamespace(Apply=self._apply)
        self.content = SimpleNamespace(Info=self._info, Update=self._nothing)

    async def fetched(self, layer: Descriptor) -> None:
        self.asked.append(f"fetch {layer.digest[7]}")

    async def _stat(self, request: Any) -> None:
        if request.key not in self._names:
            raise rpc_error(grpc.StatusCode.NOT_FOUND)

    async def _prepare(self, request: Any, metadata: object) -> Any:
        layer = request.labels.get("containerd.io/snapshot/cri.layer-digest", "sha256:?")[7]
        self.asked.append(f"prepare {layer}")
        if layer in self._provided:
            self._names.add(request.labels["containerd.io/snapshot.ref"])
            raise rpc_error(grpc.StatusCode.ALREADY_EXISTS)
        return snapshots_pb2.PrepareSnapshotResponse()

    async def _apply(self, request: Any, metadata: object) -> Any:
        self.asked.append(f"apply {request.diff.digest[7]}")
        self.synced.append(request.sync_fs)
        return SimpleNamespace(applied=request.diff)

    async def _commit(self, request: Any, metadata: object) -> None:
        self._names.add(request.name)

    async def _remove(self, request: Any) -> None:
        self.asked.append("remove")

    async def _info(self, request: Any) -> Any:
        return content_pb2.InfoResponse(info=content_pb2.Info(digest=request.digest))

    async def _nothing(self, request: Any) -> None:
        pass


async def unpacked(
    provider: Provider, manifest: Manifest, unpacker: Unpacker | None = None
) -> None:
    unpacker = unpacker or Unpacker(provider, annotations=True)  # type: ignore[arg-type]
    await unpacker.unpack(
        "app:1",
        manifest,
        [layer.digest for layer in manifest.layers],
        snapshotter="lazy",
        lease=LEASE,
        fetched=provider.fetched,
    )


async def test_only_layers_that_the_snapshotter_lacks_are_fetched() -> None:
    provider = Provider({"a", "c"})
    await unpacked(provider, image("abc"))
    assert provider.asked == ["prepare a", "prepare b", "fetch b", "apply b", "prepare c"]


async def test_a_fetch_that_fails_leaves_no_snapshot() -> None:
    provider = Provider(set())

    async def refused(_: Descriptor) -> None:
        raise NotFound("gone")

    provider.fetched = refused  # type: ignore[method-assign, assignment]
    with pytest.raises(NotFound):
        await unpacked(provider, image("a"))
    assert provider.asked == ["prepare a", "remove"]


@pytest.mark.parametrize("new", [True, False])
async def test_layers_are_on_the_disk_before_they_count_or_the_pull_is_refused(new: bool) -> None:
    provider = Provider(set())
    provider.capabilities = SimpleNamespace(runtime_info=new)
    unpacker = Unpacker(provider, annotations=True, sync=True)  # type: ignore[arg-type]
    if new:
        await unpacked(provider, image("a"), unpacker)
        assert provider.synced == [True]
    else:
        with pytest.raises(FailedPrecondition, match="needs containerd 2"):
            await unpacked(provider, image("a"), unpacker)
        assert provider.asked == []


async def test_the_snapshot_is_prepared_while_the_layer_is_fetched() -> None:
    provider = Provider(set())
    prepare, arrived = provider.snapshots.Prepare, asyncio.Event()

    async def waits_for_the_fetch(request: Any, metadata: object) -> Any:
        await arrived.wait()
        return await prepare(request, metadata)

    async def fetch(layer: Descriptor) -> None:
        provider.asked.append("fetch begins")
        arrived.set()
        await asyncio.sleep(0)

    provider.snapshots.Prepare = waits_for_the_fetch
    provider.fetched = fetch  # type: ignore[method-assign]
    unpacker = Unpacker(provider)  # type: ignore[arg-type]
    async with asyncio.timeout(PATIENCE):
        await unpacked(provider, image("a"), unpacker)
    assert provider.asked == ["fetch begins", "prepare ?", "apply a"]


async def test_a_layer_that_another_pull_unpacks_is_fetched_for_this_one_as_well() -> None:
    """Its blob is then protected by both leases."""
    provider, fetched = Provider(set()), []
    apply, held = provider.diff.Apply, asyncio.Event()

    async def slow(request: Any, metadata: object) -> Any:
        await held.wait()
        return await apply(request, metadata)

    async def fetch(layer: Descriptor) -> None:
        fetched.append(layer.digest[7])

    provider.diff.Apply = slow
    provider.fetched = fetch  # type: ignore[method-assign]
    unpacker = Unpacker(provider)  # type: ignore[arg-type]
    pulls = [asyncio.create_task(unpacked(provider, image("a"), unpacker)) for _ in range(2)]
    await asyncio.sleep(0.01)
    held.set()
    await asyncio.gather(*pulls)
    assert provider.asked == ["prepare ?", "apply a"]
    assert fetched == ["a", "a"]


async def test_a_pull_that_is_given_up_leaves_its_layer_to_the_one_beside_it() -> None:
    provider = Provider(set())
    never = asyncio.Event()
    unpacker = Unpacker(provider)  # type: ignore[arg-type]

    async def hangs(layer: Descriptor) -> None:
        await never.wait()

    async def arrives(layer: Descriptor) -> None:
        pass

    provider.fetched = hangs  # type: ignore[method-assign]
    first = asyncio.create_task(unpacked(provider, image("a"), unpacker))
    await asyncio.sleep(0.01)
    provider.fetched = arrives  # type: ignore[method-assign]
    second = asyncio.create_task(unpacked(provider, image("a"), unpacker))
    await asyncio.sleep(0.01)
    first.cancel()
    async with asyncio.timeout(PATIENCE):
        await second
    assert provider.asked == ["prepare ?", "remove", "prepare ?", "apply a"]
