"""Checkpoints on a containerd in memory: the archive, and a container that always continues."""

from __future__ import annotations

import asyncio
import io
import json
import os
import stat
import tarfile
from collections.abc import Callable
from pathlib import Path

import grpc
import pytest
from google.protobuf.timestamp_pb2 import Timestamp

from generated.containerd import containers_pb2, task_types_pb2
from generated.cri import api_pb2
from generated.lifecycle import ContainerState
from generated.plans import CheckpointContainerPlan
from runtime.config.tables import Config
from runtime.containers import checkpoint, checkpoint_archive
from runtime.errors import (
    CriError,
    DeadlineExceeded,
    FailedPrecondition,
    InvalidArgument,
    Unimplemented,
)
from runtime.lookups import criu
from runtime.store.objects import Container
from runtime.transforms import facts
from tests.harness.waiting import until
from tests.unit.sandboxes.fakes import FakeTask

from .world import World


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    async def works(*, enabled: bool) -> None:
        assert enabled

    monkeypatch.setattr(criu, "must_work", works)
    world = World(tmp_path)
    world.daemon.changed_files = layer("bin/.wh.vi", "kept")
    return world


def layer(*names: str) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as tar:
        for name in names:
            tar.addfile(tarfile.TarInfo(name))
    return file.getvalue()


def task(world: World, container: Container) -> FakeTask:
    return world.daemon.running[container.id]


async def write(world: World, container: Container, archive: Path, limit: int = 120) -> None:
    plan = CheckpointContainerPlan(archive=str(archive), time_limit=limit)
    await world.containers.checkpoint(container, plan)


def nothing_is_left(world: World, container: Container) -> bool:
    directory = world.store.layout.container_checkpoint(container.id)
    return not directory.exists() and not world.daemon.held_leases


async def test_an_archive_is_complete_and_private_and_the_container_continues(
    world: World, tmp_path: Path
) -> None:
    log_directory = tmp_path / "logs"
    log_directory.mkdir()
    (log_directory / "0.log").write_text("said\n")
    container = await world.running()
    container.metadata = facts.ContainerMetadata(
        id=container.id,
        name=container.metadata.name,
        sandbox_id="pod",
        config=container.metadata.config,
        log_path=str(log_directory / "0.log"),
    )
    archive = tmp_path / "checkpoint.tar"
    archive.write_text("an older one, and longer than nothing")
    await write(world, container, archive)
    assert stat.S_IMODE(archive.stat().st_mode) == 0o600
    with tarfile.open(archive) as tar:
        files = {
            member.name: (tar.extractfile(member) or io.BytesIO()).read()
            for member in tar
            if member.isfile()
        }
        assert [member.name for member in tar if member.isdir()] == ["checkpoint"]
    assert set(files) == {
        *("checkpoint/inventory.img", "config.dump", "container.log", "deleted.files", "dump.log"),
        *("rootfs-diff.tar", "spec.dump", "status", "status.dump"),
    }
    assert json.loads(files["spec.dump"])["process"]["args"] == ["run"]
    assert json.loads(files["config.dump"])["id"] == container.id
    assert json.loads(files["status.dump"])["metadata"] == {"name": "app"}
    assert json.loads(files["status"])["Pid"] == 7
    assert json.loads(files["deleted.files"]) == ["/bin/vi"]
    assert files["container.log"] == b"said\n"
    assert files["rootfs-diff.tar"] == world.daemon.changed_files
    assert task(world, container).status == task_types_pb2.RUNNING
    assert nothing_is_left(world, container)
    assert os.listdir(tmp_path).count(".checkpoint.tar.new") == 0


async def test_what_criu_says_is_in_the_error(world: World, tmp_path: Path) -> None:
    world.daemon.dump_log = "(00.1) pid 7\n(00.2) Error (criu/tty.c:1): tty: no\n(00.3) bye\n"
    container = await world.running()
    with pytest.raises(CriError, match=r"DUMP errno 0; Error \(criu/tty\.c:1\): tty: no$"):
        await write(world, container, tmp_path / "a.tar")
    assert task(world, container).status == task_types_pb2.RUNNING
    assert nothing_is_left(world, container)
    assert not (tmp_path / "a.tar").exists()


@pytest.mark.parametrize("call", ["tasks.Pause", "tasks.Checkpoint", "diff.Diff"])
async def test_a_container_continues_after_each_failure(
    world: World, tmp_path: Path, call: str
) -> None:
    container = await world.running()
    world.daemon.fail[call] = grpc.StatusCode.UNAVAILABLE
    with pytest.raises(CriError, match="cannot checkpoint container"):
        await write(world, container, tmp_path / "a.tar")
    assert task(world, container).status == task_types_pb2.RUNNING
    assert nothing_is_left(world, container)
    del world.daemon.fail[call]
    await write(world, container, tmp_path / "a.tar")


async def test_resuming_is_retried(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpoint, "_FIRST_PAUSE", 0.001)
    container = await world.running()
    world.daemon.fail["tasks.Resume"] = grpc.StatusCode.UNAVAILABLE
    writing = asyncio.create_task(write(world, container, tmp_path / "a.tar"))
    await until(lambda: world.daemon.calls.count("tasks.Resume") > 2)
    del world.daemon.fail["tasks.Resume"]
    await writing
    assert task(world, container).status == task_types_pb2.RUNNING


async def test_a_cancelled_call_waits_until_the_container_continues(
    world: World, tmp_path: Path
) -> None:
    container = await world.running()
    world.daemon.hold["tasks.Checkpoint"] = asyncio.Event()
    writing = asyncio.create_task(write(world, container, tmp_path / "a.tar"))
    await world.daemon.called("tasks.Checkpoint")
    writing.cancel()
    await asyncio.sleep(0.01)
    assert not writing.done()
    world.daemon.hold["tasks.Checkpoint"].set()
    with pytest.raises(asyncio.CancelledError):
        await writing
    assert task(world, container).status == task_types_pb2.RUNNING
    assert nothing_is_left(world, container)


async def test_a_checkpoint_that_takes_too_long_is_given_up(world: World, tmp_path: Path) -> None:
    container = await world.running()
    world.daemon.hold["tasks.Checkpoint"] = asyncio.Event()
    asyncio.get_running_loop().call_later(1.1, world.daemon.hold["tasks.Checkpoint"].set)
    with pytest.raises(DeadlineExceeded, match="took longer than 1 s and was aborted"):
        await write(world, container, tmp_path / "a.tar", limit=1)
    assert task(world, container).status == task_types_pb2.RUNNING
    assert not (tmp_path / "a.tar").exists()


async def test_two_checkpoints_of_a_container_take_turns(world: World, tmp_path: Path) -> None:
    container = await world.running()
    await asyncio.gather(
        write(world, container, tmp_path / "a.tar"), write(world, container, tmp_path / "b.tar")
    )
    assert (tmp_path / "a.tar").exists() and (tmp_path / "b.tar").exists()


async def test_an_interrupted_checkpoint_is_ended_by_the_next_server(world: World) -> None:
    container = await world.running()
    task(world, container).status = task_types_pb2.PAUSED
    services = world.containers.services
    await checkpoint.resume_interrupted(services, container.id)
    assert task(world, container).status == task_types_pb2.PAUSED  # by somebody else
    world.store.layout.container_checkpoint(container.id).mkdir()
    await checkpoint.resume_interrupted(services, container.id)
    assert task(world, container).status == task_types_pb2.RUNNING
    assert nothing_is_left(world, container)


async def test_a_container_that_has_exited_is_refused(world: World, tmp_path: Path) -> None:
    container = await world.running()
    task(world, container).end(0)
    await container.exited.wait()
    assert container.state is ContainerState.EXITED
    with pytest.raises(FailedPrecondition, match="is EXITED; only running containers"):
        await write(world, container, tmp_path / "a.tar")


def _no_directory(directory: Path) -> Path:
    return directory / "nowhere" / "a.tar"


def _pipe(directory: Path) -> Path:
    os.mkfifo(directory / "pipe")
    return directory / "pipe"


@pytest.mark.parametrize(
    ("path", "kind", "said"),
    [
        (_no_directory, FailedPrecondition, "location: .*nowhere is not a directory"),
        (_pipe, InvalidArgument, "location: .*pipe exists and is not a regular file"),
    ],
)
async def test_an_archive_that_cannot_be_written_is_refused_before_anything_is_paused(
    world: World,
    tmp_path: Path,
    path: Callable[[Path], Path],
    kind: type[CriError],
    said: str,
) -> None:
    container = await world.running()
    with pytest.raises(kind, match=said):
        await write(world, container, path(tmp_path))
    assert "tasks.Pause" not in world.daemon.calls


def test_the_config_names_the_image_as_the_status_does() -> None:
    status = {"image": {"image": "registry/app:1"}, "image_ref": "registry/app@sha256:1"}
    record = containers_pb2.Container(created_at=Timestamp(seconds=1))
    record.runtime.name = "io.containerd.runc.v2"
    metadata = facts.ContainerMetadata("i", "n", "s", api_pb2.ContainerConfig())
    written = checkpoint_archive.config_dump(
        metadata, status, record, checkpointed_at=Timestamp(seconds=2, nanos=5)
    )
    assert json.loads(written) == {
        "id": "i",
        "name": "n",
        "rootfsImage": "registry/app:1",
        "rootfsImageRef": "registry/app@sha256:1",
        "rootfsImageName": "registry/app:1",
        "runtime": "io.containerd.runc.v2",
        "createdTime": "1970-01-01T00:00:01Z",
        "checkpointedTime": "1970-01-01T00:00:02.000000005Z",
        "restoredTime": "0001-01-01T00:00:00Z",
        "restored": False,
    }


def test_deleted_files_are_the_whiteouts(tmp_path: Path) -> None:
    for names, deleted in (
        (["a/.wh.b", ".wh.c", "d"], ["/a/b", "/c"]),
        (["a/.wh..wh..opq", "d"], None),
    ):
        (tmp_path / "rootfs-diff.tar").write_bytes(layer(*names))
        (tmp_path / "deleted.files").unlink(missing_ok=True)
        checkpoint_archive.list_deleted(tmp_path)
        found = tmp_path / "deleted.files"
        assert (json.loads(found.read_text()) if found.exists() else None) == deleted


def test_a_log_that_is_a_link_is_left_out(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("secret")
    (tmp_path / "log").symlink_to("secret")
    directory = tmp_path / "directory"
    checkpoint_archive.make(directory)
    checkpoint_archive.write(
        directory, tmp_path / "a.tar", log_file=str(tmp_path / "log"), log_size=6
    )
    with tarfile.open(tmp_path / "a.tar") as tar:
        assert tar.getnames() == ["checkpoint"]


async def test_disabled_checkpoints_are_unimplemented(tmp_path: Path) -> None:
    world = World(tmp_path, config=Config(enable_criu=False))
    container = await world.running()
    with pytest.raises(Unimplemented, match="set enable_criu = true"):
        await write(world, container, tmp_path / "a.tar")


@pytest.mark.parametrize(
    ("said", "why"),
    [
        ("Version: 3.15\n", "need CRIU 3.16 or newer, and this node has 3.15"),
        ("nothing", "which is not installed"),
        (None, "which is not installed"),
    ],
)
async def test_a_node_without_a_usable_criu_is_told_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: str | None, why: str
) -> None:
    monkeypatch.setattr(criu, "SEARCH", str(tmp_path))
    if said is not None:
        program = tmp_path / "criu"
        program.write_text(f"#!/bin/sh\nprintf '{said}'\n")
        program.chmod(0o755)
    with pytest.raises(FailedPrecondition, match=why):
        await criu.must_work(enabled=True)


def test_versions_of_criu_are_read() -> None:
    assert criu.parsed("Version: 4.2.1\nGitID: v4.2.1\n") == (4, 2)
    assert criu.parsed("Version: 3.16\n") == criu.OLDEST
