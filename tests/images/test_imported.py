"""Images that other clients put into containerd: before the server starts, and while it runs."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from runtime.images.operations import Images
from tests.harness import images as build
from tests.harness.daemon import Daemon
from tests.harness.node import all_containerds
from tests.harness.registry import Registry
from tests.harness.waiting import until
from tests.images.conftest import MakeImages, status


@pytest.fixture(scope="module", params=all_containerds(), ids=lambda containerd: containerd.name)
def daemon(request: pytest.FixtureRequest) -> Iterator[Daemon]:
    """Every available version: each handles images of other clients differently."""
    with Daemon(request.param) as daemon:
        yield daemon


NAME = "docker.io/library/imported:1"
MANAGED = "io.cri-containerd.image=managed"


@pytest.fixture
def archive(tmp_path: Path, image: build.Image) -> Path:
    file = tmp_path / "image.tar"
    file.write_bytes(build.archive(image, NAME))
    return file


async def test_image_imported_beside_a_running_server(
    images: Images, daemon: Daemon, archive: Path, image: build.Image
) -> None:
    """containerd 2.x panics at an update of an image without its target: the daemon must live."""
    daemon.ctr("images", "import", str(archive))
    await until(lambda: MANAGED in daemon.ctr("images", "list", f"name=={NAME}"))
    assert (await status(images, NAME)).id == image.config.digest
    assert image.config.digest in daemon.ctr("images", "list", "-q")
    assert daemon.process.poll() is None


async def test_image_that_was_there_before_the_server(
    make_images: MakeImages, daemon: Daemon, archive: Path, image: build.Image
) -> None:
    daemon.ctr("images", "import", str(archive))
    images = await make_images()
    assert MANAGED in daemon.ctr("images", "list", f"name=={NAME}")
    assert (await status(images, NAME)).id == image.config.digest
    assert daemon.process.poll() is None


async def test_annotations_are_those_of_the_manifest_for_this_platform(
    images: Images, daemon: Daemon, tmp_path: Path, registry: Registry
) -> None:
    """As buildah writes them; an image of several platforms has them below its index."""
    layer = build.layer_tar({"a": b"1"})
    made = build.image([layer], annotations={"org.example/made-of": "counter"})
    file = tmp_path / "image.tar"
    file.write_bytes(build.archive(made, NAME))
    daemon.ctr("images", "import", str(file))
    await until(lambda: MANAGED in daemon.ctr("images", "list", f"name=={NAME}"))
    build.push(registry.url, "annotated:1", {"amd64": made, "arm64": build.image([layer])})
    pulled = registry.url.removeprefix("http://") + "/annotated:1"
    await images.ensure(pulled)
    for name in (NAME, pulled):
        found = await images.resolve(name)
        assert found is not None
        assert await images.annotations(found) == {"org.example/made-of": "counter"}
