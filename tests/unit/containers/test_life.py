"""Create, start, stop, remove and update on a containerd in memory, whose steps fail or hang."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import json
import os
import signal
from dataclasses import replace
from pathlib import Path

import grpc
import pytest
from google.protobuf.any_pb2 import Any as AnyMessage

from generated.containerd import runc_options_pb2, snapshots_pb2
from generated.cri import api_pb2
from generated.lifecycle import ContainerEvent, ContainerState, SandboxEvent
from generated.oci import types
from generated.plans import ContainerStatusPlan, StopContainerPlan
from runtime.containerd.values import proto_any
from runtime.containers import create, remove, start, stop
from runtime.errors import CriError, FailedPrecondition, NotFound, Unavailable, Unknown
from runtime.steps import rollback
from runtime.store.objects import Container
from runtime.tasks import exits
from tests.harness.waiting import PATIENCE, until
from tests.unit.sandboxes.fakes import rpc_error

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


async def test_a_container_is_recorded_with_its_snapshot(world: World) -> None:
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
async def test_a_cancelled_creation_leaves_nothing(world: World, call: str) -> None:
    world.daemon.hold[call] = asyncio.Event()
    creation = asyncio.create_task(world.created())
    await world.daemon.called(call)
    creation.cancel()
    await asyncio.sleep(0.01)
    # the call takes effect although its client cancelled it
    world.daemon.hold.pop(call).set()
    with pytest.raises(asyncio.CancelledError):
        await creation
    assert world.daemon.holdings == set()
    assert files(world) == []
    await world.created()


async def test_a_full_disk_is_named_and_leaves_nothing(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(create, "_described", full)
    with pytest.raises(Unavailable, match=r"cannot create .* below .*: No space left on device"):
        await world.created()
    assert world.daemon.held_snapshots == set()
    assert files(world) == []


async def test_a_missing_image_is_not_found(world: World) -> None:
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


async def test_a_creation_that_cannot_be_undone_frees_its_name_later(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rollback, "_FIRST_PAUSE", 0.001)
    world.daemon.fail["containers.Create"] = grpc.StatusCode.UNAVAILABLE
    world.daemon.fail["snapshots.Remove"] = grpc.StatusCode.UNAVAILABLE
    with pytest.raises(CriError):
        await world.created()
    world.daemon.fail.clear()
    async with asyncio.timeout(PATIENCE):
        while world.daemon.holdings or files(world):  # noqa: ASYNC110  it goes on by itself
            await asyncio.sleep(0.01)
        while True:
            with contextlib.suppress(FailedPrecondition):  # the name is freed last
                await world.created()
                break
            await asyncio.sleep(0.01)


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
    # the saved state is the visible one
    assert world.store.checkpoints.load(container.id).reason == "StartError"


async def test_a_start_cancelled_before_the_process_runs_is_undone(world: World) -> None:
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


async def test_each_start_has_fifos_of_its_own(world: World) -> None:
    """The shim of an interrupted start may open and close its own at any time."""
    folders = set()
    for _ in range(2):
        container = await world.created()
        await world.containers.start(container, api_pb2.StartContainerRequest())
        request = world.daemon.task_requests[container.id]
        assert Path(request.stdout).parent == Path(request.stderr).parent
        folders.add(Path(request.stdout).parent.name)
        await world.containers.remove(container, api_pb2.RemoveContainerRequest())
    assert len(folders) == 2


async def test_a_start_that_succeeded_is_not_undone(world: World) -> None:
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
    # as in the built-in plugin: the kubelet sees an exited container, not one it may still start
    status = container.status
    assert (status.state, status.exit_code) == (ContainerState.EXITED, 128)
    assert status.reason == "StartError" and "NOTREADY" in status.message
    assert "tasks.Create" not in world.daemon.calls


@pytest.fixture
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """A clock on which seconds pass faster."""
    monkeypatch.setattr(start, "_FIRST_PAUSE", 0.001)
    monkeypatch.setattr(exits, "_RECONNECT_PAUSE", 0.001)
    monkeypatch.setattr(stop, "_START_PATIENCE", 0.02)
    monkeypatch.setattr(remove, "_START_LIMIT", 0.05)


def goes_away(world: World, call: str) -> None:
    """The daemon performs the call and is restarted before it responds."""
    work = getattr(world.daemon, call)

    def gone(request: object) -> object:
        setattr(world.daemon, call, work)
        work(request)
        world.daemon.away.set()
        raise rpc_error(grpc.StatusCode.UNAVAILABLE, "connection lost")

    setattr(world.daemon, call, gone)


async def becomes(container: Container, state: ContainerState) -> None:
    """Return when the container is in this state."""
    await until(lambda: container.state is state)


async def test_a_daemon_restarted_during_start_does_not_make_a_container_run_twice(
    world: World, soon: None
) -> None:
    container = await world.created()
    goes_away(world, "tasks_start")
    with pytest.raises(Unavailable):
        await world.containers.start(container, api_pb2.StartContainerRequest())
    # not EXITED, for which the kubelet would start another one at the same time
    assert container.state is ContainerState.UNKNOWN
    world.daemon.away.clear()
    await becomes(container, ContainerState.RUNNING)
    assert container.status.pid == 7 and container.status.started_at
    assert world.store.checkpoints.load(container.id) == container.status
    # its exit is handled like any other
    world.daemon.running[container.id].end(3)
    await becomes(container, ContainerState.EXITED)
    assert container.status.exit_code == 3


async def test_an_unknown_start_is_stopped_and_removed_as_the_kubelet_does(
    world: World, soon: None
) -> None:
    container = await world.created()
    goes_away(world, "tasks_start")
    with pytest.raises(Unavailable):
        await world.containers.start(container, api_pb2.StartContainerRequest())
    with pytest.raises(Unavailable):
        await world.containers.stop(container, StopContainerPlan(grace=0))
    world.daemon.away.clear()
    await world.containers.stop(container, StopContainerPlan(grace=0))
    assert container.state is ContainerState.EXITED
    await world.containers.remove(container, api_pb2.RemoveContainerRequest())
    assert world.daemon.holdings == set()


@pytest.mark.parametrize("took_effect", [True, False])
async def test_a_daemon_restarted_before_the_process_ran_is_a_start_error(
    world: World, soon: None, took_effect: bool
) -> None:
    container = await world.created()
    goes_away(world, "tasks_create")
    with pytest.raises(Unavailable):
        await world.containers.start(container, api_pb2.StartContainerRequest())
    assert container.state is ContainerState.UNKNOWN
    if not took_effect:
        del world.daemon.running[container.id]
    world.daemon.away.clear()
    await becomes(container, ContainerState.EXITED)
    assert (container.status.exit_code, container.status.reason) == (128, "StartError")
    assert "connection lost" in container.status.message
    assert world.daemon.running == {}
    assert world.log_keeper.calls[-1] == f"close {container.id}"
    assert world.store.checkpoints.load(container.id).reason == "StartError"


async def test_a_start_that_hangs_can_be_stopped_and_removed(world: World, soon: None) -> None:
    container = await world.created()
    hanging = world.daemon.hold["tasks.Start"] = asyncio.Event()
    call = asyncio.create_task(world.containers.start(container, api_pb2.StartContainerRequest()))
    await world.daemon.called("tasks.Start")
    await world.containers.stop(container, StopContainerPlan(grace=0))
    assert (container.state, container.status.exit_code) == (ContainerState.EXITED, 137)
    # nothing would own what the start creates later, so it has to end first
    with pytest.raises(Unavailable, match="hangs in containerd"):
        await world.containers.remove(container, api_pb2.RemoveContainerRequest())
    world.daemon.fail["tasks.Start"] = grpc.StatusCode.DEADLINE_EXCEEDED
    hanging.set()
    with pytest.raises(CriError):
        await call
    assert (container.state, container.status.exit_code) == (ContainerState.EXITED, 137)
    await world.containers.remove(container, api_pb2.RemoveContainerRequest())
    assert world.daemon.holdings == set()


async def test_a_start_abandoned_by_a_stop_starts_nothing_later(world: World, soon: None) -> None:
    container = await world.created()
    hanging = world.daemon.hold["tasks.Create"] = asyncio.Event()
    call = asyncio.create_task(world.containers.start(container, api_pb2.StartContainerRequest()))
    await world.daemon.called("tasks.Create")
    await world.containers.stop(container, StopContainerPlan(grace=0))
    assert container.state is ContainerState.EXITED
    hanging.set()
    with pytest.raises(FailedPrecondition, match="stopped while it was starting"):
        await call
    assert "tasks.Start" not in world.daemon.calls
    assert world.daemon.running == {}


async def test_a_kill_that_hangs_too_is_reported(world: World, soon: None) -> None:
    container = await world.created()
    hanging = world.daemon.hold["tasks.Start"] = asyncio.Event()
    call = asyncio.create_task(world.containers.start(container, api_pb2.StartContainerRequest()))
    await world.daemon.called("tasks.Start")
    world.daemon.fail["tasks.Kill"] = grpc.StatusCode.DEADLINE_EXCEEDED
    with pytest.raises(CriError, match="cannot stop container"):
        await world.containers.stop(container, StopContainerPlan(grace=0))
    del world.daemon.fail["tasks.Kill"]
    hanging.set()
    await call
    assert container.state is ContainerState.RUNNING


# After the configuration changed


async def test_a_root_file_system_is_where_the_record_says(world: World) -> None:
    container = await world.created()
    world.containers.services.prepared.clear()
    container.snapshotter = "native"  # as recovery reads it; the configuration has changed since
    asked: list[str] = []

    def mounts(request: snapshots_pb2.MountsRequest) -> snapshots_pb2.MountsResponse:
        asked.append(request.snapshotter)
        return snapshots_pb2.MountsResponse()

    world.daemon.snapshots_mounts = mounts  # type: ignore[method-assign]
    await world.containers.start(container, api_pb2.StartContainerRequest())
    await world.containers.remove(container, api_pb2.RemoveContainerRequest())
    assert asked == ["native"]
    assert world.daemon.snapshotters == {"native"}


async def test_a_verbose_status_needs_no_handler_and_shows_the_options_of_the_record(
    world: World,
) -> None:
    container = await world.created()
    record = world.daemon.records[container.id]
    options = runc_options_pb2.Options(systemd_cgroup=True)
    record.runtime.options.CopyFrom(proto_any(options))
    world.pod.metadata = replace(world.pod.metadata, runtime_handler="gone")
    answer = await world.containers.status(container, ContainerStatusPlan(verbose=True))
    info = json.loads(answer.info["info"])
    assert info["runtimeOptions"] == {"systemd_cgroup": True}
    assert info["snapshotter"] == "overlayfs"


# Stopping


async def test_a_stop_sends_the_signal_and_waits_for_the_exit(world: World) -> None:
    container = await world.running(stop_signal=api_pb2.SIGINT)
    await world.containers.stop(container, StopContainerPlan(grace=HOUR))
    assert container.status.exit_code == 128 + signal.SIGINT


async def test_a_shorter_stop_kills_while_a_longer_one_waits(world: World) -> None:
    container = await world.running()
    world.daemon.stubborn = True
    long = asyncio.create_task(world.containers.stop(container, StopContainerPlan(grace=HOUR)))
    await world.daemon.called("tasks.Kill")
    await world.containers.stop(container, StopContainerPlan(grace=0))
    await long
    assert container.status.exit_code == 137
    assert world.daemon.signals == [signal.SIGTERM, signal.SIGKILL]


async def test_a_second_graceful_stop_only_waits(world: World) -> None:
    container = await world.running()
    world.daemon.stubborn = True
    stops = [
        asyncio.create_task(world.containers.stop(container, StopContainerPlan(grace=HOUR)))
        for _ in range(2)
    ]
    await asyncio.sleep(0.02)
    # a client that gives up kills nothing
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
        await world.containers.stop(container, StopContainerPlan(grace=HOUR))
    del world.daemon.fail["tasks.Kill"]
    await world.containers.stop(container, StopContainerPlan(grace=HOUR))
    assert container.status.exit_code == 128 + signal.SIGTERM


async def test_an_unknown_container_can_be_stopped(world: World) -> None:
    container = await world.running()
    await container.fire(ContainerEvent.LOST)
    world.exits.forget(container.id)
    del world.daemon.running[container.id]
    await world.containers.stop(container, StopContainerPlan(grace=0))
    assert (container.state, container.status.exit_code) == (ContainerState.EXITED, 255)


# Removing


async def test_a_removal_leaves_nothing(world: World) -> None:
    container = await world.running()
    await world.containers.remove(container, api_pb2.RemoveContainerRequest())
    assert world.daemon.holdings == set()
    assert files(world) == []
    assert world.store.containers.get(container.id) is None
    assert world.store.names.holder(container.metadata.name) is None


async def test_the_removal_of_a_container_that_exited_takes_two_calls(world: World) -> None:
    container = await world.running()
    await world.containers.stop(container, StopContainerPlan(grace=0))
    world.daemon.calls.clear()
    world.log_keeper.calls.clear()
    await world.containers.remove(container, api_pb2.RemoveContainerRequest())
    assert sorted(world.daemon.calls) == ["containers.Delete", "snapshots.Remove"]
    assert world.log_keeper.calls == []
    assert world.daemon.holdings == set()


async def test_a_removal_closes_an_output_that_was_still_held_open(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exits, "_DRAIN_LIMIT", 0.01)

    async def held(container_id: str) -> None:
        await asyncio.Event().wait()

    container = await world.running()
    monkeypatch.setattr(world.log_keeper, "drained", held)
    await world.containers.stop(container, StopContainerPlan(grace=0))
    world.daemon.calls.clear()
    world.log_keeper.calls.clear()
    await world.containers.remove(container, api_pb2.RemoveContainerRequest())
    assert world.daemon.calls[0] == "tasks.Delete"
    assert world.log_keeper.calls == [f"close {container.id}"]


async def test_a_removal_looks_for_a_task_whose_deletion_was_not_seen(world: World) -> None:
    container = await world.running()
    world.daemon.fail["tasks.Delete"] = grpc.StatusCode.NOT_FOUND
    await world.containers.stop(container, StopContainerPlan(grace=0))
    assert world.daemon.holdings  # the daemon had lost sight of the task
    del world.daemon.fail["tasks.Delete"]
    await world.containers.remove(container, api_pb2.RemoveContainerRequest())
    assert world.daemon.holdings == set()


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


async def test_a_partly_removed_created_container_does_not_look_successful(world: World) -> None:
    container = await world.created()
    world.daemon.fail["containers.Delete"] = grpc.StatusCode.UNAVAILABLE
    with pytest.raises(CriError):
        await world.containers.remove(container, api_pb2.RemoveContainerRequest())
    status = container.status
    assert (status.exit_code, status.reason) == (255, "Unknown") and status.finished_at


# Changing


async def test_resources_are_merged_and_a_zero_changes_nothing(world: World) -> None:
    """Nor does an oom_score_adj, which no runtime changes for a running process."""
    pages = [
        api_pb2.HugepageLimit(page_size="2MB", limit=4),
        api_pb2.HugepageLimit(page_size="1GB", limit=8),
    ]
    at_first = api_pb2.LinuxContainerResources(
        cpu_shares=512, memory_limit_in_bytes=1 << 26, oom_score_adj=500, hugepage_limits=pages
    )
    container = await world.running(linux=api_pb2.LinuxContainerConfig(resources=at_first))
    change = api_pb2.LinuxContainerResources(
        cpu_quota=7000, oom_score_adj=-500, hugepage_limits=pages[:1]
    )
    change.hugepage_limits[0].limit = 16
    await world.containers.update_resources(
        container, api_pb2.UpdateContainerResourcesRequest(linux=change)
    )
    spec = types.Spec.from_json(world.daemon.records[container.id].spec.value)
    assert spec.linux.resources.cpu.shares == 512
    assert spec.linux.resources.cpu.quota == 7000
    assert spec.linux.resources.memory.limit == 1 << 26
    assert spec.process.oomScoreAdj == 500
    sizes = {page.pageSize: page.limit for page in spec.linux.resources.hugepageLimits}
    assert sizes in ({"2MB": 16, "1GB": 8}, {})


async def test_an_update_refused_by_the_task_is_reverted(world: World) -> None:
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
    answer = await world.containers.status(container, ContainerStatusPlan(verbose=False))
    assert answer.status.resources.linux.cpu_shares == 0


async def test_an_update_does_not_recreate_a_removed_container(world: World) -> None:
    container = await world.running()
    world.daemon.hold["tasks.Update"] = asyncio.Event()
    request = api_pb2.UpdateContainerResourcesRequest(
        linux=api_pb2.LinuxContainerResources(cpu_shares=2048)
    )
    update = asyncio.create_task(world.containers.update_resources(container, request))
    await world.daemon.called("tasks.Update")
    await world.containers.remove(container, api_pb2.RemoveContainerRequest())
    world.daemon.hold.pop("tasks.Update").set()
    with pytest.raises(FailedPrecondition, match="being removed"):
        await update
    assert files(world) == []
    assert container.id not in world.containers.services.specs._kept
    with pytest.raises(FailedPrecondition, match="being removed"):
        await world.containers.update_resources(container, request)


async def test_a_task_that_has_just_ended_does_not_stop_an_update(world: World) -> None:
    container = await world.running()
    world.daemon.fail["tasks.Update"] = grpc.StatusCode.NOT_FOUND
    await world.containers.update_resources(
        container,
        api_pb2.UpdateContainerResourcesRequest(
            linux=api_pb2.LinuxContainerResources(cpu_shares=2048)
        ),
    )
    answer = await world.containers.status(container, ContainerStatusPlan(verbose=False))
    assert answer.status.resources.linux.cpu_shares == 2048


# Showing


async def test_a_status_after_a_restart_asks_containerd_once(world: World) -> None:
    container = await world.created()
    world.containers.services.specs.forget(container.id)
    for _ in range(2):
        await world.containers.status(container, ContainerStatusPlan(verbose=False))
    assert world.daemon.calls.count("containers.Get") == 1


async def test_a_container_deleted_by_another_client_is_still_shown(world: World) -> None:
    container = await world.created()
    world.containers.services.specs.forget(container.id)
    world.daemon.fail["containers.Get"] = grpc.StatusCode.NOT_FOUND
    answer = await world.containers.status(container, ContainerStatusPlan(verbose=False))
    assert answer.status.id == container.id
    assert answer.status.image.image == "app:1"


# Measuring


async def test_operations_that_succeed_are_measured(world: World) -> None:
    measured: list[tuple[str, str]] = []

    def timer(operation: str, handler: str, seconds: float) -> None:
        assert seconds > 0
        measured.append((operation, handler))

    world.containers.services = replace(world.containers.services, timer=timer)
    world.daemon.fail["snapshots.Prepare"] = grpc.StatusCode.UNAVAILABLE
    with pytest.raises(CriError):
        await world.created()
    assert measured == []
    del world.daemon.fail["snapshots.Prepare"]
    container = await world.running()
    await world.containers.stop(container, StopContainerPlan(grace=0))
    await world.containers.remove(container, api_pb2.RemoveContainerRequest())
    assert measured == [(f"container_{verb}", "") for verb in ("create", "start", "stop", "remove")]
