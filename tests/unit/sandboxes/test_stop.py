"""Stop and remove: repeatable, every part is tried, nothing is left."""

from __future__ import annotations

import asyncio
from pathlib import Path

import grpc
import pytest
from google.protobuf.empty_pb2 import Empty

from generated.containerd import task_types_pb2
from generated.cri import api_pb2
from generated.lifecycle import ContainerEvent, ContainerState, SandboxEvent, SandboxState
from runtime.errors import CriError, FailedPrecondition, Unavailable
from runtime.linux import netns
from runtime.sandboxes import stop
from runtime.sandboxes.operations import Sandboxes
from runtime.store.objects import Container, Sandbox
from runtime.transforms import facts

from .fakes import FakeTask, World, run_request
from .test_run import assert_nothing_is_left, namespaces, world

__all__ = ["namespaces", "world"]

STOP = api_pb2.StopPodSandboxRequest()
REMOVE = api_pb2.RemovePodSandboxRequest()


def operations(world: World) -> Sandboxes:
    return Sandboxes(world.services)


@pytest.fixture
async def sandbox(world: World, monkeypatch: pytest.MonkeyPatch) -> Sandbox:
    """A running pod."""
    answer = await operations(world).run(run_request())
    found = world.store.sandboxes.get(answer.pod_sandbox_id)
    assert found is not None
    monkeypatch.setattr(netns, "is_alive", lambda path: True)
    return found


def add_container(world: World, sandbox: Sandbox, state: ContainerState) -> Container:
    metadata = facts.ContainerMetadata(
        id=f"c-{state.value}",
        name=f"c-{state.value}",
        sandbox_id=sandbox.id,
        config=api_pb2.ContainerConfig(),
    )
    container = world.store.containers.add(metadata, facts.ContainerStatus(state), recovered=True)
    if state in (ContainerState.RUNNING, ContainerState.UNKNOWN):
        start_task(world, container)
    if state is ContainerState.RUNNING:
        world.exits.follow_container(container)
    return container


def start_task(world: World, container: Container) -> None:
    task = FakeTask()
    task.status = task_types_pb2.RUNNING
    world.containerd.running[container.id] = task


async def test_every_container_ends_and_the_network_is_released(
    world: World, sandbox: Sandbox, namespaces: set[str]
) -> None:
    for state in (ContainerState.RUNNING, ContainerState.UNKNOWN, ContainerState.CREATED):
        add_container(world, sandbox, state)
    await operations(world).stop(sandbox, STOP)
    assert sorted(world.containers.calls) == ["stop c-RUNNING 0", "stop c-UNKNOWN 0"]
    assert sandbox.state is SandboxState.NOTREADY
    assert (world.network.attached, namespaces) == (set(), set())
    assert world.containerd.running == {}


async def test_a_second_stop_does_nothing(world: World, sandbox: Sandbox) -> None:
    await operations(world).stop(sandbox, STOP)
    calls = list(world.network.calls), len(world.containerd.calls)
    await operations(world).stop(sandbox, STOP)
    assert (world.network.calls, len(world.containerd.calls)) == calls


async def test_a_failed_teardown_is_tried_again_by_the_next_stop(
    world: World, sandbox: Sandbox, namespaces: set[str]
) -> None:
    world.network.fail.add("DEL")
    with pytest.raises(CriError, match="told to fail"):
        await operations(world).stop(sandbox, STOP)
    assert namespaces
    assert world.containerd.running == {}
    world.network.fail.clear()
    await operations(world).stop(sandbox, STOP)
    assert not namespaces


async def test_a_container_that_is_starting_is_waited_for(world: World, sandbox: Sandbox) -> None:
    container = add_container(world, sandbox, ContainerState.STARTING)
    stop = asyncio.ensure_future(operations(world).stop(sandbox, STOP))
    await asyncio.sleep(0.01)
    assert not stop.done()
    start_task(world, container)
    await container.fire(ContainerEvent.STARTED, pid=8, started_at=1)
    world.exits.follow_container(container)
    await stop
    assert container.state is ContainerState.EXITED


async def test_concurrent_stops_share_the_work(world: World, sandbox: Sandbox) -> None:
    sandboxes = operations(world)
    await asyncio.gather(*(sandboxes.stop(sandbox, STOP) for _ in range(5)))
    assert world.network.calls == ["ADD", "DEL strict"]


async def test_nothing_is_left_of_a_removed_pod(
    world: World, sandbox: Sandbox, namespaces: set[str]
) -> None:
    add_container(world, sandbox, ContainerState.RUNNING)
    await operations(world).remove(sandbox, REMOVE)
    assert_nothing_is_left(world, namespaces)
    assert len(world.store.containers) == 0


@pytest.mark.parametrize("call", ["leases.Delete", "snapshots.Remove", "containers.Delete"])
async def test_a_failed_removal_is_repeated(
    world: World, sandbox: Sandbox, namespaces: set[str], call: str
) -> None:
    world.containerd.fail[call] = grpc.StatusCode.UNAVAILABLE
    with pytest.raises(CriError, match="told to fail"):
        await operations(world).remove(sandbox, REMOVE)
    assert sandbox.state is SandboxState.NOTREADY
    assert world.store.sandboxes.get(sandbox.id) is sandbox
    world.containerd.fail.clear()
    await operations(world).remove(sandbox, REMOVE)
    assert_nothing_is_left(world, namespaces)


async def test_the_record_that_recovery_starts_from_is_deleted_last(
    world: World, sandbox: Sandbox
) -> None:
    await operations(world).remove(sandbox, REMOVE)
    calls = world.containerd.calls
    assert calls.index("sandboxes.Delete") < calls.index("containers.Delete")


async def test_a_stop_waits_for_a_limited_time_for_an_unkillable_process(
    world: World, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stop, "_END_LIMIT", 0.01)
    monkeypatch.setattr(world.containerd, "tasks_kill", lambda request: Empty())
    with pytest.raises(Unavailable, match=f"pod {sandbox.id} did not exit within"):
        await operations(world).stop(sandbox, STOP)
    assert sandbox.state is SandboxState.READY


async def test_the_snapshot_is_removed_from_where_it_was_made(
    world: World, sandbox: Sandbox
) -> None:
    assert sandbox.snapshotter == "overlayfs"
    sandbox.snapshotter = "native"  # as recovery reads it; the configuration has changed since
    await operations(world).remove(sandbox, REMOVE)
    assert world.containerd.snapshotters == {"native"}


async def test_a_stop_overtaken_by_a_removal_succeeds(
    world: World, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.network.fail.add("DEL")
    with pytest.raises(CriError):
        await operations(world).stop(sandbox, STOP)

    async def delete(*_: object, **__: object) -> None:
        sandbox.fire(SandboxEvent.REMOVE)

    monkeypatch.setattr(world.network, "delete", delete)
    await operations(world).stop(sandbox, STOP)
    assert sandbox.state is SandboxState.REMOVING


async def test_a_removal_under_way_refuses_another(world: World, sandbox: Sandbox) -> None:
    results = await asyncio.gather(
        *(operations(world).remove(sandbox, REMOVE) for _ in range(2)), return_exceptions=True
    )
    assert sum(isinstance(result, FailedPrecondition) for result in results) == 1


async def test_an_incomplete_pod_is_removed(
    world: World, namespaces: set[str], tmp_path: Path
) -> None:
    world.network.fail = {"ADD", "DEL"}
    with pytest.raises(CriError):
        await operations(world).run(run_request())
    (kept,) = world.store.sandboxes
    await operations(world).stop(kept, STOP)
    await operations(world).remove(kept, REMOVE)
    assert world.network.calls == ["ADD", "DEL strict", "DEL lenient"]
    world.network.attached.clear()
    assert_nothing_is_left(world, namespaces)
