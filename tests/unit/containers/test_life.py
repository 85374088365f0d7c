"""Create, start, stop, remove and update on a containerd in memory, whose steps fail or hang."""

from __future__ import annotations

import asyncio
import signal
from pathlib import Path

import grpc
import pytest
from google.protobuf.any_pb2 import Any as AnyMessage

from generated.cri import api_pb2
from generated.lifecycle import ContainerEvent, ContainerState, SandboxEvent
from generated.oci import types
from runtime.errors import CriError, FailedPrecondition, NotFound, Unknown

from .world import World

HOUR = 3600


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def files(world: World) -> list[Path]:
    layout = world.store.layout
    bases = [layout.container_root("x").parent, layout.container_state("x").parent]
    return [entry for base in bases if base.exists() for entry in base.iterdir()]


# Creating


async def test_a_container_is_recorded_beside_its_snapshot(world: World) -> None:
    container = await world.created()
    record = world.daemon.records[container.id]
    assert (record.image, record.snapshot_key, record.sandbox) == ("app:1", container.id, "pod")
    assert types.Spec.from_json(record.spec.value).process.args == ["run"]
    assert world.daemon.held_snapshots == {container.id}
    assert container.state is ContainerState.CREATED


@pytest.mark.parametrize("call", ["snapshots.Prepare", "containers.Create"])
async def test_a_creation_that_fails_leaves_nothing(world: World, call: str) -> None:
    world.daemon.fail[call] = grpc.StatusCode.UNAVAILABLE
    with pytest.raises(CriError, match="cannot create container app"):
        await world.created()
    assert world.daemon.holdings == set()
    assert files(world) == []
    del world.daemon.fail[call]
    await world.created()


async def test_a_creation_in_a_pod_that_ends_meanwhile_leaves_nothing(world: World) -> None:
    world.daemon.hold["containers.Create"] = asyncio.Event()
    creation = asyncio.create_task(world.created())
    await world.daemon.called("containers.Create")
    for event in (SandboxEvent.STOPPED, SandboxEvent.REMOVE, SandboxEvent.REMOVED):
        world.pod.fire(event)
    world.daemon.hold["containers.Create"].set()
    with pytest.raises(FailedPrecondition, match="was stopped while container app was created"):
        await creation
    assert world.daemon.holdings == set()
    assert files(world) == []
    assert len(world.store.containers) == 0


@pytest.mark.parametrize("call", ["snapshots.Prepare", "containers.Create"])
async def test_a_creation_that_is_given_up_leaves_nothing(world: World, call: str) -> None:
    world.daemon.hold[call] = asyncio.Event()
    creation = asyncio.create_task(world.created())
    await world.daemon.called(call)
    creation.cancel()
    await asyncio.sleep(0.01)
    # the call takes effect although nobody wants it any more
    world.daemon.hold.pop(call).set()
    with pytest.raises(asyncio.CancelledError):
        await creation
    assert world.daemon.holdings == set()
    assert files(world) == []
    await world.created()


async def test_an_image_that_is_not_here_is_not_found(world: World) -> None:
    with pytest.raises(NotFound, match="pull it first"):
        await world.created(image="other:1")
    assert world.daemon.calls == []


async def test_layers_that_are_gone_are_unpacked_again(world: World) -> None:
    prepare, tried = world.daemon.snapshots_prepare, []

    def once_gone(request: object) -> object:
        tried.append(request)
        if len(tried) == 1:
            world.daemon.fail_now(grpc.StatusCode.NOT_FOUND)
        return prepare(request)  # type: ignore[arg-type]

    world.daemon.snapshots_prepare = once_gone  # type: ignore[method-assign]
    await world.created()
    assert len(tried) == 2


# Starting


async def test_a_start_waits_for_the_exit_before_it_starts(world: World) -> None:
    container = await world.running()
    calls = world.daemon.calls
    assert calls.index("tasks.Create") < calls.index("tasks.Wait") < calls.index("tasks.Start")
    assert (container.state, container.status.pid) == (ContainerState.RUNNING, 7)
    assert world.log_keeper.calls == [f"open {container.id}"]


@pytest.mark.parametrize("call", ["tasks.Create", "tasks.Start"])
async def test_a_start_that_fails_is_a_start_error(world: World, call: str) -> None:
    container = await world.created()
    world.daemon.fail[call] = grpc.StatusCode.UNKNOWN
    with pytest.raises(Unknown, match="told to fail"):
        await world.containers.start(container, api_pb2.StartContainerRequest())
    status = container.status
    assert (status.state, status.exit_code) == (ContainerState.EXITED, 128)
    assert status.reason == "StartError" and "told to fail" in status.message
    assert status.finished_at and not status.started_at
    assert world.daemon.running == {}
    assert world.log_keeper.calls[-1] == f"close {container.id}"
    # what is saved is what is seen
    assert world.store.checkpoints.load(container.id).reason == "StartError"


async def test_a_start_that_is_given_up_before_the_process_runs_is_undone(world: World) -> None:
    container = await world.created()
    world.daemon.hold["tasks.Create"] = asyncio.Event()
    world.daemon.fail["tasks.Start"] = grpc.StatusCode.CANCELLED
    start = asyncio.create_task(world.containers.start(container, api_pb2.StartContainerRequest()))
    await world.daemon.called("tasks.Create")
    start.cancel()
    await asyncio.sleep(0.01)
    world.daemon.hold.pop("tasks.Create").set()
    with pytest.raises(asyncio.CancelledError):
        await start
    assert container.state is ContainerState.EXITED
    assert world.daemon.running == {}


async def test_a_start_that_went_through_is_not_undone(world: World) -> None:
    container = await world.created()
    world.daemon.hold["tasks.Start"] = asyncio.Event()
    start = asyncio.create_task(world.containers.start(container, api_pb2.StartContainerRequest()))
    await world.daemon.called("tasks.Start")
    start.cancel()
    await asyncio.sleep(0.01)
    world.daemon.hold.pop("tasks.Start").set()
    await start
    assert container.state is ContainerState.RUNNING
    assert container.id in world.daemon.running


async def test_a_pod_that_is_not_ready_starts_nothing(world: World) -> None:
    container = await world.created()
    world.pod.fire(SandboxEvent.STOPPED)
    with pytest.raises(FailedPrecondition, match="NOTREADY"):
        await world.containers.start(container, api_pb2.StartContainerRequest())
    assert container.state is ContainerState.CREATED


# Stopping


async def test_a_stop_sends_the_signal_and_waits_for_the_exit(world: World) -> None:
    container = await world.running(stop_signal=api_pb2.SIGINT)
    await world.containers.stop(container, api_pb2.StopContainerRequest(timeout=HOUR))
    assert container.status.exit_code == 128 + signal.SIGINT


async def test_a_shorter_stop_kills_while_a_longer_one_waits(world: World) -> None:
    container = await world.running()
    world.daemon.stubborn = True
    long = asyncio.create_task(
        world.containers.stop(container, api_pb2.StopContainerRequest(timeout=HOUR))
    )
    await world.daemon.called("tasks.Kill")
    await world.containers.stop(container, api_pb2.StopContainerRequest(timeout=0))
    await long
    assert container.status.exit_code == 137
    assert world.daemon.signals == [signal.SIGTERM, signal.SIGKILL]


async def test_a_second_graceful_stop_only_waits(world: World) -> None:
    container = await world.running()
    world.daemon.stubborn = True
    stops = [
        asyncio.create_task(
            world.containers.stop(container, api_pb2.StopContainerRequest(timeout=HOUR))
        )
        for _ in range(2)
    ]
    await asyncio.sleep(0.02)
    # a caller that gives up kills nothing
    stops[0].cancel()
    await asyncio.sleep(0.02)
    assert world.daemon.signals == [signal.SIGTERM]
    assert container.state is ContainerState.RUNNING
    world.daemon.running[container.id].end(0)
    await stops[1]


async def test_a_signal_that_did_not_arrive_is_sent_again(world: World) -> None:
    container = await world.running()
    world.daemon.fail["tasks.Kill"] = grpc.StatusCode.UNAVAILABLE
    with pytest.raises(CriError):
        await world.containers.stop(container, api_pb2.StopContainerRequest(timeout=HOUR))
    del world.daemon.fail["tasks.Kill"]
    await world.containers.stop(container, api_pb2.StopContainerRequest(timeout=HOUR))
    assert container.status.exit_code == 128 + signal.SIGTERM


async def test_an_unknown_container_can_be_stopped(world: World) -> None:
    container = await world.running()
    container.fire(ContainerEvent.LOST)
    world.exits.forget(container.id)
    del world.daemon.running[container.id]
    await world.containers.stop(container, api_pb2.StopContainerRequest(timeout=0))
    assert (container.state, container.status.exit_code) == (ContainerState.EXITED, 255)


# Removing


async def test_a_removal_leaves_nothing(world: World) -> None:
    container = await world.running()
    await world.containers.remove(container, api_pb2.RemoveContainerRequest())
    assert world.daemon.holdings == set()
    assert files(world) == []
    assert world.store.containers.get(container.id) is None
    assert world.store.names.holder(container.metadata.name) is None


@pytest.mark.parametrize("call", ["tasks.Delete", "snapshots.Remove", "containers.Delete"])
async def test_a_removal_that_failed_is_repeated(world: World, call: str) -> None:
    container = await world.created()
    world.daemon.fail[call] = grpc.StatusCode.UNAVAILABLE
    with pytest.raises(CriError, match=f"cannot remove container {container.id}"):
        await world.containers.remove(container, api_pb2.RemoveContainerRequest())
    assert container.state is ContainerState.EXITED
    del world.daemon.fail[call]
    await world.containers.remove(container, api_pb2.RemoveContainerRequest())
    assert world.daemon.holdings == set()


# Changing


async def test_resources_are_merged_and_a_zero_changes_nothing(world: World) -> None:
    pages = [
        api_pb2.HugepageLimit(page_size="2MB", limit=4),
        api_pb2.HugepageLimit(page_size="1GB", limit=8),
    ]
    at_first = api_pb2.LinuxContainerResources(
        cpu_shares=512, memory_limit_in_bytes=1 << 26, oom_score_adj=500, hugepage_limits=pages
    )
    container = await world.running(linux=api_pb2.LinuxContainerConfig(resources=at_first))
    change = api_pb2.LinuxContainerResources(cpu_quota=7000, hugepage_limits=pages[:1])
    change.hugepage_limits[0].limit = 16
    await world.containers.update_resources(
        container, api_pb2.UpdateContainerResourcesRequest(linux=change)
    )
    spec = types.Spec.from_json(world.daemon.records[container.id].spec.value)
    assert spec.linux.resources.cpu.shares == 512
    assert spec.linux.resources.cpu.quota == 7000
    assert spec.linux.resources.memory.limit == 1 << 26
    # a process that lives keeps its own
    assert spec.process.oomScoreAdj == 500
    sizes = {page.pageSize: page.limit for page in spec.linux.resources.hugepageLimits}
    assert sizes in ({"2MB": 16, "1GB": 8}, {})


async def test_an_update_that_the_task_refuses_is_put_back(world: World) -> None:
    container = await world.running()
    before = AnyMessage()
    before.CopyFrom(world.daemon.records[container.id].spec)
    world.daemon.fail["tasks.Update"] = grpc.StatusCode.UNKNOWN
    with pytest.raises(Unknown, match="cannot update the resources"):
        await world.containers.update_resources(
            container,
            api_pb2.UpdateContainerResourcesRequest(
                linux=api_pb2.LinuxContainerResources(cpu_shares=2048)
            ),
        )
    assert world.daemon.records[container.id].spec == before
    answer = await world.containers.status(container, api_pb2.ContainerStatusRequest())
    assert answer.status.resources.linux.cpu_shares == 0


async def test_a_task_that_has_just_ended_does_not_stop_an_update(world: World) -> None:
    container = await world.running()
    world.daemon.fail["tasks.Update"] = grpc.StatusCode.NOT_FOUND
    await world.containers.update_resources(
        container,
        api_pb2.UpdateContainerResourcesRequest(
            linux=api_pb2.LinuxContainerResources(cpu_shares=2048)
        ),
    )
    answer = await world.containers.status(container, api_pb2.ContainerStatusRequest())
    assert answer.status.resources.linux.cpu_shares == 2048


# Showing


async def test_a_status_after_a_restart_asks_containerd_once(world: World) -> None:
    container = await world.created()
    world.containers.services.specs.forget(container.id)
    for _ in range(2):
        await world.containers.status(container, api_pb2.ContainerStatusRequest())
    assert world.daemon.calls.count("containers.Get") == 1


async def test_a_container_that_somebody_deleted_is_still_shown(world: World) -> None:
    container = await world.created()
    world.containers.services.specs.forget(container.id)
    world.daemon.fail["containers.Get"] = grpc.StatusCode.NOT_FOUND
    answer = await world.containers.status(container, api_pb2.ContainerStatusRequest())
    assert answer.status.id == container.id
    assert answer.status.image.image == "app:1"
