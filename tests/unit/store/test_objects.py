"""Changes are saved, then visible, then sent; the lifecycle table decides what may change."""

from __future__ import annotations

import asyncio
import itertools
from pathlib import Path

import pytest

from generated import lifecycle
from generated.cri import api_pb2
from generated.lifecycle import ContainerEvent, ContainerState, SandboxEvent, SandboxState
from runtime.errors import FailedPrecondition, InvalidArgument
from runtime.store.events import Events
from runtime.store.layout import Layout
from runtime.store.names import Names
from runtime.store.objects import Container, Sandbox, SavedExit, Store
from runtime.transforms import facts
from tests.harness.waiting import PATIENCE


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(Layout(root=tmp_path / "root", state=tmp_path / "state"), Events())


def a_sandbox(store: Store, state: SandboxState, sandbox_id: str = "s1") -> Sandbox:
    metadata = facts.SandboxMetadata(
        id=sandbox_id, name=f"name of {sandbox_id}", config=api_pb2.PodSandboxConfig()
    )
    return store.sandboxes.add(metadata, facts.SandboxStatus(state, created_at=1))


def a_container(store: Store, state: ContainerState, container_id: str = "c1") -> Container:
    metadata = facts.ContainerMetadata(
        id=container_id,
        name=f"name of {container_id}",
        sandbox_id="s1",
        config=api_pb2.ContainerConfig(),
    )
    status = facts.ContainerStatus(state, created_at=1)
    store.layout.container_root(container_id).mkdir(parents=True)
    return store.containers.add(metadata, status, recovered=True)


@pytest.mark.parametrize(("state", "event"), list(itertools.product(SandboxState, SandboxEvent)))
async def test_every_sandbox_event_in_every_state(
    store: Store, state: SandboxState, event: SandboxEvent
) -> None:
    sandbox = a_sandbox(store, state)
    with store.events.follow():
        pass  # the events since its creation
    with store.events.follow() as told:
        move = lifecycle.SANDBOX_TRANSITIONS.get((state, event))
        if move is None:
            with pytest.raises(FailedPrecondition, match=f"{state.name}.*{event.value}"):
                sandbox.fire(event)
            assert sandbox.state is state
            assert len(told) == 0
            return
        sandbox.fire(event)
        assert (store.sandboxes.get("s1") is None) == (move.to is None)
        assert move.to is None or sandbox.state is move.to
        kinds = [(await told.get()).kind for _ in range(len(told))]
        assert kinds == ([move.emits] if move.emits else [])


@pytest.mark.parametrize(
    ("state", "event"), list(itertools.product(ContainerState, ContainerEvent))
)
async def test_every_container_event_in_every_state(
    store: Store, state: ContainerState, event: ContainerEvent
) -> None:
    container = a_container(store, state)
    file = store.layout.container_status("c1")
    move = lifecycle.CONTAINER_TRANSITIONS.get((state, event))
    if move is None:
        with pytest.raises(FailedPrecondition, match=f"{state.name}.*{event.value}"):
            await container.fire(event)
        assert container.state is state
        assert not file.exists()
        return
    await container.fire(event)
    assert (store.containers.get("c1") is None) == (move.to is None)
    assert file.exists() == (move.persists is not None)


async def test_the_status_file_is_whole_and_private(store: Store) -> None:
    container = a_container(store, ContainerState.STARTING)
    await container.fire(ContainerEvent.STARTED, pid=7, started_at=2)
    file = store.layout.container_status("c1")
    assert file.stat().st_mode & 0o777 == 0o600
    assert store.checkpoints.load("c1") == container.status
    assert [path.name for path in file.parent.iterdir()] == ["status"]


async def test_a_new_sandbox_sends_created_and_started(store: Store) -> None:
    with store.events.follow() as told:
        a_sandbox(store, SandboxState.READY)
        a_sandbox(store, SandboxState.UNKNOWN, "s2")
        kinds = [(await told.get()).kind for _ in range(len(told))]
    assert kinds == ["CONTAINER_CREATED_EVENT", "CONTAINER_STARTED_EVENT"]


def test_an_id_is_found_by_a_unique_prefix(store: Store) -> None:
    one, two = (a_sandbox(store, SandboxState.READY, name) for name in ("abc1", "abd2"))
    assert store.sandboxes.find("abc") is one
    assert store.sandboxes.find("abd2") is two
    assert store.sandboxes.find("x") is None
    with pytest.raises(InvalidArgument, match="empty"):
        store.sandboxes.find("")
    with pytest.raises(InvalidArgument, match='more than one sandbox ID begins with "ab"'):
        store.sandboxes.find("ab")
    one.fire(SandboxEvent.STOPPED)
    one.fire(SandboxEvent.REMOVE)
    one.fire(SandboxEvent.REMOVED)
    assert store.sandboxes.find("ab") is two


def test_a_complete_id_wins_over_a_prefix(store: Store) -> None:
    one = a_sandbox(store, SandboxState.READY, "ab")
    a_sandbox(store, SandboxState.READY, "abc")
    assert store.sandboxes.find("ab") is one


def test_a_name_is_free_again_when_its_holder_is_gone(store: Store) -> None:
    sandbox = a_sandbox(store, SandboxState.NOTREADY)
    assert store.names.holder("name of s1") == "s1"
    sandbox.fire(SandboxEvent.REMOVE)
    sandbox.fire(SandboxEvent.REMOVED)
    assert store.names.holder("name of s1") is None


def test_a_reserved_name_names_its_holder() -> None:
    names = Names()
    names.reserve("pod_ns_uid_0", "s1")
    names.reserve("pod_ns_uid_0", "s1")
    with pytest.raises(FailedPrecondition, match='name "pod_ns_uid_0" is reserved for "s1"'):
        names.reserve("pod_ns_uid_0", "s2")
    names.release("pod_ns_uid_0", "s2")
    assert names.holder("pod_ns_uid_0") == "s1"
    names.release("pod_ns_uid_0", "s1")
    names.reserve("pod_ns_uid_0", "s2")


def test_the_cached_list_follows_every_change(store: Store) -> None:
    sandbox = a_sandbox(store, SandboxState.READY)
    first = store.sandboxes.listing()
    assert store.sandboxes.listing() is first
    sandbox.fire(SandboxEvent.STOPPED)
    assert store.sandboxes.listing().items[0].state == api_pb2.SANDBOX_NOTREADY
    assert first.items[0].state == api_pb2.SANDBOX_READY


async def test_a_start_under_way_can_be_waited_for(store: Store) -> None:
    container = a_container(store, ContainerState.STARTING)
    waiting = asyncio.ensure_future(container.start_ended())
    await asyncio.sleep(0)
    assert not waiting.done()
    await container.fire(ContainerEvent.STARTED, pid=1, started_at=2)
    await asyncio.wait_for(waiting, PATIENCE)


async def test_waiting_for_a_start_has_a_limit(store: Store) -> None:
    container = a_container(store, ContainerState.STARTING)
    assert not await container.start_ended(0.01)


async def test_a_pod_knows_its_containers(store: Store) -> None:
    sandbox = a_sandbox(store, SandboxState.READY)
    container = a_container(store, ContainerState.EXITED)
    assert sandbox.containers == [container]
    await container.fire(ContainerEvent.REMOVE)
    await container.fire(ContainerEvent.REMOVED)
    assert sandbox.containers == []


async def test_what_was_removed_does_not_change(store: Store) -> None:
    container = a_container(store, ContainerState.EXITED)
    await container.fire(ContainerEvent.REMOVE)
    with pytest.raises(FailedPrecondition, match="being removed"):
        await container.amend(reason="OOMKilled")
    await container.fire(ContainerEvent.REMOVED)
    with store.events.follow():
        pass  # the events of its life
    with store.events.follow() as told:
        with pytest.raises(FailedPrecondition, match="was removed"):
            await container.fire(ContainerEvent.REMOVED)
        with pytest.raises(FailedPrecondition):
            await container.amend(reason="OOMKilled")
        assert len(told) == 0
    assert not store.layout.container_status("c1").exists()


async def test_only_one_of_two_starts_claims_the_container(store: Store) -> None:
    container = a_container(store, ContainerState.CREATED)
    results = await asyncio.gather(
        *(container.fire(ContainerEvent.START) for _ in range(2)), return_exceptions=True
    )
    assert [type(result) for result in results] == [type(None), FailedPrecondition]


async def test_changes_that_are_saved_do_not_undo_each_other(store: Store) -> None:
    container = a_container(store, ContainerState.STARTING)
    resources = api_pb2.ContainerResources(linux=api_pb2.LinuxContainerResources(cpu_shares=2))
    await asyncio.gather(
        container.amend(resources=resources),
        container.fire(ContainerEvent.STARTED, pid=7, started_at=2),
        container.amend(reason="OOMKilled"),
        container.save_exit(SavedExit(code=3, finished_at=9)),
    )
    status = container.status
    assert (status.state, status.pid) == (ContainerState.RUNNING, 7)
    assert (status.resources, status.reason) == (resources, "OOMKilled")
    saved = store.checkpoints.load("c1")
    assert (saved.exit_code, saved.started_at, saved.resources) == (3, 2, resources)


async def test_a_change_goes_on_when_its_caller_is_cancelled(store: Store) -> None:
    container = a_container(store, ContainerState.STARTING)
    change = asyncio.ensure_future(container.fire(ContainerEvent.STARTED, pid=7, started_at=2))
    await asyncio.sleep(0)
    change.cancel()
    with pytest.raises(asyncio.CancelledError):
        await change
    assert await container.start_ended(5)
    assert container.state is ContainerState.RUNNING
    assert store.checkpoints.load("c1").started_at == 2
