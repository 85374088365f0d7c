"""What an earlier server left becomes objects again; what contradicts itself becomes UNKNOWN."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from google.protobuf import any_pb2
from google.protobuf.timestamp_pb2 import Timestamp

from generated.containerd import containers_pb2, task_types_pb2
from generated.cri import api_pb2
from generated.lifecycle import ContainerState, SandboxState
from runtime.linux import netns
from runtime.sandboxes import run
from runtime.server import recovery
from runtime.store import records
from runtime.transforms import facts, labels

from .fakes import FakeTask, World

SANDBOX = "a" * 64
CONTAINER = "c" * 64


@pytest.fixture
async def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    async def remove(path: str) -> None:
        pass

    monkeypatch.setattr(netns, "remove", remove)
    return World(tmp_path)


def leave_sandbox(world: World, status: int | None) -> facts.SandboxMetadata:
    metadata = facts.SandboxMetadata(
        id=SANDBOX, name="pod_ns_u_0", config=api_pb2.PodSandboxConfig(), ip="10.0.0.2"
    )
    leave_record(
        world,
        SANDBOX,
        "sandbox",
        {records.SANDBOX_EXTENSION: records.sandbox_extension(metadata)},
        status,
    )
    return metadata


def leave_container(world: World, saved: str, status: int | None, code: int = 0) -> None:
    metadata = facts.ContainerMetadata(
        id=CONTAINER, name="app", sandbox_id=SANDBOX, config=api_pb2.ContainerConfig()
    )
    extension = {records.CONTAINER_EXTENSION: records.container_extension(metadata)}
    leave_record(world, CONTAINER, "container", extension, status, code)
    times: dict[str, dict[str, Any]] = {
        "created": {"created_at": 1},
        "running": {"created_at": 1, "started_at": 2, "pid": 7},
        "exited": {"created_at": 1, "started_at": 2, "finished_at": 3, "exit_code": 9},
    }
    if saved != "lost":
        known = facts.ContainerStatus(ContainerState.UNKNOWN, **times[saved])
        world.store.checkpoints.save(CONTAINER, known)


def leave_record(
    world: World,
    record_id: str,
    kind: str,
    extensions: Mapping[str, any_pb2.Any],
    status: int | None,
    code: int = 0,
) -> None:
    record = containers_pb2.Container(
        id=record_id,
        labels={labels.KIND: kind},
        created_at=Timestamp(seconds=5),
        extensions=extensions,
    )
    world.containerd.records[record_id] = record
    if status is not None:
        task = FakeTask()
        if status == task_types_pb2.STOPPED:
            task.end(code)
        task.status = status  # type: ignore[assignment]
        world.containerd.running[record_id] = task


def leave_note(world: World, metadata: facts.SandboxMetadata) -> None:
    """The note of a RunPodSandbox that never ended."""
    directory = Path(world.store.layout.sandbox(metadata).root_dir)
    directory.mkdir(parents=True)
    note = directory / run.UNFINISHED
    note.write_bytes(records.sandbox_metadata_json(metadata))


async def recovered(world: World) -> None:
    await recovery.recover(world.services, world.log_keeper)


@pytest.mark.parametrize(
    ("task", "state", "left"),
    [
        (task_types_pb2.RUNNING, SandboxState.READY, True),
        # its deletion ends the shim, so it waits until the pod is removed
        (task_types_pb2.STOPPED, SandboxState.NOTREADY, True),
        (task_types_pb2.CREATED, SandboxState.NOTREADY, False),
        (None, SandboxState.NOTREADY, False),
    ],
)
async def test_a_pod_is_what_its_pause_task_is(
    world: World, task: int | None, state: SandboxState, left: bool
) -> None:
    metadata = leave_sandbox(world, task)
    await recovered(world)
    sandbox = world.store.sandboxes.get(SANDBOX)
    assert sandbox is not None
    assert (sandbox.state, sandbox.metadata) == (state, metadata)
    assert sandbox.status.created_at == 5 * 10**9
    assert bool(world.containerd.running) is left
    assert world.store.names.holder("pod_ns_u_0") == SANDBOX


@pytest.mark.parametrize(
    ("saved", "task", "state", "code", "reason"),
    [
        ("created", None, ContainerState.CREATED, 0, ""),
        ("created", task_types_pb2.CREATED, ContainerState.CREATED, 0, ""),
        ("created", task_types_pb2.RUNNING, ContainerState.RUNNING, 0, ""),
        ("created", task_types_pb2.STOPPED, ContainerState.EXITED, 4, ""),
        ("running", None, ContainerState.EXITED, 255, "Unknown"),
        ("running", task_types_pb2.RUNNING, ContainerState.RUNNING, 0, ""),
        ("running", task_types_pb2.STOPPED, ContainerState.EXITED, 4, ""),
        ("running", task_types_pb2.CREATED, ContainerState.UNKNOWN, 0, ""),
        ("exited", None, ContainerState.EXITED, 9, ""),
        ("exited", task_types_pb2.STOPPED, ContainerState.EXITED, 9, ""),
        ("exited", task_types_pb2.RUNNING, ContainerState.UNKNOWN, 9, ""),
        ("lost", None, ContainerState.UNKNOWN, 255, "Unknown"),
        ("lost", task_types_pb2.RUNNING, ContainerState.RUNNING, 0, ""),
        ("lost", task_types_pb2.STOPPED, ContainerState.EXITED, 4, ""),
    ],
)
async def test_a_container_is_what_its_task_and_its_file_say(
    world: World, saved: str, task: int | None, state: ContainerState, code: int, reason: str
) -> None:
    leave_sandbox(world, task_types_pb2.RUNNING)
    leave_container(world, saved, task, code=4)
    await recovered(world)
    container = world.store.containers.get(CONTAINER)
    assert container is not None
    status = container.status
    assert (status.state, status.exit_code, status.reason) == (state, code, reason)
    assert (f"open {CONTAINER}" in world.log_keeper.calls) == (state is ContainerState.RUNNING)


async def test_one_bad_record_does_not_keep_the_others(world: World) -> None:
    leave_sandbox(world, None)
    leave_record(world, "b" * 64, "sandbox", {}, None)
    await recovered(world)
    assert [sandbox.id for sandbox in world.store.sandboxes] == [SANDBOX]


async def test_a_half_made_pod_is_undone(world: World) -> None:
    metadata = leave_sandbox(world, task_types_pb2.RUNNING)
    world.containerd.held_leases.add(SANDBOX)
    world.containerd.held_snapshots.add(SANDBOX)
    leave_note(world, metadata)
    await recovered(world)
    assert world.containerd.holdings == set()
    assert world.directories == []
    assert len(world.store.sandboxes) == 0


async def test_directories_that_nobody_owns_are_removed(world: World) -> None:
    leave_sandbox(world, None)
    layout = world.store.layout
    for name in (SANDBOX, "d" * 64, "keep-me"):
        (layout.root / "sandboxes" / name).mkdir(parents=True)
    await recovered(world)
    left = sorted(path.name for path in (layout.root / "sandboxes").iterdir())
    assert left == [SANDBOX, "keep-me"]
