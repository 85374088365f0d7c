"""What a client of GetContainerEvents receives about a pod, and when its stream ends."""

from __future__ import annotations

import asyncio
from pathlib import Path

import grpc
import pytest
from grpc import aio

from generated.cri import api_pb2
from generated.lifecycle import SandboxEvent, SandboxState
from generated.plans import StopContainerPlan
from runtime.events import operations
from runtime.events.operations import Events
from runtime.linux import netns
from runtime.sandboxes import status as sandbox_status
from runtime.store import events as store_events
from runtime.transforms import facts
from tests.harness.waiting import PATIENCE, until
from tests.unit.containers import samples
from tests.unit.containers.world import World
from tests.unit.server.fakes import world
from tests.unit.server.test_handlers import code_of

CREATED, STARTED = api_pb2.CONTAINER_CREATED_EVENT, api_pb2.CONTAINER_STARTED_EVENT
STOPPED, DELETED = api_pb2.CONTAINER_STOPPED_EVENT, api_pb2.CONTAINER_DELETED_EVENT


class Sandboxes:
    """The real reading of a pod's addresses."""

    def reachable(self, sandbox: facts.Sandbox) -> facts.Sandbox:
        return sandbox_status.reachable(sandbox)


@pytest.fixture
def node(tmp_path: Path) -> World:
    return World(tmp_path)


@pytest.fixture
def events(node: World) -> Events:
    return Events(hub=node.store.events, sandboxes=Sandboxes(), containers=node.containers)


async def some(events: Events, count: int) -> list[api_pb2.ContainerEventResponse]:
    """The next events."""
    stream = events.follow(api_pb2.GetEventsRequest())
    async with asyncio.timeout(PATIENCE):
        found = [await anext(stream) for _ in range(count)]
    await stream.aclose()  # type: ignore[attr-defined]
    return found


async def test_events_have_the_statuses_of_their_moment(node: World, events: Events) -> None:
    container = await node.running()
    await node.containers.stop(container, StopContainerPlan(grace=1))
    await node.containers.remove(container, api_pb2.RemoveContainerRequest())
    node.pod.fire(SandboxEvent.STOPPED)
    node.pod.fire(SandboxEvent.REMOVE)
    node.pod.fire(SandboxEvent.REMOVED)
    told = await some(events, 8)
    assert [(one.container_id, one.container_event_type) for one in told] == [
        ("pod", CREATED),
        ("pod", STARTED),
        (container.id, CREATED),
        (container.id, STARTED),
        (container.id, STOPPED),
        (container.id, DELETED),
        ("pod", STOPPED),
        ("pod", DELETED),
    ]
    ready, not_ready = api_pb2.SANDBOX_READY, api_pb2.SANDBOX_NOTREADY
    assert [one.pod_sandbox_status.state for one in told] == [ready] * 6 + [not_ready] * 2
    assert [[s.state for s in one.containers_statuses] for one in told] == [
        [],
        [],
        [api_pb2.CONTAINER_CREATED],
        [api_pb2.CONTAINER_RUNNING],
        [api_pb2.CONTAINER_EXITED],
        [],
        [],
        [],
    ]
    assert told[4].containers_statuses[0].exit_code == 143
    assert told[3].containers_statuses[0].image.image == "app:1"
    times = [one.created_at for one in told]
    assert times == sorted(times)
    assert times[0] > 1_600_000_000_000_000_000, "nanoseconds since the epoch"


async def test_a_pod_without_its_network_namespace_has_no_addresses(
    node: World, events: Events, monkeypatch: pytest.MonkeyPatch
) -> None:
    metadata = facts.SandboxMetadata(
        "two", "two", api_pb2.PodSandboxConfig(), netns_path="/run/netns/x", ip="10.0.0.9"
    )
    node.store.sandboxes.add(metadata, facts.SandboxStatus(SandboxState.READY))
    monkeypatch.setattr(netns, "is_alive", lambda path: True)
    told = await some(events, 4)
    assert told[2].pod_sandbox_status.network.ip == "10.0.0.9"
    monkeypatch.setattr(netns, "is_alive", lambda path: False)
    pod = node.store.sandboxes.get("two")
    assert pod is not None
    pod.fire(SandboxEvent.STOPPED)
    (told_of_stop,) = await some(events, 1)
    assert told_of_stop.container_event_type == STOPPED
    assert told_of_stop.pod_sandbox_status.network.ip == ""


async def test_an_event_that_is_read_late_has_the_addresses_of_its_moment(
    node: World, events: Events, monkeypatch: pytest.MonkeyPatch
) -> None:
    metadata = facts.SandboxMetadata(
        "two", "two", api_pb2.PodSandboxConfig(), netns_path="/run/netns/x", ip="10.0.0.9"
    )
    pod = node.store.sandboxes.add(metadata, facts.SandboxStatus(SandboxState.READY))
    pod.fire(SandboxEvent.STOPPED)
    monkeypatch.setattr(netns, "is_alive", lambda path: False)
    told = [one for one in await some(events, 5) if one.container_id == "two"]
    assert [(one.container_event_type, one.pod_sandbox_status.network.ip) for one in told] == [
        (CREATED, "10.0.0.9"),
        (STARTED, "10.0.0.9"),
        (STOPPED, ""),
    ]


async def test_a_lost_pod_has_no_status(node: World, events: Events) -> None:
    await some(events, 2)
    samples.container(node.store, "orphan", sandbox_id="lost")
    (told,) = await some(events, 1)
    assert told.container_id == "orphan"
    assert not told.HasField("pod_sandbox_status")


@pytest.mark.parametrize("code", [grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED])
async def test_an_event_waits_for_containerd(
    node: World, events: Events, monkeypatch: pytest.MonkeyPatch, code: grpc.StatusCode
) -> None:
    """As after a restart: the parts of the OCI spec in a status are read from containerd once."""
    monkeypatch.setattr(operations, "_AGAIN", 0.001)
    container = await node.created()
    node.containers.services.specs.forget(container.id)
    node.daemon.fail["containers.Get"] = code
    telling = asyncio.create_task(some(events, 3))
    await asyncio.sleep(0.05)
    assert not telling.done()
    del node.daemon.fail["containers.Get"]
    assert (await telling)[2].containers_statuses[0].id == container.id


async def test_a_vanished_client_is_forgotten(node: World, events: Events, tmp_path: Path) -> None:
    async with world(tmp_path / "cri.sock", events=events) as cri:
        call = cri.runtime.GetContainerEvents(api_pb2.GetEventsRequest())
        assert (await call.read()).container_id == "pod"
        assert len(node.store.events._followers) == 1
        call.cancel()
        await until(lambda: not node.store.events._followers)
        await until(lambda: bool(cri.observed))
        assert cri.observed == [("GetContainerEvents", grpc.StatusCode.CANCELLED)]


async def test_a_client_that_does_not_read_costs_only_itself(
    node: World, events: Events, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store_events, "BACKLOG", 50)
    labels = {"large": "x" * 100_000}  # more than gRPC's window, so that the server has to wait
    async with world(tmp_path / "cri.sock", events=events) as cri:
        slow, quick = (cri.runtime.GetContainerEvents(api_pb2.GetEventsRequest()) for _ in "12")
        await until(lambda: len(node.store.events._followers) == 2)
        for number in range(150):
            lost = SandboxState.UNKNOWN
            samples.sandbox(node.store, f"p{number}", labels=labels, state=lost).fire(
                SandboxEvent.STOPPED
            )
            if number % 10 == 9:
                while (await quick.read()).container_id != f"p{number}":
                    pass
        assert len(node.store.events._followers) == 1
        with pytest.raises(aio.AioRpcError) as caught:
            while True:
                await slow.read()
        assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert "list the objects, then follow the events again" in (caught.value.details() or "")


async def test_a_stopping_server_ends_the_stream(
    node: World, events: Events, tmp_path: Path
) -> None:
    async with world(tmp_path / "cri.sock", events=events) as cri:
        call = cri.runtime.GetContainerEvents(api_pb2.GetEventsRequest())
        await call.read()
        await call.read()
        node.store.events.close()
        code, details = await code_of(call.read())
        assert code is grpc.StatusCode.UNAVAILABLE
        assert details == "the server is stopping; follow the events of the next one"
