"""A task is created in spite of the bundle of an earlier one."""

from __future__ import annotations

import asyncio
from pathlib import Path

import grpc
import pytest

from generated.containerd import tasks_pb2
from runtime.errors import Unknown
from runtime.tasks import creation
from tests.unit.sandboxes.fakes import FakeContainerd, FakeTask, rpc_error


class Daemon(FakeContainerd):
    """A daemon that creates no task while there is a bundle with its ID."""

    def __init__(self, bundles: Path, words: str) -> None:
        super().__init__()
        self.bundles = bundles
        self.words = words

    def tasks_create(self, request: tasks_pb2.CreateTaskRequest) -> object:
        bundle = self.bundles / request.container_id
        if bundle.exists():
            raise rpc_error(grpc.StatusCode.UNKNOWN, self.words.format(bundle))
        return super().tasks_create(request)


class Late(Daemon):
    """A daemon whose cleanup of an earlier task deletes the bundles of the next ones."""

    failures = 0
    tried = 0

    def tasks_create(self, request: tasks_pb2.CreateTaskRequest) -> object:
        self.tried += 1
        if self.tried <= self.failures:
            raise rpc_error(grpc.StatusCode.UNKNOWN, self.words)
        return super().tasks_create(request)


@pytest.fixture(
    params=["failed to start shim: mkdir {}: file exists: unknown", "mkdir {}: file exists"]
)
def daemon(request: pytest.FixtureRequest, tmp_path: Path) -> Daemon:
    daemon = Daemon(tmp_path, request.param)
    (tmp_path / "c1").mkdir()
    (tmp_path / "c1" / "config.json").write_text("{}")
    return daemon


async def create(daemon: Daemon, container_id: str = "c1") -> None:
    request = tasks_pb2.CreateTaskRequest(container_id=container_id)
    await creation.create_task(daemon, request)  # type: ignore[arg-type]


async def test_a_creation_waits_until_the_daemon_has_deleted_the_bundle(daemon: Daemon) -> None:
    call = asyncio.create_task(create(daemon))
    await daemon.called("tasks.Create")
    await asyncio.sleep(0.05)
    assert not call.done()
    (daemon.bundles / "c1" / "config.json").unlink()
    (daemon.bundles / "c1").rmdir()
    await call
    assert set(daemon.running) == {"c1"}
    assert daemon.calls.count("tasks.Create") == 2


async def test_a_bundle_that_the_daemon_gave_up_is_deleted(
    daemon: Daemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(creation, "_CLEAN_UP_LIMIT", 0.05)
    await create(daemon)
    assert set(daemon.running) == {"c1"}
    assert not (daemon.bundles / "c1").exists()


async def test_the_bundle_of_a_task_that_exists_is_kept(
    daemon: Daemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(creation, "_CLEAN_UP_LIMIT", 0.05)
    daemon.running["c1"] = FakeTask()
    with pytest.raises(grpc.RpcError):
        await create(daemon)
    assert (daemon.bundles / "c1" / "config.json").exists()


async def test_a_bundle_that_cannot_be_deleted_is_named(
    daemon: Daemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def busy(directory: Path) -> None:
        raise OSError(16, "Device or resource busy")

    monkeypatch.setattr(creation, "_CLEAN_UP_LIMIT", 0.05)
    monkeypatch.setattr(creation, "remove_tree", busy)
    with pytest.raises(Unknown, match=r"the bundle /.*/c1 .* resource busy.* restart containerd"):
        await create(daemon)


_DELETED = (
    "failed to start shim: start failed: io.containerd.runc.v2: getwd: no such file or directory"
)


@pytest.mark.parametrize("failures", [1, 3])
async def test_a_task_whose_bundle_the_daemon_deletes_is_created_again(
    tmp_path: Path, failures: int
) -> None:
    daemon = Late(tmp_path, _DELETED)
    daemon.failures = failures
    await create(daemon)
    assert set(daemon.running) == {"c1"}
    assert daemon.tried == failures + 1


async def test_a_task_is_not_created_again_without_end(tmp_path: Path) -> None:
    daemon = Late(tmp_path, _DELETED)
    daemon.failures = 100
    with pytest.raises(grpc.RpcError, match="getwd"):
        await create(daemon)
    assert daemon.tried == 4


@pytest.mark.parametrize(
    "words",
    [
        "getwd: no such file or directory",
        "failed to create shim task: mkdir /sys/fs/cgroup/pod: file exists",
        "mkdir c1: file exists",
        "told to fail",
    ],
)
async def test_every_other_error_is_raised_at_once(tmp_path: Path, words: str) -> None:
    daemon = Daemon(tmp_path, words)
    (tmp_path / "c1").mkdir()
    with pytest.raises(grpc.RpcError):
        await create(daemon)
    assert daemon.calls == ["tasks.Create"]
    assert (tmp_path / "c1").exists()
