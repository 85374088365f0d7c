"""The images in memory, with a containerd that responds late, lacks content or has broken
content."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any, NoReturn

import grpc
import pytest
from grpc import aio

from generated.containerd import content_pb2, images_pb2
from runtime.images.manifest import INDEX_TYPES, MANIFEST_TYPES, Descriptor
from runtime.images.platforms import Platform
from runtime.images.store import MANAGED, ImageStore, read_content

NAME = "docker.io/library/app:1"
CONFIG_TYPE = "application/vnd.oci.image.config.v1+json"
LAYER_TYPE = "application/vnd.oci.image.layer.v1.tar"


def fail(code: grpc.StatusCode = grpc.StatusCode.NOT_FOUND) -> NoReturn:
    raise aio.AioRpcError(code, aio.Metadata(), aio.Metadata(), "as told")


class FakeContainerd:
    """Records and blobs; ``answers`` holds back the response of a List until it is set."""

    def __init__(self) -> None:
        self.namespace = "k8s.io"
        self.records: dict[str, Any] = {}
        self.blobs: dict[str, bytes] = {}
        self.unpacked: set[str] = set()
        self.broken: dict[str, grpc.StatusCode] = {}
        """Blobs whose reading fails with this error."""
        self.answers = asyncio.Event()
        self.answers.set()

    def blob(self, data: bytes | dict[str, Any], media_type: str) -> Descriptor:
        data = data if isinstance(data, bytes) else json.dumps(data).encode()
        digest = "sha256:" + hashlib.sha256(data).hexdigest()
        self.blobs[digest] = data
        return Descriptor(media_type, digest, len(data))

    def image(self, run: dict[str, Any] | None = None, *, layer: bytes = b"layer") -> Descriptor:
        """The manifest of an image with one layer."""
        one = self.blob(layer, LAYER_TYPE)
        config = {
            "os": "linux",
            "architecture": "amd64",
            "rootfs": {"diff_ids": [one.digest]},
            "config": run,
        }
        return self.manifest(self.blob(config, CONFIG_TYPE), one)

    def manifest(self, config: Descriptor, *layers: Descriptor) -> Descriptor:
        manifest = {"config": written(config), "layers": [written(layer) for layer in layers]}
        return self.blob(manifest, MANIFEST_TYPES[0])

    # The calls

    async def List(self, _request: Any) -> Any:
        answer = images_pb2.ListImagesResponse(images=list(self.records.values()))
        await self.answers.wait()
        return answer

    async def Create(self, request: Any) -> Any:
        if request.image.name in self.records:
            fail(grpc.StatusCode.ALREADY_EXISTS)
        self.records[request.image.name] = request.image
        return images_pb2.CreateImageResponse(image=request.image)

    async def Update(self, request: Any) -> Any:
        if request.image.name not in self.records:
            fail()
        assert request.image.target.digest, "containerd 2.x panics without a target"
        self.records[request.image.name] = request.image
        return images_pb2.UpdateImageResponse(image=request.image)

    async def Delete(self, request: Any) -> None:
        if not self.records.pop(request.name, None):
            fail()

    async def Read(self, request: Any) -> AsyncIterator[Any]:
        if request.digest in self.broken:
            fail(self.broken[request.digest])
        if request.digest not in self.blobs:
            fail()
        yield content_pb2.ReadContentResponse(data=self.blobs[request.digest])

    async def Info(self, request: Any) -> Any:
        if request.digest not in self.blobs:
            fail()
        return content_pb2.InfoResponse(info=content_pb2.Info(digest=request.digest))

    async def Stat(self, request: Any) -> Any:
        if request.key not in self.unpacked:
            fail()
        return SimpleNamespace()


def written(descriptor: Descriptor) -> dict[str, Any]:
    return {
        "mediaType": descriptor.media_type,
        "digest": descriptor.digest,
        "size": descriptor.size,
    }


class Client:
    """``Read`` of a real stub returns a stream without being awaited; the others are unchanged."""

    def __init__(self, fake: FakeContainerd) -> None:
        self.namespace = fake.namespace
        self.images = SimpleNamespace(
            List=fake.List, Create=fake.Create, Update=fake.Update, Delete=fake.Delete
        )
        self.content = SimpleNamespace(Read=fake.Read, Info=fake.Info)
        self.snapshots = SimpleNamespace(Stat=fake.Stat)


@pytest.fixture
def daemon() -> FakeContainerd:
    return FakeContainerd()


@pytest.fixture
def left_out() -> list[str]:
    return []


@pytest.fixture
def store(daemon: FakeContainerd, left_out: list[str]) -> ImageStore:
    client: Any = Client(daemon)
    return ImageStore(
        client,
        Platform("linux", "amd64"),
        [],
        snapshotters=["overlayfs"],
        left_out=left_out.append,
    )


def names(store: ImageStore) -> list[str]:
    return sorted(image.reference for image in store.cache.images())


async def test_a_stale_comparison_does_not_restore_a_removed_image(
    store: ImageStore, daemon: FakeContainerd
) -> None:
    await store.put(NAME, daemon.image(), MANAGED)
    daemon.answers.clear()
    comparing = asyncio.create_task(store.reconcile())
    await asyncio.sleep(0.01)
    await store.delete(NAME, sync=True)
    daemon.answers.set()
    await comparing
    assert NAME not in daemon.records
    assert names(store) == []


async def test_a_stale_comparison_does_not_drop_a_pulled_image(
    store: ImageStore, daemon: FakeContainerd
) -> None:
    daemon.answers.clear()
    comparing = asyncio.create_task(store.reconcile())
    await asyncio.sleep(0.01)
    await store.put(NAME, daemon.image(), MANAGED)
    daemon.answers.set()
    await comparing
    assert names(store) == [NAME]


async def test_content_that_a_pull_has_in_hand_is_not_read_again(
    store: ImageStore, daemon: FakeContainerd
) -> None:
    target = daemon.image({"User": "7"})
    client: Any = Client(daemon)
    content = await read_content(client, target, Platform("linux", "amd64"))
    daemon.blobs.clear()
    await store.put(NAME, target, MANAGED, content)
    assert [image.user for image in store.cache.images()] == ["7"]


async def test_comparison_takes_what_changed_without_us(
    store: ImageStore, daemon: FakeContainerd
) -> None:
    await store.put(NAME, daemon.image(), MANAGED)
    daemon.records[NAME].target.digest = daemon.image({"User": "1"}).digest
    await store.reconcile()
    assert [image.user for image in store.cache.images() if NAME in image.tags] == ["1"]
    daemon.records.clear()
    await store.reconcile()
    assert store.cache.images() == []


@pytest.mark.parametrize(
    "run",
    [{"User": 1000}, {"User": ["a"]}, {"Env": "A=B"}, {"Labels": [1]}, {"Cmd": {"a": 1}}],
    ids=str,
)
async def test_bad_image_is_left_out_and_the_others_are_listed(
    store: ImageStore, daemon: FakeContainerd, left_out: list[str], run: dict[str, Any]
) -> None:
    for name, content in (("bad:1", run), ("good:1", {"User": "\ud800"})):
        await store.put(f"docker.io/library/{name}", daemon.image(content), MANAGED)
    assert names(store) == ["docker.io/library/good:1"]
    assert store.cache.images()[0].user == "\ufffd"
    assert left_out == ["docker.io/library/bad:1"]
    assert store.cache.names_to_remove("bad:1") == ["docker.io/library/bad:1"]


async def test_an_unreadable_blob_affects_only_its_image(
    store: ImageStore, daemon: FakeContainerd, left_out: list[str]
) -> None:
    await store.put("docker.io/library/good:1", daemon.image(), MANAGED)
    unreadable = daemon.image({"User": "1"})
    daemon.broken[unreadable.digest] = grpc.StatusCode.UNKNOWN
    await store.put("docker.io/library/bad:1", unreadable, MANAGED)
    assert names(store) == ["docker.io/library/good:1"]
    assert left_out == ["docker.io/library/bad:1"]


async def test_an_unreachable_daemon_does_not_affect_the_images(
    store: ImageStore, daemon: FakeContainerd, left_out: list[str]
) -> None:
    image = daemon.image()
    daemon.broken[image.digest] = grpc.StatusCode.UNAVAILABLE
    with pytest.raises(aio.AioRpcError):
        await store.put(NAME, image, MANAGED)
    daemon.broken.clear()
    await store.reconcile()
    assert NAME in names(store)
    assert left_out == []


async def test_image_without_a_layer_is_listed_only_where_it_is_unpacked(
    store: ImageStore, daemon: FakeContainerd
) -> None:
    """A client that does not see the image pulls it, which repairs it."""
    image = daemon.image()
    layer = "sha256:" + hashlib.sha256(b"layer").hexdigest()
    del daemon.blobs[layer]
    await store.put(NAME, image, MANAGED)
    assert names(store) == []
    daemon.unpacked.add(layer)
    await store.put(NAME, image, MANAGED)
    assert names(store) == [NAME]


async def test_image_whose_content_is_gone_is_no_longer_offered_until_it_is_pulled_again(
    store: ImageStore, daemon: FakeContainerd, left_out: list[str]
) -> None:
    image = daemon.image()
    await store.put(NAME, image, MANAGED)
    store.forget_content(store.cache.images()[0])
    assert store.cache.find(NAME) is None
    assert left_out == [NAME]
    await store.put(NAME, image, MANAGED)
    assert names(store) == [NAME]


async def test_image_in_an_index_of_indexes_is_found_again(
    store: ImageStore, daemon: FakeContainerd
) -> None:
    image = daemon.image()
    inner = daemon.blob({"manifests": [written(image)]}, INDEX_TYPES[0])
    absent = {"digest": "sha256:" + "0" * 64, "mediaType": MANIFEST_TYPES[0], "size": 1}
    outer = daemon.blob({"manifests": [absent, written(inner)]}, INDEX_TYPES[0])
    await store.put(NAME, outer, MANAGED)
    assert names(store) == [NAME]


async def test_image_without_layers(store: ImageStore, daemon: FakeContainerd) -> None:
    config = daemon.blob({"architecture": "amd64", "rootfs": {"diff_ids": None}}, CONFIG_TYPE)
    manifest = {"config": written(config), "layers": None}
    await store.put(NAME, daemon.blob(manifest, MANIFEST_TYPES[0]), MANAGED)
    assert [image.chain_id for image in store.cache.images()] == [""]


async def test_adopting_sends_the_whole_record(store: ImageStore, daemon: FakeContainerd) -> None:
    image = daemon.image()
    target = {"media_type": image.media_type, "digest": image.digest, "size": image.size}
    daemon.records[NAME] = images_pb2.Image(name=NAME, target=target, labels={"mine": "yes"})
    await store.reconcile()
    assert dict(daemon.records[NAME].labels) == {"mine": "yes", **MANAGED}
    assert daemon.records[NAME].target.size == image.size
