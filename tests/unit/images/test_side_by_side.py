"""Layers of one image applied at the same time: snapshots get their parents at the commit."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import grpc
import pytest

from generated.containerd import content_pb2, snapshots_pb2, types_pb2
from runtime.errors import FailedPrecondition, NotFound
from runtime.images.manifest import Descriptor, chain_ids
from runtime.images.unpack import Unpacker
from tests.harness.waiting import PATIENCE, until
from tests.unit.sandboxes.fakes import rpc_error

from .layers import image

LEASE = (("containerd-lease", "pull"),)
OVERLAY_OPTIONS = ["index=off"]


class Daemon:
    """Snapshots with their parents, as containerd keeps them, and the calls in progress."""

    def __init__(self, *capabilities: str) -> None:
        self.capabilities = SimpleNamespace(
            runtime_info=True,
            snapshotters={"overlayfs": SimpleNamespace(capabilities=frozenset(capabilities))},
        )
        self.committed: dict[str, str] = {}
        """Chain ID → that of the parent."""
        self.active: dict[str, str] = {}
        """Key → parent at Prepare."""
        self.calls: list[str] = []
        self.applying: set[str] = set()
        self.most_applying = 0
        self.mounts: dict[str, Any] = {}
        """Layer → mounts that it was applied with."""
        self.held: list[str] = []
        self.hold: dict[str, asyncio.Event] = {}
        """Layers whose Apply waits."""
        self.fails: dict[str, BaseException] = {}
        self.preparing = asyncio.Event()
        self.preparing.set()
        self.snapshots = SimpleNamespace(
            Stat=self._stat, Prepare=self._prepare, Commit=self._commit, Remove=self._remove
        )
        self.leases = SimpleNamespace(AddResource=self._add)
        self.diff = SimpleNamespace(Apply=self._apply)
        self.content = SimpleNamespace(Info=self._info, Update=self._nothing)

    def hold_layers(self, letters: str) -> None:
        self.hold = {letter: asyncio.Event() for letter in letters}

    async def fetched(self, layer: Descriptor) -> None:
        await asyncio.sleep(0)

    async def _stat(self, request: Any) -> None:
        if request.key not in self.committed:
            raise rpc_error(grpc.StatusCode.NOT_FOUND)

    async def _prepare(self, request: Any, metadata: object) -> Any:
        await self.preparing.wait()
        if request.parent and request.parent not in self.committed:
            raise rpc_error(grpc.StatusCode.NOT_FOUND, "parent")
        self.active[request.key] = request.parent
        mount = types_pb2.Mount(
            type="overlay" if request.parent else "bind",
            source="overlay" if request.parent else "/upper",
            options=OVERLAY_OPTIONS if request.parent else ["rw", "rbind"],
        )
        return snapshots_pb2.PrepareSnapshotResponse(mounts=[mount])

    async def _apply(self, request: Any, metadata: object) -> Any:
        layer = request.diff.digest[7]
        self.mounts[layer] = [*request.mounts]
        self.applying.add(layer)
        self.most_applying = max(self.most_applying, len(self.applying))
        try:
            await asyncio.sleep(0)
            if layer in self.hold:
                await self.hold[layer].wait()
            if layer in self.fails:
                raise self.fails[layer]
        finally:
            self.applying.discard(layer)
        self.calls.append(f"apply {layer}")
        return SimpleNamespace(applied=request.diff)

    async def _commit(self, request: Any, metadata: object) -> None:
        if request.name in self.committed:
            raise rpc_error(grpc.StatusCode.ALREADY_EXISTS)
        parent = self.active[request.key] or request.parent
        if parent and parent not in self.committed:
            raise rpc_error(grpc.StatusCode.NOT_FOUND, "parent")
        del self.active[request.key]
        self.committed[request.name] = parent
        self.calls.append(f"commit {len(self.committed)}")

    async def _remove(self, request: Any) -> None:
        if self.active.pop(request.key, None) is None:
            raise rpc_error(grpc.StatusCode.NOT_FOUND)

    async def _add(self, request: Any) -> None:
        self.held.append(request.resource.id)

    async def _info(self, request: Any) -> Any:
        return content_pb2.InfoResponse(info=content_pb2.Info(digest=request.digest))

    async def _nothing(self, request: Any) -> None:
        pass


def chain(letters: str) -> tuple[str, ...]:
    return tuple(chain_ids([f"sha256:{letter * 64}" for letter in letters]))


def snapshots(letters: str) -> dict[str, str]:
    """The snapshots of these layers, each with its parent."""
    names = chain(letters)
    return dict(zip(names, ("", *names), strict=False))


def unpacker(daemon: Daemon, concurrent: int = 3, **keys: bool) -> Unpacker:
    return Unpacker(daemon, concurrent=concurrent, **keys)  # type: ignore[arg-type]


async def unpacked(
    unpacker: Unpacker, daemon: Daemon, letters: str, snapshotter: str = "overlayfs"
) -> str:
    manifest = image(letters)
    async with asyncio.timeout(PATIENCE):
        return await unpacker.unpack(
            "app:1",
            manifest,
            [layer.digest for layer in manifest.layers],
            snapshotter=snapshotter,
            lease=LEASE,
            fetched=daemon.fetched,
        )


async def test_layers_are_applied_at_the_same_time_and_committed_from_the_lowest_on() -> None:
    daemon = Daemon("rebase")
    daemon.hold_layers("abc")
    work = asyncio.create_task(unpacked(unpacker(daemon), daemon, "abc"))
    await until(lambda: daemon.applying == {*"abc"})
    assert [*daemon.active.values()] == ["", "", ""]
    for letter in "cba":
        daemon.hold[letter].set()
        await until(lambda letter=letter: f"apply {letter}" in daemon.calls)  # type: ignore[misc]
        assert not daemon.committed or letter == "a"
    assert await work == chain("abc")[-1]
    assert daemon.committed == snapshots("abc")
    assert daemon.active == {}


async def test_no_more_layers_are_applied_at_once_than_the_key_allows() -> None:
    daemon = Daemon("rebase")
    shared = unpacker(daemon, 2)
    await asyncio.gather(unpacked(shared, daemon, "abcd"), unpacked(shared, daemon, "efgh"))
    assert daemon.most_applying == 2
    assert daemon.committed == snapshots("abcd") | snapshots("efgh")


@pytest.mark.parametrize(
    ("capabilities", "concurrent", "annotations"),
    [
        pytest.param((), 3, False, id="the snapshotter cannot"),
        pytest.param(("rebase",), 1, False, id="one at a time"),
        pytest.param(("rebase",), 0, False, id="zero"),
        pytest.param(("rebase",), 3, True, id="the snapshotter may provide layers"),
    ],
)
async def test_otherwise_a_layer_is_prepared_on_the_one_below(
    capabilities: tuple[str, ...], concurrent: int, annotations: bool
) -> None:
    daemon = Daemon(*capabilities)
    await unpacked(unpacker(daemon, concurrent, annotations=annotations), daemon, "abc")
    assert daemon.calls == ["apply a", "commit 1", "apply b", "commit 2", "apply c", "commit 3"]
    assert daemon.committed == snapshots("abc")
    assert [mount.type for mount in daemon.mounts["b"]] == ["overlay"]
    assert list(daemon.mounts["b"][0].options) == OVERLAY_OPTIONS


async def test_whiteouts_are_written_although_the_snapshot_has_no_parent_yet() -> None:
    """containerd would carry them out on the bind mount that overlayfs gives without a parent."""
    daemon = Daemon("rebase")
    await unpacked(unpacker(daemon), daemon, "ab")
    (lowest,), (upper,) = daemon.mounts["a"], daemon.mounts["b"]
    assert lowest.type == "bind", "there is nothing below that it could hide"
    assert (upper.type, upper.source) == ("overlay", "overlay")
    assert list(upper.options) == ["rw", "upperdir=/upper"]


async def test_the_mounts_of_other_snapshotters_are_used_as_they_are() -> None:
    daemon = Daemon()
    daemon.capabilities.snapshotters["erofs"] = SimpleNamespace(capabilities={"rebase"})
    await unpacked(unpacker(daemon), daemon, "ab", snapshotter="erofs")
    assert daemon.committed == snapshots("ab")
    assert [mount.type for mount in daemon.mounts["b"]] == ["bind"]


async def test_the_lowest_missing_layer_is_prepared_on_the_snapshot_that_exists() -> None:
    daemon = Daemon("rebase")
    daemon.committed = snapshots("a")
    daemon.hold_layers("bc")
    work = asyncio.create_task(unpacked(unpacker(daemon), daemon, "abc"))
    await until(lambda: daemon.applying == {*"bc"})
    assert [*daemon.active.values()] == [chain("a")[0], ""]
    for event in daemon.hold.values():
        event.set()
    await work
    assert daemon.committed == snapshots("abc")
    assert daemon.mounts["b"][0].options == OVERLAY_OPTIONS


@pytest.mark.parametrize("letter", "abc")
async def test_a_layer_that_fails_ends_the_others_and_nothing_of_them_is_left(letter: str) -> None:
    daemon = Daemon("rebase")
    daemon.hold_layers("abc".replace(letter, ""))
    daemon.fails[letter] = rpc_error(grpc.StatusCode.INVALID_ARGUMENT, "not a tar")
    place = "abc".index(letter) + 1
    with pytest.raises(Exception, match=f"unpack layer {place} of 3 .*not a tar"):
        await unpacked(unpacker(daemon), daemon, "abc")
    assert (daemon.active, daemon.applying, daemon.committed) == ({}, set(), {})


async def test_layers_below_one_that_fails_are_kept_for_the_next_attempt() -> None:
    daemon = Daemon("rebase")
    daemon.hold_layers("c")
    daemon.fails["c"] = rpc_error(grpc.StatusCode.INVALID_ARGUMENT, "not a tar")
    work = asyncio.create_task(unpacked(unpacker(daemon), daemon, "abc"))
    await until(lambda: len(daemon.committed) == 2)
    daemon.hold["c"].set()
    with pytest.raises(Exception, match="layer 3 of 3"):
        await work
    assert (daemon.committed, daemon.active) == (snapshots("ab"), {})
    daemon.fails.clear()
    await unpacked(unpacker(daemon), daemon, "abc")
    assert daemon.committed == snapshots("abc")


async def test_a_layer_with_other_bytes_than_the_image_says_is_refused() -> None:
    daemon = Daemon("rebase")
    manifest = image("abc")
    says = [manifest.layers[0].digest, "sha256:" + "f" * 64, manifest.layers[2].digest]
    with pytest.raises(FailedPrecondition, match=r"layer 2 of 3 .* unpacks to sha256:bbb"):
        await unpacker(daemon).unpack(
            "app:1", manifest, says, snapshotter="overlayfs", lease=LEASE, fetched=daemon.fetched
        )
    assert daemon.active == {}


async def test_a_fetch_that_fails_ends_the_other_layers() -> None:
    daemon = Daemon("rebase")
    daemon.hold_layers("a")

    async def fetch(layer: Descriptor) -> None:
        if layer.digest[7] == "b":
            raise NotFound("gone")

    daemon.fetched = fetch  # type: ignore[method-assign]
    with pytest.raises(NotFound, match="gone"):
        await unpacked(unpacker(daemon), daemon, "abc")
    assert (daemon.active, daemon.committed) == ({}, {})


@pytest.mark.parametrize("at", ["Prepare", "Apply"])
async def test_a_pull_that_is_given_up_leaves_nothing_half_made(at: str) -> None:
    daemon = Daemon("rebase")
    daemon.hold_layers("ab")
    if at == "Prepare":
        daemon.preparing.clear()
    work = asyncio.create_task(unpacked(unpacker(daemon), daemon, "abc"))
    if at == "Apply":
        await until(lambda: "apply c" in daemon.calls)
    else:
        for _ in range(5):
            await asyncio.sleep(0)
    work.cancel()
    await asyncio.sleep(0)
    daemon.preparing.set()  # containerd does what it was asked for before the call was cancelled
    with pytest.raises(asyncio.CancelledError):
        await work
    assert (daemon.active, daemon.applying, daemon.committed) == ({}, set(), {})


async def test_two_images_share_the_layers_that_both_have() -> None:
    daemon = Daemon("rebase")
    daemon.hold_layers("ab")
    shared = unpacker(daemon, 4)
    pulls = [asyncio.create_task(unpacked(shared, daemon, letters)) for letters in ("abcd", "abxy")]
    await until(lambda: daemon.applying == {*"ab"} and len(daemon.calls) == 4)
    for event in daemon.hold.values():
        event.set()
    await asyncio.gather(*pulls)
    assert sorted(call for call in daemon.calls if "apply" in call) == [
        *(f"apply {letter}" for letter in "abcdxy")
    ]
    assert daemon.committed == snapshots("abcd") | snapshots("abxy")
    assert {*chain("ab")} <= {*daemon.held}, "the lease of the second pull protects them as well"
    assert daemon.active == {}


async def test_a_pull_that_is_given_up_leaves_its_layers_to_the_one_beside_it() -> None:
    daemon = Daemon("rebase")
    daemon.hold_layers("a")
    shared = unpacker(daemon)
    first = asyncio.create_task(unpacked(shared, daemon, "abc"))
    await until(lambda: "apply c" in daemon.calls)
    second = asyncio.create_task(unpacked(shared, daemon, "abc"))
    for _ in range(5):
        await asyncio.sleep(0)
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    daemon.hold["a"].set()
    await second
    assert daemon.committed == snapshots("abc")
    assert daemon.active == {}


async def test_a_layer_that_another_client_commits_meanwhile_is_used() -> None:
    daemon = Daemon("rebase")
    daemon.hold_layers("abc")
    work = asyncio.create_task(unpacked(unpacker(daemon), daemon, "abc"))
    await until(lambda: daemon.applying == {*"abc"})
    daemon.committed = snapshots("ab")
    for event in daemon.hold.values():
        event.set()
    await work
    assert daemon.committed == snapshots("abc")
    assert daemon.active == {}
