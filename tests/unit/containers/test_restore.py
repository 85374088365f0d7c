"""Containers created from checkpoints: what is taken from the archive, and what is refused."""

from __future__ import annotations

import io
import json
import os
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import grpc
import pytest

from generated.containerd import runc_options_pb2
from generated.cri import api_pb2
from generated.lifecycle import ContainerState
from generated.plans import ContainerPlan, plan_container, plan_restored_container
from runtime.config.tables import Config
from runtime.containers import restore
from runtime.errors import CriError, FailedPrecondition, InvalidArgument
from runtime.lookups import criu
from runtime.transforms import facts
from runtime.transforms.annotations import CHECKPOINT_OF

from .world import IMAGE, World

CONFIG = {"rootfsImageName": IMAGE.reference, "rootfsImageRef": "x", "checkpointedTime": "then"}
STATUS = {"annotations": {"old": "1", "both": "old", "cdi.k8s.io/x": "v.com/a=b"}}
FILES = {
    "config.dump": json.dumps(CONFIG).encode(),
    "status.dump": json.dumps(STATUS).encode(),
    "checkpoint/inventory.img": b"memory",
    "rootfs-diff.tar": b"changed",
    "container.log": b"said\n",
    "stats-dump": b"not needed",
}


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    async def works(*, enabled: bool) -> None:
        assert enabled

    monkeypatch.setattr(criu, "must_work", works)
    return World(tmp_path, config=Config(enable_experimental_restore_via_create=True))


def archive(directory: Path, files: dict[str, bytes], mode: Literal["w", "w:gz"] = "w") -> str:
    path = directory / "checkpoint.tar"
    with tarfile.open(path, mode) as tar:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return str(path)


@pytest.mark.parametrize("mode", ["w", "w:gz"])
async def test_a_container_is_created_and_started_from_an_archive(
    world: World, tmp_path: Path, mode: Literal["w", "w:gz"]
) -> None:
    logs = tmp_path / "logs"
    logs.mkdir()
    world.pod.metadata.config.log_directory = str(logs)
    path = archive(tmp_path, FILES, mode)
    container = await world.created(
        path, log_path="app.log", annotations={"new": "2", "both": "new"}
    )
    config = container.metadata.config
    assert config.image.image == IMAGE.reference
    assert dict(config.annotations) == {
        **{"old": "1", "new": "2", "both": "new"},
        **{"restored": "true", "checkpointedAt": "then", "checkpointImage": path},
    }
    target = world.store.layout.container_restore(container.id)
    assert sorted(os.listdir(target)) == ["checkpoint", "container.log", "rootfs-diff.tar"]
    ((layer, mounts),) = world.images.applied
    assert layer == b"changed"
    assert mounts == world.containers.services.prepared[container.id]
    assert (logs / "app.log").read_bytes() == b"said\n"
    assert not world.daemon.held_leases
    await world.containers.start(container, api_pb2.StartContainerRequest())
    request = world.daemon.task_requests[container.id]
    options = runc_options_pb2.Options.FromString(request.options.value)
    assert options.criu_image_path == str(target / "checkpoint")
    assert options.criu_work_path == str(target)
    assert container.state is ContainerState.RUNNING
    assert not target.exists()


async def test_an_ordinary_container_starts_with_the_options_of_its_record(world: World) -> None:
    container = await world.running()
    assert not world.daemon.task_requests[container.id].HasField("options")


async def test_what_criu_says_of_a_failed_restore_is_in_the_status(
    world: World, tmp_path: Path
) -> None:
    container = await world.created(archive(tmp_path, FILES))
    log = world.store.layout.container_restore(container.id) / "restore.log"
    log.write_text("(00.1) Error (criu/mount.c:9): no mount\n")
    world.daemon.fail["tasks.Start"] = grpc.StatusCode.UNKNOWN
    with pytest.raises(CriError, match=r"Error \(criu/mount\.c:9\): no mount"):
        await world.containers.start(container, api_pb2.StartContainerRequest())
    assert container.state is ContainerState.EXITED
    assert "no mount" in container.status.message


async def test_a_log_that_has_begun_is_kept(world: World, tmp_path: Path) -> None:
    (tmp_path / "app.log").write_text("mine\n")
    world.pod.metadata.config.log_directory = str(tmp_path)
    await world.created(archive(tmp_path, FILES), log_path="app.log")
    assert (tmp_path / "app.log").read_text() == "mine\n"


async def test_only_expected_files_are_unpacked(world: World, tmp_path: Path) -> None:
    path = archive(
        tmp_path,
        {
            **FILES,
            "../outside": b"",
            "checkpoint/../../outside": b"",
            "checkpoint/a/b": b"",
            "status": b"",
        },
    )
    with tarfile.open(path, "a") as tar:
        link = tarfile.TarInfo("checkpoint/link")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(link)
    container = await world.created(path)
    target = world.store.layout.container_restore(container.id)
    assert os.listdir(target / "checkpoint") == ["inventory.img"]
    assert not any("outside" in files for _, _, files in os.walk(tmp_path))


def _named(image: str) -> ContainerPlan:
    return plan_container(api_pb2.ContainerConfig(image=api_pb2.ImageSpec(image=image)))


@pytest.mark.parametrize("key", CHECKPOINT_OF)
async def test_an_image_with_the_annotation_is_a_checkpoint(world: World, key: str) -> None:
    requested = await restore.requested(world.containers.services, _named(IMAGE.reference))
    assert requested is None
    world.images.about = {key: "app"}
    requested = await restore.requested(world.containers.services, _named(IMAGE.reference))
    assert requested == restore.Checkpoint(IMAGE.reference, IMAGE)
    assert await restore.requested(world.containers.services, _named("other:1")) is None


async def test_the_files_of_an_image_are_unpacked(world: World, tmp_path: Path) -> None:
    for name, data in FILES.items():
        file = world.daemon.rootfs / name
        file.parent.mkdir(exist_ok=True)
        file.write_bytes(data)
    world.images.about = {CHECKPOINT_OF[0]: "app"}
    container = await world.created()
    target = world.store.layout.container_restore(container.id)
    assert (target / "checkpoint" / "inventory.img").read_bytes() == b"memory"
    assert container.metadata.config.annotations["checkpointImage"] == IMAGE.reference


def _without(*names: str) -> Callable[[Path], str]:
    files = {name: data for name, data in FILES.items() if name not in names}
    return lambda directory: archive(directory, files)


def _with(name: str, document: object) -> Callable[[Path], str]:
    return lambda directory: archive(directory, {**FILES, name: json.dumps(document).encode()})


def _text(directory: Path) -> str:
    (directory / "file").write_text("text")
    return str(directory / "file")


@pytest.mark.parametrize(
    ("path", "said"),
    [
        (_without("config.dump"), "it has no config.dump"),
        (_without("checkpoint/inventory.img"), "it has no files of CRIU"),
        (_with("config.dump", {"rootfsImageName": ""}), "does not name the image"),
        (_with("config.dump", {"rootfsImageName": 1}), "config.dump of the checkpoint .*rootfsIm"),
        (_with("status.dump", {"annotations": {"a": 1}}), "status.dump of the checkpoint .*annot"),
        (_text, "is not the archive of a checkpoint"),
        (lambda directory: str(directory / "none"), "cannot open .*: No such file"),
        (str, "is not a regular file"),
    ],
)
async def test_what_is_no_checkpoint_is_refused_and_leaves_nothing(
    world: World, tmp_path: Path, path: Callable[[Path], str], said: str
) -> None:
    with pytest.raises(InvalidArgument, match=f"config.image.image: .*{said}"):
        await world.created(path(tmp_path))
    assert world.daemon.holdings == set()
    directory = world.store.layout.container_root("x").parent
    assert not directory.exists() or not list(directory.iterdir())


async def test_a_checkpoint_of_cri_o_has_no_status(world: World, tmp_path: Path) -> None:
    container = await world.created(_without("status.dump")(tmp_path))
    assert "old" not in container.metadata.config.annotations


async def test_a_path_is_refused_while_restoring_is_disabled(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.images.about = {CHECKPOINT_OF[0]: "app"}
    with pytest.raises(FailedPrecondition, match="enable_experimental_restore_via_create = true"):
        await world.created(archive(tmp_path, FILES))
    container = await world.created()  # an image to run, whatever it is made of
    assert not world.store.layout.container_restore(container.id).exists()


def test_devices_and_classes_are_not_taken_from_a_checkpoint() -> None:
    old = facts.Checkpoint(
        "/c.tar",
        annotations={
            "a": "1",
            "cdi.k8s.io/x": "v.com/a=b",
            "rdt.resources.beta.kubernetes.io/pod": "gold",
            "blockio.resources.beta.kubernetes.io/pod": "gold",
        },
    )
    plan = plan_restored_container(api_pb2.ContainerConfig(), checkpoint=old)
    about = {"restored": "true", "checkpointedAt": "", "checkpointImage": "/c.tar"}
    assert plan.restored_annotations == {"a": "1", **about}


def test_a_restored_container_has_the_annotations_of_the_request_over_the_old_ones() -> None:
    config = api_pb2.ContainerConfig(annotations={"a": "new", "cdi.k8s.io/x": "v.com/a=b"})
    old = facts.Checkpoint(
        "reg.example/c:1",
        checkpointed_at="2026-01-02T03:04:05Z",
        annotations={"a": "old", "b": "old", "checkpointImage": "an older one"},
    )
    assert plan_restored_container(config, checkpoint=old).restored_annotations == {
        "a": "new",
        "b": "old",
        "cdi.k8s.io/x": "v.com/a=b",
        "restored": "true",
        "checkpointedAt": "2026-01-02T03:04:05Z",
        "checkpointImage": "reg.example/c:1",
    }
