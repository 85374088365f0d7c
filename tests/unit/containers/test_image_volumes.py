"""Images as volumes: the calls to containerd and the kernel, and what is left."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest

from generated.containerd import types_pb2
from generated.cri import api_pb2
from generated.lifecycle import SandboxEvent
from generated.plans import CreateContainerPlan
from generated.validators import create_container_request
from runtime.containers import image_volumes
from runtime.errors import CriError, FailedPrecondition, ImageVolumeMountFailed, InvalidArgument
from runtime.linux import userns
from runtime.linux.userns import MapLines

from .world import IMAGE, World


class Kernel:
    """Mounts, by target: a directory with a few files each."""

    def __init__(self) -> None:
        self.made: list[str] = []
        self.refused: OSError | None = None

    def is_mounted(self, _mounts: Sequence[types_pb2.Mount], target: str) -> bool:
        return target in self.made

    def mount_read_only(self, _mounts: Sequence[types_pb2.Mount], target: str) -> None:
        if self.refused is not None:
            raise self.refused
        self.made.append(target)
        Path(target, "data/inner").mkdir(parents=True)
        Path(target, "to-root").symlink_to("/data")
        Path(target, "outside").symlink_to("../../../../../../../../etc")
        Path(target, "file").write_text("")


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch) -> Kernel:
    kernel = Kernel()
    monkeypatch.setattr(image_volumes, "is_mounted", kernel.is_mounted)
    monkeypatch.setattr(image_volumes, "mount_read_only", kernel.mount_read_only)
    return kernel


@pytest.fixture
def world(tmp_path: Path, kernel: Kernel) -> World:
    return World(tmp_path)


def volume(sub_path: str = "", *, image: str = IMAGE.reference, **fields: Any) -> api_pb2.Mount:
    return api_pb2.Mount(
        container_path="/volume",
        readonly=True,
        image=api_pb2.ImageSpec(image=image),
        image_sub_path=sub_path,
        **fields,
    )


def directory(world: World) -> Path:
    return world.store.layout.image_volumes("pod")


async def source(world: World, mount: api_pb2.Mount) -> str:
    """The host path that the container is given."""
    container = await world.created(mounts=[mount])
    spec = json.loads(world.daemon.records[container.id].spec.value)
    (found,) = [m for m in spec["mounts"] if m["destination"] == "/volume"]
    assert found["options"] == ["rbind", "rprivate", "ro"]
    return str(found["source"])


async def test_containers_of_a_pod_share_one_view_under_its_lease(
    world: World, kernel: Kernel
) -> None:
    first = await world.created(mounts=[volume()])
    request = api_pb2.ContainerConfig(
        metadata=api_pb2.ContainerMetadata(name="other"),
        image=api_pb2.ImageSpec(image=IMAGE.reference),
        mounts=[volume()],
    )
    await world.containers.create(world.pod, CreateContainerPlan(container_config=request))
    place = directory(world) / "1"
    assert kernel.made == [str(place)]
    assert str(place) in world.daemon.held_snapshots
    (shown,) = first.metadata.config.mounts
    assert (shown.host_path, shown.image.image_ref) == (str(place), IMAGE.id)
    assert shown.image.image == IMAGE.reference


@pytest.mark.parametrize(
    ("sub_path", "below"),
    [
        ("", ""),
        (".", ""),
        ("data/inner", "/data/inner"),
        ("to-root/inner", "/data/inner"),
    ],
)
async def test_a_sub_path_is_resolved_within_the_image(
    world: World, sub_path: str, below: str
) -> None:
    assert await source(world, volume(sub_path)) == f"{directory(world)}/1{below}"


@pytest.mark.parametrize("sub_path", ["absent", "file", "outside", "file/below"])
async def test_a_sub_path_that_is_no_directory_of_the_image_is_refused(
    world: World, sub_path: str
) -> None:
    with pytest.raises(ImageVolumeMountFailed) as error:
        await source(world, volume(sub_path))
    assert str(error.value) == (
        "ImageVolumeMountFailed: config.mounts[0].image_sub_path: "
        f"image app:1 has no directory '{sub_path}'"
    )


@pytest.mark.parametrize("sub_path", ["/data", "data/../..", "..", "../data"])
async def test_a_sub_path_that_leaves_the_image_is_invalid(
    world: World, kernel: Kernel, sub_path: str
) -> None:
    with pytest.raises(InvalidArgument, match=r"config\.mounts\[0\]\.image_sub_path: must be"):
        await source(world, volume(sub_path))
    assert kernel.made == []


@pytest.mark.parametrize(
    ("mount", "field"),
    [
        pytest.param(volume(host_path="/srv"), "image: must not be set together", id="host path"),
        pytest.param(
            api_pb2.Mount(container_path="/v", image=api_pb2.ImageSpec(image="a")),
            "image: needs readonly",
            id="writable",
        ),
        pytest.param(
            api_pb2.Mount(container_path="/v", host_path="/srv", image_sub_path="a"),
            "image_sub_path: needs image",
            id="sub path of a host path",
        ),
    ],
)
def test_combinations_that_are_refused(mount: api_pb2.Mount, field: str) -> None:
    request = api_pb2.CreateContainerRequest(
        pod_sandbox_id="pod",
        config=api_pb2.ContainerConfig(
            metadata=api_pb2.ContainerMetadata(name="app"),
            image=api_pb2.ImageSpec(image="a"),
            mounts=[api_pb2.Mount(container_path="/first", host_path="/srv"), mount],
        ),
    )
    (violation,) = create_container_request.check(request)
    assert str(violation).startswith(f"config.mounts[1].{field}")


async def test_owners_are_mapped_by_the_mount_and_not_by_the_oci_runtime(
    world: World, kernel: Kernel, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[MapLines] = []

    @contextmanager
    def held(maps: MapLines) -> Iterator[str]:
        asked.append(maps)
        yield "/dev/null"

    def mount_mapped(mounts: Sequence[types_pb2.Mount], target: str, _namespace: int) -> None:
        kernel.mount_read_only(mounts, target)

    monkeypatch.setattr(userns, "held", held)
    monkeypatch.setattr(image_volumes, "mount_mapped", mount_mapped)
    ids = [api_pb2.IDMapping(container_id=0, host_id=70000, length=65536)]
    container = await world.created(mounts=[volume(uidMappings=ids, gidMappings=ids)])
    assert asked == [MapLines("0 70000 65536", "0 70000 65536")]
    (mount,) = container.metadata.config.mounts
    assert mount.host_path == f"{directory(world)}/1-mapped"
    spec = json.loads(world.daemon.records[container.id].spec.value)
    (found,) = [m for m in spec["mounts"] if m["destination"] == "/volume"]
    assert "uidMappings" not in found
    assert "gidMappings" not in found


async def test_an_image_volume_names_an_image(world: World) -> None:
    with pytest.raises(InvalidArgument, match=r"config\.mounts\[0\]\.image\.image: must name"):
        await source(world, volume(image=""))


async def test_a_missing_image_is_named(world: World) -> None:
    with pytest.raises(ImageVolumeMountFailed) as error:
        await source(world, volume(image="other:1"))
    assert str(error.value).startswith("ImageVolumeMountFailed: config.mounts[0].image.image: ")
    assert "pull it first" in str(error.value)
    assert world.daemon.holdings == set()


async def test_layers_that_are_gone_are_unpacked_again(world: World) -> None:
    view, tried = world.daemon.snapshots_view, []

    def once_gone(request: Any) -> Any:
        tried.append(request.parent)
        if len(tried) == 1:
            world.daemon.fail_now(grpc.StatusCode.NOT_FOUND)
        return view(request)

    world.daemon.snapshots_view = once_gone  # type: ignore[method-assign]
    await world.created(mounts=[volume()])
    assert tried == [IMAGE.chain_id, IMAGE.chain_id]


@pytest.mark.parametrize("failing", ["containerd", "kernel"])
async def test_a_failure_begins_with_the_kubelets_word_and_can_be_retried(
    world: World, kernel: Kernel, failing: str
) -> None:
    if failing == "kernel":
        kernel.refused = OSError(28, "No space left on device")
    else:
        world.daemon.fail["snapshots.View"] = grpc.StatusCode.INTERNAL
    with pytest.raises(CriError) as error:
        await world.created(mounts=[volume()])
    assert error.value.code is grpc.StatusCode.UNKNOWN
    assert str(error.value).startswith(
        "ImageVolumeMountFailed: config.mounts[0].image: cannot mount image app:1: "
    )
    kernel.refused = None
    world.daemon.fail.clear()
    await world.created(mounts=[volume()])
    assert len(kernel.made) == 1


async def test_a_release_leaves_nothing_and_is_repeatable(world: World) -> None:
    await world.created(mounts=[volume()])
    for _ in range(2):
        await world.containers.release_images(world.pod)
    assert not directory(world).exists()
    assert not any("image-volumes" in key for key in world.daemon.held_snapshots)


async def test_a_release_waits_for_a_mount_under_way(world: World, kernel: Kernel) -> None:
    world.daemon.hold["snapshots.View"] = asyncio.Event()
    creation = asyncio.create_task(world.created(mounts=[volume()]))
    await world.daemon.called("snapshots.View")
    world.pod.fire(SandboxEvent.STOPPED)
    release = asyncio.create_task(world.containers.release_images(world.pod))
    await asyncio.sleep(0.01)
    assert not release.done()
    world.daemon.hold["snapshots.View"].set()
    with pytest.raises(FailedPrecondition):
        await creation
    await release
    assert kernel.made
    assert not directory(world).exists()


async def test_a_pod_that_was_stopped_gets_no_mount(world: World, kernel: Kernel) -> None:
    world.pod.fire(SandboxEvent.STOPPED)
    with pytest.raises(FailedPrecondition, match="mounted for a READY pod"):
        await world.created(mounts=[volume()])
    assert kernel.made == []
