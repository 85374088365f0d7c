"""Pulls with real components: Debian's docker-registry and a private containerd for each package.

Root is required, because snapshots are mounts.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from pathlib import Path

import pytest

from generated.cri import api_pb2
from generated.plans import ImageStatusPlan, ListImagesPlan, RemoveImagePlan, plan_pull_image
from runtime.config import file
from runtime.containerd.client import Containerd
from runtime.images.operations import Images
from runtime.lookups.handlers import Handlers
from runtime.transforms.facts import Handler, Host
from tests.harness import images as build
from tests.harness.daemon import Daemon
from tests.harness.node import containerds
from tests.harness.registry import Registry

MEBIBYTE = 1 << 20


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if os.geteuid() == 0:
        return
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.skip(reason="needs root: snapshots are mounts"))


@pytest.fixture(scope="session")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    with Registry(tmp_path_factory.mktemp("registry")) as registry:
        yield registry


@pytest.fixture(scope="session")
def image() -> build.Image:
    """Three layers of a size that takes several reads, of bytes that do not compress."""
    random = [os.urandom(MEBIBYTE) for _ in range(3)]
    tars = [build.layer_tar({f"file{i}": data}) for i, data in enumerate(random)]
    return build.image(tars, {"User": "1000:1000", "Labels": {"made": "for a test"}})


@pytest.fixture(scope="session", params=containerds(), ids=lambda containerd: containerd.name)
def daemon(request: pytest.FixtureRequest) -> Iterator[Daemon]:
    with Daemon(request.param) as daemon:
        yield daemon


MakeImages = Callable[..., Awaitable[Images]]


@pytest.fixture
async def make_images(daemon: Daemon, tmp_path: Path) -> AsyncIterator[MakeImages]:
    """Creates ``Images`` on the daemon; keywords go into the table ``[images]``. What the test
    pulled is removed after it, and nothing else may be left."""
    containerd = await Containerd.connect(daemon.address)
    await containerd.wait_ready()
    made: list[Images] = []

    async def make(**table: object) -> Images:
        images = images_on(containerd, tmp_path, table)
        await images.start()
        made.append(images)
        return images

    yield make
    for images in made:
        await images.reconcile()
        for image in (await images.list(ListImagesPlan(image=""))).images:
            await images.remove(removal(image.id))
        await images.close()
    await containerd.close()
    assert daemon.ctr("leases", "list", "--quiet") == ""
    assert daemon.ctr("images", "list", "--quiet") == ""


def images_on(
    containerd: Containerd,
    tmp_path: Path,
    table: Mapping[str, object],
    *,
    snapshotter: str = "overlayfs",
) -> Images:
    """``Images`` that are not started."""
    table = {"registry": {"config_path": str(tmp_path / "certs.d")}, **table}
    return Images(
        containerd=containerd,
        config=file.load(None, {"images": table, "containerd": {"snapshotter": snapshotter}}),
        host=Host(hostname="test"),
        handlers=Handlers(Handler("runc", snapshotter=snapshotter)),
        left_out=lambda _kind: None,
        metrics=Pulls(),
    )


class Pulls:
    """Records the pulls that ended."""

    def __init__(self) -> None:
        self.running = 0
        self.ended: list[tuple[bool, int]] = []
        """Whether each succeeded, and the bytes that it received."""

    def pull_began(self) -> None:
        self.running += 1

    def pull_ended(self, *, succeeded: bool, received: int, seconds: float) -> None:
        assert seconds > 0
        self.running -= 1
        self.ended.append((succeeded, received))


@pytest.fixture
async def images(make_images: MakeImages) -> Images:
    return await make_images()


def removal(name: str) -> RemoveImagePlan:
    return RemoveImagePlan(image=name)


async def pull(images: Images, name: str, **auth: str) -> str:
    """The id of the pulled image."""
    request = api_pb2.PullImageRequest(
        image=api_pb2.ImageSpec(image=name), auth=api_pb2.AuthConfig(**auth)
    )
    return (await images.pull(plan_pull_image(request))).image_ref


async def status(images: Images, name: str) -> api_pb2.Image:
    """The image, empty if it does not exist here."""
    return (await images.status(ImageStatusPlan(image=name, verbose=False))).image


def write_hosts(tmp_path: Path, host: str, text: str) -> None:
    """A ``hosts.toml`` for a registry."""
    directory = tmp_path / "certs.d" / host
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "hosts.toml").write_text(text)
