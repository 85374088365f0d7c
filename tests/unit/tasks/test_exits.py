"""A task's exit is observed once, never inferred from a failed call, and handled until that
succeeds."""

from __future__ import annotations

import asyncio
from pathlib import Path

import grpc
import pytest
from google.protobuf.any_pb2 import Any as AnyMessage

from generated.containerd import (
    cgroup1_metrics_pb2,
    cgroup2_metrics_pb2,
    task_types_pb2,
    tasks_pb2,
)
from generated.cri import api_pb2
from generated.lifecycle import ContainerState, SandboxState
from runtime.store.objects import Container, Sandbox
from runtime.tasks import exits
from runtime.tasks.calls import delete_task
from runtime.tasks.oom import oom_kills
from runtime.transforms import facts
from tests.harness.waiting import PATIENCE, until
from tests.unit.sandboxes.fakes import FakeTask, World, rpc_error


@pytest.fixture
async def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    monkeypatch.setattr(exits, "_RECONNECT_PAUSE", 0.001)
    monkeypatch.setattr(exits, "_FIRST_PAUSE", 0.001)
    return World(tmp_path)


def running(world: World) -> tuple[Container, FakeTask]:
    """A running container that is followed."""
    task = FakeTask()
    task.status = task_types_pb2.RUNNING
    world.containerd.running["c1"] = task
    metadata = facts.ContainerMetadata(
        id="c1", name="c1", sandbox_id="s1", config=api_pb2.ContainerConfig()
    )
    status = facts.ContainerStatus(ContainerState.RUNNING, pid=7, created_at=1, started_at=2)
    world.store.layout.container_root("c1").mkdir(parents=True)
    container = world.store.containers.add(metadata, status)
    world.exits.follow_container(container)
    return container, task


async def ended(container: Container) -> facts.ContainerStatus:
    await asyncio.wait_for(container.exited.wait(), PATIENCE)
    return container.status


async def test_an_exit_is_saved_with_its_code(world: World) -> None:
    container, task = running(world)
    task.end(3)
    status = await ended(container)
    assert (status.state, status.exit_code, status.pid) == (ContainerState.EXITED, 3, 0)
    assert status.finished_at > 0
    assert world.store.checkpoints.load("c1") == status
    assert world.containerd.running == {}
    assert world.log_keeper.calls == ["drained c1", "close c1"]


async def test_an_unreachable_daemon_is_not_an_exit(world: World) -> None:
    container, task = running(world)
    await asyncio.sleep(0)
    world.containerd.away.set()
    await asyncio.sleep(0.02)
    assert container.state is ContainerState.RUNNING
    world.containerd.away.clear()
    await asyncio.sleep(0.02)
    assert container.state is ContainerState.RUNNING
    task.end(4)
    assert (await ended(container)).exit_code == 4


async def test_an_exit_while_the_daemon_was_away_is_found(world: World) -> None:
    container, task = running(world)
    await asyncio.sleep(0)
    world.containerd.away.set()
    await asyncio.sleep(0.01)
    task.end(5)
    world.containerd.away.clear()
    assert (await ended(container)).exit_code == 5


async def test_a_task_unknown_to_the_daemon_has_exited_unobserved(world: World) -> None:
    container, _ = running(world)
    await asyncio.sleep(0)
    world.containerd.away.set()
    await asyncio.sleep(0.01)
    del world.containerd.running["c1"]
    world.containerd.away.clear()
    status = await ended(container)
    assert (status.exit_code, status.reason) == (255, "Unknown")


async def test_an_unexpected_error_of_a_wait_does_not_lose_the_exit(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    wait = world.containerd.wait

    async def broken(task_id: str) -> tasks_pb2.WaitResponse:
        monkeypatch.setattr(world.containerd, "wait", wait)
        raise RuntimeError("nobody thought of this")

    monkeypatch.setattr(world.containerd, "wait", broken)
    container, task = running(world)
    await asyncio.sleep(0.01)
    task.end(4)
    assert (await ended(container)).exit_code == 4
    await asyncio.sleep(0)
    assert world.exits._followers == {} == world.exits._waits


async def test_a_pod_has_ended_even_if_its_task_cannot_be_deleted(world: World) -> None:
    sandbox, pause = ready(world)
    world.containerd.fail["tasks.Delete"] = grpc.StatusCode.DEADLINE_EXCEEDED
    pause.end(137)
    await asyncio.wait_for(sandbox.exited.wait(), PATIENCE)
    assert sandbox.state is SandboxState.NOTREADY
    del world.containerd.fail["tasks.Delete"]
    async with asyncio.timeout(PATIENCE):
        while world.containerd.running:  # noqa: ASYNC110  the exit is handled again
            await asyncio.sleep(0.01)


async def test_handling_an_exit_is_retried(world: World) -> None:
    container, task = running(world)
    world.containerd.fail["tasks.Delete"] = grpc.StatusCode.UNAVAILABLE
    task.end(6)
    await until(lambda: world.containerd.calls.count("tasks.Delete") > 2)
    assert container.state is ContainerState.RUNNING
    del world.containerd.fail["tasks.Delete"]
    assert (await ended(container)).exit_code == 6
    assert world.containerd.calls.count("tasks.Delete") > 2


async def test_an_exit_is_on_disk_before_its_task_is_deleted(world: World) -> None:
    container, task = running(world)
    saved: list[facts.ContainerStatus] = []
    delete = world.containerd.tasks_delete

    def noted(request: tasks_pb2.DeleteTaskRequest) -> object:
        saved.append(world.store.checkpoints.load("c1"))
        assert container.state is ContainerState.RUNNING
        return delete(request)

    world.containerd.tasks_delete = noted  # type: ignore[method-assign]
    task.end(3)
    assert saved == [] and [await ended(container)] == saved


async def test_an_exit_outlives_a_server_that_ends_while_the_output_drains(world: World) -> None:
    container, task = running(world)
    draining = asyncio.Event()

    async def drained(container_id: str) -> None:
        draining.set()
        await asyncio.Event().wait()

    world.log_keeper.drained = drained  # type: ignore[method-assign]
    task.end(42)
    await draining.wait()
    assert container.state is ContainerState.RUNNING
    # an event that arrives while the output drains must not write the old state over the exit
    await container.amend(reason="OOMKilled")
    await world.exits.stop()
    assert world.containerd.running == {}
    left = world.store.checkpoints.load("c1")
    assert (left.state, left.exit_code, left.reason) == (ContainerState.EXITED, 42, "OOMKilled")


async def test_an_oom_event_after_the_exit_gives_the_reason(world: World) -> None:
    container, task = running(world)
    task.end(1)
    assert (await ended(container)).reason == ""
    await world.exits._note_oom("c1")
    assert container.status.reason == "OOMKilled"
    assert world.store.checkpoints.load("c1") == container.status


async def test_an_oom_event_gives_the_reason(world: World) -> None:
    container, task = running(world)
    await world.exits._note_oom("c1")
    assert world.store.checkpoints.load("c1").reason == "OOMKilled"
    task.end(1)
    assert (await ended(container)).reason == "OOMKilled"


async def test_a_task_that_never_started_is_forgotten(world: World) -> None:
    task = FakeTask()
    world.containerd.running["c1"] = task
    wait = world.exits.wait("c1")
    assert world.exits.wait("c1") is wait
    await world.exits.end("c1")
    assert world.containerd.running == {}
    assert world.exits.wait("c1") is not wait


def test_oom_kills_are_counted_on_both_cgroup_versions() -> None:
    v1 = cgroup1_metrics_pb2.Metrics(
        memory_oom_control=cgroup1_metrics_pb2.MemoryOomControl(oom_kill=2)
    )
    v2 = cgroup2_metrics_pb2.Metrics(memory_events=cgroup2_metrics_pb2.MemoryEvents(oom_kill=3))
    for metrics, count in ((v1, 2), (v2, 3)):
        version = "v1" if count == 2 else "v2"
        data = AnyMessage(
            type_url=f"io.containerd.cgroups.{version}.Metrics", value=metrics.SerializeToString()
        )
        assert oom_kills(data) == count
    assert oom_kills(AnyMessage(type_url="something.else")) == 0


async def test_a_delete_is_retried_if_the_shim_exits_during_it(world: World) -> None:
    answers = ["failed to delete task: ttrpc: closed", "not found"]

    def delete(request: object) -> object:
        details = answers.pop(0)
        gone = details == "not found"
        code = grpc.StatusCode.NOT_FOUND if gone else grpc.StatusCode.UNKNOWN
        raise rpc_error(code, details)

    world.containerd.tasks_delete = delete  # type: ignore[method-assign]
    assert await delete_task(world.services.containerd, "c1") is None
    assert answers == []


def ready(world: World) -> tuple[Sandbox, FakeTask]:
    """The pod of that container, followed."""
    task = FakeTask()
    task.status = task_types_pb2.RUNNING
    world.containerd.running["s1"] = task
    metadata = facts.SandboxMetadata(id="s1", name="s1", config=api_pb2.PodSandboxConfig())
    status = facts.SandboxStatus(SandboxState.READY, created_at=1, pid=6)
    sandbox = world.store.sandboxes.add(metadata, status)
    world.exits.follow_sandbox(sandbox)
    return sandbox, task


async def test_the_pause_task_is_deleted_after_those_of_the_containers(world: World) -> None:
    container, task = running(world)
    sandbox, pause = ready(world)
    deleted: list[str] = []
    delete = world.containerd.tasks_delete

    def noted(request: tasks_pb2.DeleteTaskRequest) -> object:
        deleted.append(request.container_id)
        return delete(request)

    world.containerd.tasks_delete = noted  # type: ignore[method-assign]
    pause.end(137)
    await asyncio.sleep(0.02)
    task.end(137)
    await asyncio.wait_for(sandbox.exited.wait(), PATIENCE)
    assert deleted == ["c1", "s1"]
    assert (await ended(container)).exit_code == 137


async def test_a_pod_whose_pause_container_died_alone_is_not_ready(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exits, "_STOPPED_TOGETHER", 0.01)
    container, task = running(world)
    sandbox, pause = ready(world)
    pause.end(137)
    await asyncio.wait_for(sandbox.exited.wait(), PATIENCE)
    assert sandbox.state is SandboxState.NOTREADY
    assert container.state is ContainerState.RUNNING
    assert "s1" in world.containerd.running
    task.end(0)
    await ended(container)
    await asyncio.sleep(0.02)
    assert world.containerd.running == {}
