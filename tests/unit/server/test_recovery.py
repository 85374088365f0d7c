"""What an earlier server left becomes objects again; contradictions become UNKNOWN."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import grpc
import pytest
from google.protobuf import any_pb2
from google.protobuf.timestamp_pb2 import Timestamp

from generated.containerd import (
    cgroup2_metrics_pb2,
    containers_pb2,
    runc_options_pb2,
    task_types_pb2,
    tasks_pb2,
    types_pb2,
)
from generated.cri import api_pb2
from generated.lifecycle import ContainerEvent, ContainerState, SandboxEvent, SandboxState
from runtime.containerd.values import proto_any
from runtime.containers import recovery as container_recovery
from runtime.linux import netns
from runtime.linux.cgroups import Cgroups
from runtime.sandboxes import recovery as sandbox_recovery
from runtime.sandboxes import unfinished
from runtime.server import recovery
from runtime.server.recovery import Recovery
from runtime.store import records
from runtime.store.objects import Container, Sandbox
from runtime.transforms import facts, labels
from tests.harness.waiting import until
from tests.unit.sandboxes.fakes import FakeTask, World

SANDBOX = "a" * 64
CONTAINER = "c" * 64


@pytest.fixture
async def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    async def remove(path: str) -> None:
        pass

    monkeypatch.setattr(netns, "remove", remove)
    monkeypatch.setattr(recovery, "_FIRST_PAUSE", 0.01)
    return World(tmp_path)


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Objects that hang are given up quickly."""
    for module in (sandbox_recovery, container_recovery):
        monkeypatch.setattr(module, "_OBJECT_LIMIT", 0.1)


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


async def leave_container(world: World, saved: str, status: int | None, code: int = 0) -> None:
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
        await world.store.checkpoints.create(CONTAINER, known)


async def leave_pod_and_app(world: World, task: int | None, saved: str = "running") -> None:
    """A pod whose pause container runs, and its container."""
    leave_sandbox(world, task_types_pb2.RUNNING if task is None else task)
    await leave_container(world, saved, task)


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
    note = directory / unfinished.NAME
    note.write_bytes(records.sandbox_metadata_json(metadata))


async def recovered(world: World) -> Recovery:
    work = Recovery(world.services, world.container_services)
    await work.run()
    await asyncio.sleep(0)
    return work


def pod(world: World) -> Sandbox:
    sandbox = world.store.sandboxes.get(SANDBOX)
    assert sandbox is not None
    return sandbox


def app(world: World) -> Container:
    container = world.store.containers.get(CONTAINER)
    assert container is not None
    return container


@pytest.mark.parametrize(
    ("task", "state", "left"),
    [
        (task_types_pb2.RUNNING, SandboxState.READY, True),
        # its deletion ends the shim, so it stays until the pod is removed
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
    await leave_container(world, saved, task, code=4)
    await recovered(world)
    container = world.store.containers.get(CONTAINER)
    assert container is not None
    status = container.status
    assert (status.state, status.exit_code, status.reason) == (state, code, reason)
    assert (f"open {CONTAINER}" in world.log_keeper.calls) == (state is ContainerState.RUNNING)


async def test_an_untrusted_pod_of_the_built_in_plugin_has_its_handler(world: World) -> None:
    config = api_pb2.PodSandboxConfig(annotations={"io.kubernetes.cri.untrusted-workload": "true"})
    metadata = facts.SandboxMetadata(id=SANDBOX, name="pod_ns_u_0", config=config)
    extensions = {records.SANDBOX_EXTENSION: records.sandbox_extension(metadata)}
    leave_record(world, SANDBOX, "sandbox", extensions, task_types_pb2.RUNNING)
    found = await sandbox_recovery.find(world.services, world.containerd.records[SANDBOX])
    assert found.metadata.runtime_handler == "untrusted"
    assert found.metadata.config == config


async def test_an_oom_kill_while_no_server_ran_is_the_reason_of_the_exit(world: World) -> None:
    def metrics(request: tasks_pb2.MetricsRequest) -> tasks_pb2.MetricsResponse:
        kills = cgroup2_metrics_pb2.Metrics(
            memory_events=cgroup2_metrics_pb2.MemoryEvents(oom_kill=1)
        )
        data = any_pb2.Any(
            type_url="io.containerd.cgroups.v2.Metrics", value=kills.SerializeToString()
        )
        return tasks_pb2.MetricsResponse(metrics=[types_pb2.Metric(data=data)])

    world.containerd.tasks_metrics = metrics  # type: ignore[method-assign]
    await leave_pod_and_app(world, task_types_pb2.STOPPED)
    await recovered(world)
    assert (app(world).state, app(world).status.reason) == (ContainerState.EXITED, "OOMKilled")
    assert world.store.checkpoints.load(CONTAINER).reason == "OOMKilled"


async def test_an_oom_kill_while_no_server_ran_is_recorded_for_a_running_container(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    cgroup = f"/pods/{CONTAINER}"
    node = SimpleNamespace(of_process={7: f"{cgroup}/init.scope"}.get, oom_kills={cgroup: 1}.get)
    monkeypatch.setattr(Cgroups, "probe", lambda: node)
    await leave_pod_and_app(world, task_types_pb2.RUNNING)
    work = await recovered(world)
    assert (app(world).state, app(world).status.reason) == (ContainerState.RUNNING, "OOMKilled")
    world.containerd.running[CONTAINER].end(1)
    await until(lambda: app(world).state is ContainerState.EXITED)
    assert (app(world).status.exit_code, app(world).status.reason) == (1, "OOMKilled")
    await work.stop()


# What cannot be determined


async def test_an_unresponsive_shim_loses_nothing_and_is_queried_again(world: World) -> None:
    await leave_pod_and_app(world, task_types_pb2.UNKNOWN)
    shm = world.store.layout.state / "sandboxes" / SANDBOX / "shm"
    shm.mkdir(parents=True)
    work = await recovered(world)
    assert pod(world).state is SandboxState.UNKNOWN
    assert app(world).state is ContainerState.UNKNOWN
    assert "tasks.Kill" not in world.containerd.calls
    assert shm.is_dir()
    for task in world.containerd.running.values():
        task.status = task_types_pb2.RUNNING
    await until(lambda: pod(world).state is SandboxState.READY)
    await until(lambda: app(world).state is ContainerState.RUNNING)
    await until(lambda: f"open {CONTAINER}" in world.log_keeper.calls)
    assert (pod(world).status.pid, app(world).status.pid) == (7, 7)
    world.containerd.running[CONTAINER].end(3)
    await until(lambda: app(world).state is ContainerState.EXITED)
    assert app(world).status.exit_code == 3
    world.containerd.running[SANDBOX].end(137)
    await until(lambda: pod(world).state is SandboxState.NOTREADY)
    await work.stop()


@pytest.mark.parametrize("hangs", [True, False])
@pytest.mark.parametrize("saved", ["created", "running"])
async def test_a_task_that_cannot_be_queried_makes_its_object_unknown(
    world: World, impatient: None, saved: str, hangs: bool
) -> None:
    await leave_pod_and_app(world, None, saved)
    if hangs:
        world.containerd.hold["tasks.Get"] = asyncio.Event()
    else:
        world.containerd.fail["tasks.Get"] = grpc.StatusCode.DEADLINE_EXCEEDED
    work = await recovered(world)
    assert pod(world).state is SandboxState.UNKNOWN
    assert app(world).state is ContainerState.UNKNOWN
    assert world.store.names.holder("pod_ns_u_0") == SANDBOX
    if hangs:
        world.containerd.hold.pop("tasks.Get").set()
    world.containerd.fail.clear()
    expected = ContainerState.CREATED if saved == "created" else ContainerState.EXITED
    await until(lambda: app(world).state is expected)
    await until(lambda: pod(world).state is SandboxState.READY)
    await work.stop()


@pytest.mark.parametrize("task", [task_types_pb2.UNKNOWN, task_types_pb2.STOPPED, None])
async def test_a_saved_exit_always_wins(world: World, task: int | None) -> None:
    leave_sandbox(world, task_types_pb2.RUNNING)
    await leave_container(world, "exited", task)
    world.containerd.fail["tasks.Delete"] = grpc.StatusCode.UNAVAILABLE
    await recovered(world)
    assert (app(world).state, app(world).status.exit_code) == (ContainerState.EXITED, 9)


async def test_an_exit_is_saved_before_its_task_is_deleted(world: World) -> None:
    leave_sandbox(world, task_types_pb2.RUNNING)
    await leave_container(world, "running", task_types_pb2.STOPPED, code=4)
    world.containerd.hold["tasks.Delete"] = asyncio.Event()
    recovering = asyncio.create_task(recovered(world))
    await world.containerd.called("tasks.Delete")
    assert world.store.checkpoints.load(CONTAINER).exit_code == 4
    world.containerd.fail["tasks.Delete"] = grpc.StatusCode.UNKNOWN
    world.containerd.hold.pop("tasks.Delete").set()
    await recovering
    assert (app(world).state, app(world).status.exit_code) == (ContainerState.EXITED, 4)


async def test_a_running_container_is_followed_while_its_log_hangs(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def hang(*_: object, **__: object) -> None:
        await asyncio.Event().wait()

    monkeypatch.setattr(world.log_keeper, "open", hang)
    await leave_pod_and_app(world, task_types_pb2.RUNNING)
    work = await recovered(world)
    assert app(world).state is ContainerState.RUNNING
    world.containerd.running[CONTAINER].end(0)
    await until(lambda: app(world).state is ContainerState.EXITED)
    await work.stop()


async def test_recovery_waits_for_a_daemon_that_goes_away_and_starts_over(
    world: World,
) -> None:
    await leave_pod_and_app(world, task_types_pb2.RUNNING)
    world.containerd.hold["tasks.Get"] = asyncio.Event()
    recovering = asyncio.create_task(recovered(world))
    await world.containerd.called("tasks.Get")
    world.containerd.away.set()
    world.containerd.hold.pop("tasks.Get").set()
    await recovering
    assert "wait_ready" in world.containerd.calls
    assert pod(world).state is SandboxState.READY
    assert app(world).state is ContainerState.RUNNING


async def test_a_daemon_that_was_away_for_a_moment_makes_no_pod_unknown(world: World) -> None:
    await leave_pod_and_app(world, task_types_pb2.RUNNING)
    world.containerd.fail["tasks.Get"] = grpc.StatusCode.UNAVAILABLE
    recovering = asyncio.create_task(recovered(world))
    await world.containerd.called("tasks.Get")
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    world.containerd.fail.clear()
    await recovering
    assert pod(world).state is SandboxState.READY


async def test_a_contradiction_is_followed_to_its_end(world: World) -> None:
    await leave_pod_and_app(world, task_types_pb2.RUNNING, "exited")
    await recovered(world)
    assert app(world).state is ContainerState.UNKNOWN
    world.containerd.running[CONTAINER].end(5)
    await until(lambda: app(world).state is ContainerState.EXITED)


async def test_of_two_pods_with_one_name_the_running_one_gets_it(
    world: World,
) -> None:
    leave_sandbox(world, None)
    twin = records.sandbox_metadata_json(
        facts.SandboxMetadata(id="b" * 64, name="pod_ns_u_0", config=api_pb2.PodSandboxConfig())
    )
    leave_record(
        world,
        "b" * 64,
        "sandbox",
        {records.SANDBOX_EXTENSION: any_pb2.Any(value=twin)},
        task_types_pb2.RUNNING,
    )
    await recovered(world)
    assert {sandbox.id for sandbox in world.store.sandboxes} == {SANDBOX, "b" * 64}
    assert world.store.names.holder("pod_ns_u_0") == "b" * 64
    for event in (SandboxEvent.REMOVE, SandboxEvent.REMOVED):
        pod(world).fire(event)
    assert world.store.names.holder("pod_ns_u_0") == "b" * 64


# Interrupted creations


async def test_the_output_of_an_interrupted_start_is_closed(world: World) -> None:
    await leave_pod_and_app(world, None, "created")
    await recovered(world)
    assert f"close {CONTAINER}" in world.log_keeper.calls


async def test_the_output_of_a_start_after_an_interrupted_one_is_not_closed(world: World) -> None:
    await leave_pod_and_app(world, None, "created")
    await recovered(world)
    container = world.store.containers.get(CONTAINER)
    assert container is not None
    world.log_keeper.calls.clear()
    await container.fire(ContainerEvent.START)
    await container_recovery.forget_logs(world.container_services, container)
    assert world.log_keeper.calls == []


async def test_an_interrupted_container_creation_is_undone(world: World) -> None:
    leave_sandbox(world, task_types_pb2.RUNNING)
    await leave_container(world, "lost", None)
    world.containerd.records[CONTAINER].snapshotter = "native"
    world.containerd.held_snapshots.add(CONTAINER)
    world.store.layout.container_root(CONTAINER).mkdir(parents=True)
    await recovered(world)
    assert world.store.containers.get(CONTAINER) is None
    assert CONTAINER not in world.containerd.holdings
    assert world.containerd.snapshotters == {"native"}
    assert not world.store.layout.container_root(CONTAINER).exists()


async def test_interrupted_pod_creations_are_undone_in_parallel(
    world: World, impatient: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def hang(*_: object, **__: object) -> None:
        await asyncio.sleep(60)

    monkeypatch.setattr(world.network, "delete", hang)
    for digit in "123456":
        metadata = facts.SandboxMetadata(
            id=digit * 64,
            name=f"pod{digit}",
            config=api_pb2.PodSandboxConfig(),
            netns_path="/nowhere",
        )
        leave_note(world, metadata)
    async with asyncio.timeout(5):
        await recovered(world)
    assert [sandbox.state for sandbox in world.store.sandboxes] == [SandboxState.UNKNOWN] * 6
    assert len(world.directories) == 6


async def test_a_sandbox_record_without_a_pause_container_is_deleted(world: World) -> None:
    leave_sandbox(world, task_types_pb2.RUNNING)
    world.containerd.announced.update({SANDBOX, "e" * 64})
    await recovered(world)
    assert world.containerd.announced == {SANDBOX}


async def test_what_runc_kept_of_a_task_that_containerd_forgot_is_deleted(
    world: World, tmp_path: Path
) -> None:
    await leave_pod_and_app(world, None, "created")
    runc = tmp_path / "runc"
    runc.write_text('#!/bin/sh\nfor id in "$@"; do :; done; rmdir "$2/$id"\n')
    runc.chmod(0o755)
    state = tmp_path / "runc-state" / "k8s.io" / CONTAINER
    state.mkdir(parents=True)
    options = runc_options_pb2.Options(binary_name=str(runc), root=str(tmp_path / "runc-state"))
    runtime = world.containerd.records[CONTAINER].runtime
    runtime.name = "io.containerd.runc.v2"
    runtime.options.CopyFrom(proto_any(options))
    await recovered(world)
    assert app(world).state is ContainerState.CREATED
    assert not state.exists()


async def test_one_broken_record_does_not_affect_the_others(world: World) -> None:
    leave_sandbox(world, None)
    leave_record(world, "b" * 64, "sandbox", {}, None)
    files = world.store.layout.root / "sandboxes" / ("b" * 64)
    files.mkdir(parents=True)
    await recovered(world)
    assert [sandbox.id for sandbox in world.store.sandboxes] == [SANDBOX]
    assert files.is_dir()


@pytest.mark.parametrize("damage", [b"", b"{", b'{"Version": "v9", "Metadata": {}}'])
async def test_a_pod_and_its_container_with_damaged_records_are_listed(
    world: World, damage: bytes
) -> None:
    spec = {"annotations": {"io.kubernetes.cri.sandbox-id": SANDBOX}}
    netns_path = {"namespaces": [{"type": "network", "path": "/run/netns/cni-1"}]}
    names = {"io.kubernetes.cri.sandbox-name": "web", "io.kubernetes.cri.sandbox-namespace": "ns"}
    extension = any_pb2.Any(value=damage)
    leave_record(world, SANDBOX, "sandbox", {records.SANDBOX_EXTENSION: extension}, 2)
    leave_record(world, CONTAINER, "container", {records.CONTAINER_EXTENSION: extension}, None)
    pause, record = (world.containerd.records[id] for id in (SANDBOX, CONTAINER))
    annotations = {"annotations": spec["annotations"] | names}
    pause.spec.value = json.dumps(annotations | {"linux": netns_path}).encode()
    record.spec.value = json.dumps(spec).encode()
    pause.labels["io.kubernetes.pod.name"] = record.labels["io.kubernetes.pod.name"] = "web"
    await recovered(world)
    listed, (container,) = pod(world).listed(), pod(world).containers
    assert pod(world).state is SandboxState.UNKNOWN  # a kubelet replaces it
    assert (listed.metadata.name, listed.metadata.namespace) == ("web", "ns")
    assert listed.labels == container.listed().labels == {"io.kubernetes.pod.name": "web"}
    assert pod(world).metadata.netns_path == "/run/netns/cni-1"
    assert container.state is ContainerState.UNKNOWN


async def test_a_record_that_names_no_pod_is_left_alone(world: World) -> None:
    leave_sandbox(world, None)
    leave_record(world, CONTAINER, "container", {}, None)
    leave_record(world, "b" * 64, "sandbox", {}, None)
    for record, text in ((CONTAINER, b"{}"), ("b" * 64, b'{"annotations": {"a": "b"}}')):
        world.containerd.records[record].spec.value = text
    await recovered(world)
    assert [sandbox.id for sandbox in world.store.sandboxes] == [SANDBOX]
    assert len(world.store.containers) == 0


async def test_an_interrupted_pod_creation_is_undone(world: World) -> None:
    metadata = leave_sandbox(world, task_types_pb2.RUNNING)
    world.containerd.held_leases.add(SANDBOX)
    world.containerd.held_snapshots.add(SANDBOX)
    leave_note(world, metadata)
    await recovered(world)
    assert world.containerd.holdings == set()
    assert world.directories == []
    assert len(world.store.sandboxes) == 0


async def test_orphaned_directories_are_removed(world: World) -> None:
    leave_sandbox(world, None)
    layout = world.store.layout
    for name in (SANDBOX, "d" * 64, "keep-me"):
        (layout.root / "sandboxes" / name).mkdir(parents=True)
    await recovered(world)
    left = sorted(path.name for path in (layout.root / "sandboxes").iterdir())
    assert left == [SANDBOX, "keep-me"]
