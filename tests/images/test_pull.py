"""A pull creates the same content, snapshots and records as containerd's own clients."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
from pathlib import Path

import pytest

from generated.cri import api_pb2
from generated.plans import ImageStatusPlan, plan_list_images
from runtime.containerd.client import Containerd
from runtime.errors import (
    FailedPrecondition,
    InvalidArgument,
    NotFound,
    RegistryUnavailable,
    SignatureValidationFailed,
)
from runtime.images.operations import Images
from runtime.readings import LayerUsage
from tests.harness import images as build
from tests.harness.daemon import Daemon
from tests.harness.lazy_snapshotter import LazySnapshotter
from tests.harness.proxy import Proxy
from tests.harness.registry import Registry
from tests.harness.waiting import PATIENCE, until
from tests.images.conftest import MakeImages, Pulls, images_on, pull, removal, status


@pytest.fixture
def pushed(registry: Registry, image: build.Image) -> str:
    """The name of an index with this machine's image and one of another architecture."""
    other = build.image([build.layer_tar({"other": b""})], architecture="arm64")
    build.push(registry.url, "app:1", {"arm64": other, "amd64": image})
    return f"{registry.host}/app:1"


async def test_pull_by_tag(
    images: Images, daemon: Daemon, registry: Registry, pushed: str, image: build.Image
) -> None:
    image_id = await pull(images, pushed)
    assert image_id == image.config.digest
    index = f"{registry.host}/app@{_target(daemon, pushed)}"
    assert set(daemon.ctr("images", "list", "-q").split()) == {image_id, pushed, index}
    found = await status(images, pushed)
    assert found.id == image_id
    assert list(found.repo_tags) == [pushed]
    assert list(found.repo_digests) == [index]
    assert found.uid.value == 1000
    assert not found.username
    assert found.size > sum(len(layer.data) for layer in image.layers)
    assert daemon.ctr("content", "active").splitlines()[1:] == []


async def test_pulls_are_counted_with_the_bytes_from_the_registry(
    images: Images, registry: Registry, pushed: str, image: build.Image
) -> None:
    counted = images._intake._metrics
    assert isinstance(counted, Pulls)
    await pull(images, pushed)
    await pull(images, pushed)
    with pytest.raises(NotFound):
        await pull(images, f"{registry.host}/nothing:1")
    (first, received), second, (third, _) = counted.ended
    assert (first, second, third) == (True, (True, 0), False), "the second pull fetches nothing"
    assert received >= sum(len(layer.data) for layer in image.layers)
    assert counted.running == 0


async def test_pull_by_digest_and_the_names_that_find_it(
    images: Images, registry: Registry, pushed: str, image: build.Image
) -> None:
    name = f"{registry.host}/app@{image.manifest.digest}"
    image_id = await pull(images, name)
    for known in (name, image_id, image_id.removeprefix("sha256:"), image_id[7:20]):
        assert (await status(images, known)).id == image_id
    found = await status(images, image_id)
    assert (list(found.repo_tags), list(found.repo_digests)) == ([], [name])
    assert (await status(images, pushed)).id == ""


async def test_tag_with_digest_keeps_the_digest(
    images: Images, registry: Registry, pushed: str, image: build.Image
) -> None:
    name = f"{pushed}@{image.manifest.digest}"
    assert await pull(images, name) == image.config.digest
    assert (await status(images, name)).id == image.config.digest


@pytest.mark.parametrize("compression", ["none", "gzip", "zstd"])
@pytest.mark.parametrize("docker_types", [False, True], ids=["oci", "docker"])
async def test_layers_of_every_kind_are_unpacked(
    images: Images, daemon: Daemon, registry: Registry, compression: str, docker_types: bool
) -> None:
    content = f"{compression} {docker_types}".encode()
    made = build.image([build.layer_tar({"a": content})], compression=compression)
    made = _docker_typed(made) if docker_types else made
    build.push(registry.url, "kinds:1", {"amd64": made})
    await pull(images, f"{registry.host}/kinds:1")
    image = await images.resolve(made.config.digest)
    assert image is not None
    assert image.chain_id in daemon.ctr("snapshots", "list")


async def test_layers_unpacked_at_the_same_time_hide_what_is_below_them(
    make_images: MakeImages, daemon: Daemon, registry: Registry, tmp_path: Path
) -> None:
    """Where the snapshotter can, since containerd 2.2; elsewhere in order, to the same files."""
    layers: list[dict[str, bytes | str | None]] = [
        {"old": b"1", "kept": b"1", "dir": None, "dir/old": b"1"},
        {".wh.old": b"", "dir": None, "dir/.wh..wh..opq": b"", "dir/new": b"2"},
        {"kept": b"3"},
        {"dir": None, "dir/.wh.new": b"", "dir/newer": b"4"},
    ]
    made = build.image([build.layer_tar(files) for files in layers])
    build.push(registry.url, "hiding:1", {"amd64": made})
    name, root = f"{registry.host}/hiding:1", tmp_path / "root"
    await pull(await make_images(max_concurrent_unpacks=4), name)
    root.mkdir()
    daemon.ctr("images", "mount", name, str(root))
    try:
        files = {str(path.relative_to(root)) for path in root.rglob("*")}
        assert files == {"kept", "dir", "dir/newer"}
        assert (root / "kept").read_bytes() == b"3"
    finally:
        daemon.ctr("images", "unmount", "--rm", str(root))


async def test_labels_are_those_of_other_clients(
    images: Images, daemon: Daemon, registry: Registry, pushed: str, image: build.Image
) -> None:
    """Newer ctr fetches the manifests of other platforms too: only what both have is compared."""
    await pull(images, pushed)
    ours = _content_labels(daemon, "k8s.io")
    daemon.ctr("images", "pull", "--plain-http", pushed, namespace="ctr")
    try:
        theirs = _content_labels(daemon, "ctr")
        assert ours == {digest: theirs.get(digest) for digest in ours}
    finally:
        daemon.ctr("images", "rm", "--sync", pushed, namespace="ctr")


async def test_second_pull_asks_only_for_the_digest(
    images: Images, registry: Registry, pushed: str
) -> None:
    async with Proxy(registry.url) as proxy:
        name = f"{proxy.host}/app:1"
        await pull(images, name)
        proxy.asked.clear()
        await pull(images, name)
    assert [one.method for one in proxy.asked] == ["HEAD"]


async def test_moved_tag_moves_the_record(
    images: Images, registry: Registry, pushed: str, image: build.Image
) -> None:
    name = f"{registry.host}/moving:1"
    build.push(registry.url, "moving:1", {"amd64": image})
    old = await pull(images, name)
    newer = build.image([build.layer_tar({"new": b"new"})])
    build.push(registry.url, "moving:1", {"amd64": newer})
    assert await pull(images, name) == newer.config.digest
    assert list((await status(images, old)).repo_tags) == []
    assert list((await status(images, name)).repo_tags) == [name]


async def test_concurrent_pulls_fetch_each_layer_once(
    images: Images, registry: Registry, pushed: str, image: build.Image
) -> None:
    async with Proxy(registry.url) as proxy:
        name = f"{proxy.host}/app:1"
        ids = await asyncio.gather(*(pull(images, name) for _ in range(4)))
    assert set(ids) == {image.config.digest}
    fetched = [one.path.rpartition("/")[2] for one in proxy.blobs()]
    assert [fetched.count(layer.digest) for layer in image.layers] == [1, 1, 1]


async def test_a_cancelled_pull_does_not_affect_a_concurrent_one(
    images: Images, registry: Registry, pushed: str, image: build.Image
) -> None:
    async with Proxy(registry.url) as proxy:
        name = f"{proxy.host}/app:1"
        first = asyncio.create_task(pull(images, name))
        await until(proxy.blobs)
        second = asyncio.create_task(pull(images, name))
        await asyncio.sleep(0.01)
        first.cancel()
        assert await second == image.config.digest
        with pytest.raises(asyncio.CancelledError):
            await first


async def test_layers_in_common_are_not_fetched_again(
    images: Images, registry: Registry, pushed: str, image: build.Image
) -> None:
    await pull(images, pushed)
    tar = build.layer_tar({"top": b"top"})
    top = build.image([tar])
    config = json.loads(image.config.data)
    config["rootfs"]["diff_ids"] += json.loads(top.config.data)["rootfs"]["diff_ids"]
    derived = _with(image, config, (*image.layers, *top.layers))
    build.push(registry.url, "derived:1", {"amd64": derived})
    async with Proxy(registry.url) as proxy:
        await pull(images, f"{proxy.host}/derived:1")
    assert {one.path.rpartition("/")[2] for one in proxy.blobs()} == {
        derived.config.digest,
        top.layers[0].digest,
    }


async def test_image_that_is_not_unpacked_is_unpacked_when_needed(
    images: Images, daemon: Daemon, pushed: str
) -> None:
    await pull(images, pushed)
    image = await images.resolve(pushed)
    assert image is not None
    chain = image.chain_id
    label = "containerd.io/gc.ref.snapshot.overlayfs"
    daemon.ctr("content", "label", image.id, f"{label}=")
    _remove_all_snapshots(daemon)
    assert chain not in daemon.ctr("snapshots", "list")
    assert await images.unpacked(image, "overlayfs") == chain
    assert chain in daemon.ctr("snapshots", "list")


async def test_removal_takes_every_name_and_frees_the_space(
    images: Images, daemon: Daemon, pushed: str, image: build.Image
) -> None:
    await pull(images, pushed)
    await images.remove(removal(pushed))
    assert (await status(images, image.config.digest)).id == ""
    assert daemon.ctr("images", "list", "-q") == ""
    assert daemon.ctr("content", "list", "-q") == ""
    assert daemon.ctr("snapshots", "list").splitlines()[1:] == []
    await images.remove(removal(pushed))


async def test_list_obeys_its_filter(images: Images, registry: Registry, pushed: str) -> None:
    build.push(registry.url, "two:1", {"amd64": build.image([build.layer_tar({"two": b"2"})])})
    await pull(images, pushed)
    await pull(images, f"{registry.host}/two:1")

    async def listed(name: str) -> list[str]:
        spec = api_pb2.ImageFilter(image=api_pb2.ImageSpec(image=name))
        answer = await images.list(plan_list_images(api_pb2.ListImagesRequest(filter=spec)))
        return sorted(tag for one in answer.images for tag in one.repo_tags)

    assert await listed("") == sorted([pushed, f"{registry.host}/two:1"])
    assert await listed(pushed) == [pushed]
    assert await listed("nothing") == []


async def test_pinned_reference_makes_a_pinned_image(
    make_images: MakeImages, daemon: Daemon, pushed: str
) -> None:
    images = await make_images(pinned_images={"sandbox": pushed})
    await pull(images, pushed)
    assert (await status(images, pushed)).pinned
    assert "io.cri-containerd.pinned=pinned" in daemon.ctr("images", "list", f"name=={pushed}")


async def test_verbose_status_shows_the_config(images: Images, pushed: str) -> None:
    await pull(images, pushed)
    answer = await images.status(ImageStatusPlan(image=pushed, verbose=True))
    info = json.loads(answer.info["info"])
    assert info["chainID"].startswith("sha256:")
    assert info["imageSpec"]["config"]["Labels"] == {"made": "for a test"}


async def measured(images: Images, snapshot: str) -> LayerUsage:
    """The usage of a snapshot, once it was measured."""
    async with asyncio.timeout(PATIENCE):
        while True:
            usage = images.layer_usage("overlayfs", snapshot)
            if usage is not None:
                return usage
            await asyncio.sleep(0.1)


async def test_usage_of_the_disk(make_images: MakeImages, daemon: Daemon, pushed: str) -> None:
    images = await make_images(stats_collect_period=1)
    await pull(images, pushed)
    image = await images.resolve(pushed)
    assert image is not None
    daemon.ctr("snapshots", "prepare", "writable", image.chain_id)
    try:
        usage = await measured(images, "writable")
        answer = await images.fs_info(api_pb2.ImageFsInfoRequest())
    finally:
        daemon.ctr("snapshots", "rm", "writable")
    (all_,), (writable,) = answer.image_filesystems, answer.container_filesystems
    root = str(daemon.directory / "root/io.containerd.snapshotter.v1.overlayfs")
    assert all_.fs_id.mountpoint == writable.fs_id.mountpoint == root
    assert all_.used_bytes.value > 3 << 20
    assert all_.inodes_used.value >= 6
    assert 0 < writable.used_bytes.value < 1 << 20
    assert usage.size == writable.used_bytes.value


# What is refused


async def test_absent_image_is_not_found(images: Images, registry: Registry) -> None:
    with pytest.raises(NotFound, match=f"http://{registry.host}/v2: 404"):
        await pull(images, f"{registry.host}/app:absent")


async def test_no_image_for_this_platform(images: Images, registry: Registry) -> None:
    made = build.image([build.layer_tar({"x": b""})], architecture="s390x")
    build.push(registry.url, "foreign:1", {"s390x": made})
    with pytest.raises(NotFound, match="no image for linux/amd64; available: linux/s390x"):
        await pull(images, f"{registry.host}/foreign:1")


async def test_artifact_is_not_an_image(images: Images, registry: Registry) -> None:
    made = build.image([build.layer_tar({"y": b""})])
    config = dataclasses.replace(made.config, media_type="application/vnd.cncf.helm.config.v1+json")
    made = _with(dataclasses.replace(made, config=config), None, made.layers)
    build.push(registry.url, "chart:1", {"amd64": made})
    with pytest.raises(FailedPrecondition, match="it is an artifact, not a container image"):
        await pull(images, f"{registry.host}/chart:1")


async def test_layer_that_is_not_what_the_config_says(images: Images, registry: Registry) -> None:
    made = build.image([build.layer_tar({"z": b""})])
    config = json.loads(made.config.data)
    config["rootfs"]["diff_ids"] = ["sha256:" + "0" * 64]
    build.push(registry.url, "wrong:1", {"amd64": _with(made, config, made.layers)})
    with pytest.raises(FailedPrecondition, match=f"its image says sha256:{'0' * 64}"):
        await pull(images, f"{registry.host}/wrong:1")


async def test_malformed_reference_names_the_field(images: Images) -> None:
    with pytest.raises(InvalidArgument) as refused:
        await pull(images, "UPPER/case:tag:tag")
    assert refused.value.field == "image.image"


async def test_unreachable_registry_is_unavailable(images: Images) -> None:
    """The kubelet knows the prefix and shows its user the reason."""
    with pytest.raises(
        RegistryUnavailable, match=r"^RegistryUnavailable: cannot resolve 127\.0\.0\.1:1/"
    ):
        await pull(images, "127.0.0.1:1/app")


# Changes by other clients


async def test_image_of_another_client_is_seen_and_gets_its_id(
    images: Images, daemon: Daemon, pushed: str, image: build.Image
) -> None:
    daemon.ctr("images", "pull", "--plain-http", pushed)
    managed = "io.cri-containerd.image=managed"
    await until(lambda: managed in daemon.ctr("images", "list", f"name=={pushed}"))
    assert image.config.digest in daemon.ctr("images", "list", "-q")
    assert (await status(images, pushed)).id == image.config.digest
    daemon.ctr("images", "rm", pushed, image.config.digest)
    await until(lambda: not images._cache.images())
    assert (await status(images, pushed)).id == ""


async def test_images_are_known_again_after_a_restart(
    make_images: MakeImages, pushed: str, image: build.Image
) -> None:
    await pull(await make_images(), pushed)
    again = await make_images()
    assert (await status(again, pushed)).id == image.config.digest


async def test_events_are_heard_after_the_daemon_came_back(
    images: Images, daemon: Daemon, pushed: str, image: build.Image
) -> None:
    daemon.restart()
    daemon.ctr("images", "pull", "--plain-http", pushed)
    await until(lambda: bool(images._cache.images()))
    await until(lambda: image.config.digest in daemon.ctr("images", "list", "-q"))


async def test_verifiers_decide_what_is_pulled_and_what_may_stay_unchanged(
    make_images: MakeImages, registry: Registry, pushed: str, tmp_path: Path
) -> None:
    programs = tmp_path / "verifiers"
    programs.mkdir()
    images = await make_images(image_verifier={"bin_dir": str(programs)})
    verifier = programs / "signed"
    asked = tmp_path / "asked"
    refusing = f'#!/bin/sh\necho "$2 $4" >> {asked}\necho not signed\nexit 1\n'

    def install() -> None:
        verifier.write_text(refusing)
        verifier.chmod(0o755)

    install()
    with pytest.raises(SignatureValidationFailed, match=r"signed rejected .*: not signed$"):
        await pull(images, pushed)
    assert (await status(images, pushed)).id == ""
    verifier.unlink()
    image_id = await pull(images, pushed)
    install()
    with pytest.raises(SignatureValidationFailed):
        await pull(images, pushed)
    # a policy applies to pulls, not to images on the node
    assert (await status(images, pushed)).id == image_id
    (digest,) = (await status(images, pushed)).repo_digests
    assert set(asked.read_text().splitlines()) == {f"{pushed} {digest.partition('@')[2]}"}


async def test_unpacked_layers_can_be_discarded(
    make_images: MakeImages, daemon: Daemon, registry: Registry, image: build.Image, pushed: str
) -> None:
    images = await make_images(discard_unpacked_layers=True)
    image_id = await pull(images, pushed)
    # the collector runs with the deletion of any image
    build.push(registry.url, "other:1", {"amd64": build.image([])})
    await pull(images, f"{registry.host}/other:1")
    await images.remove(removal(f"{registry.host}/other:1"))
    stored = daemon.ctr("content", "list", "--quiet").split()
    assert image.config.digest in stored
    assert not {layer.digest for layer in image.layers} & set(stored)
    # it is a complete image nevertheless, also for a new server, and nothing is fetched again
    again = await make_images(discard_unpacked_layers=True)
    assert (await status(again, pushed)).id == image_id
    assert await pull(again, pushed) == image_id


async def test_layers_that_a_snapshotter_provides_are_not_fetched(
    daemon: Daemon, registry: Registry, image: build.Image, tmp_path: Path
) -> None:
    build.push(registry.url, "lazy:1", {"amd64": image})
    socket = daemon.directory / "lazy.sock"
    snapshotter = LazySnapshotter(tmp_path / "snapshots", socket)
    snapshotter.provided = {image.layers[0].digest, image.layers[2].digest}
    extra = f'[proxy_plugins.lazy]\ntype = "snapshot"\naddress = "{socket}"\n'
    with Daemon(daemon.containerd, extra) as own:
        containerd = await Containerd.connect(own.address)
        await containerd.wait_ready()
        images = images_on(
            containerd, tmp_path, {"disable_snapshot_annotations": False}, snapshotter="lazy"
        )
        await images.start()
        async with Proxy(registry.url) as proxy:
            name = f"{proxy.host}/lazy:1"
            assert await pull(images, name) == image.config.digest
            asked = {one.path.rpartition("/")[2] for one in proxy.blobs()}
        await images.close()
        await containerd.close()
    snapshotter.close()
    # from the first layer that must be fetched on, all are, because they are needed at once
    assert image.layers[0].digest not in asked
    assert image.layers[1].digest in asked
    labels = snapshotter.prepared[0]
    about = "containerd.io/snapshot/cri."
    assert labels[f"{about}image-ref"] == name
    assert labels[f"{about}layer-digest"] == image.layers[0].digest
    assert labels[f"{about}image-layers"].split(",") == [one.digest for one in image.layers]
    assert labels[f"{about}manifest-digest"] == image.manifest.digest


def _snapshots(daemon: Daemon) -> list[str]:
    return [row.split()[0] for row in daemon.ctr("snapshots", "list").splitlines()[1:]]


def _remove_all_snapshots(daemon: Daemon) -> None:
    """Those without children first: each round takes the topmost."""
    while keys := _snapshots(daemon):
        for key in keys:
            with contextlib.suppress(RuntimeError):
                daemon.ctr("snapshots", "rm", key)


def _target(daemon: Daemon, name: str) -> str:
    row = daemon.ctr("images", "list", f"name=={name}").splitlines()[1]
    return next(word for word in row.split() if word.startswith("sha256:"))


def _content_labels(daemon: Daemon, namespace: str) -> dict[str, set[str]]:
    rows = daemon.ctr("content", "list", namespace=namespace).splitlines()[1:]
    return {row.split()[0]: set(row.split()[-1].split(",")) for row in rows}


def _with(image: build.Image, config: object, layers: tuple[build.Blob, ...]) -> build.Image:
    """The image with another config (None: the same) and other layers."""
    blob = image.config
    if config is not None:
        blob = dataclasses.replace(blob, data=json.dumps(config).encode())
    manifest = json.loads(image.manifest.data)
    manifest |= {"config": blob.descriptor, "layers": [layer.descriptor for layer in layers]}
    data = json.dumps(manifest).encode()
    return build.Image(dataclasses.replace(image.manifest, data=data), blob, layers)


def _docker_typed(image: build.Image) -> build.Image:
    suffix = image.layers[0].media_type.removeprefix(build.OCI_LAYER).replace("+", ".")
    layers = tuple(
        dataclasses.replace(
            layer, media_type=f"application/vnd.docker.image.rootfs.diff.tar{suffix}"
        )
        for layer in image.layers
    )
    docker = "application/vnd.docker.distribution.manifest.v2+json"
    config = dataclasses.replace(
        image.config, media_type="application/vnd.docker.container.image.v1+json"
    )
    typed = _with(dataclasses.replace(image, config=config), None, layers)
    document = json.loads(typed.manifest.data) | {"mediaType": docker}
    return dataclasses.replace(typed, manifest=build.Blob(json.dumps(document).encode(), docker))
