"""What the kubelet does with a pod of one container, and what it must never see."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from generated.containerd import task_types_pb2
from generated.cri import api_pb2
from generated.lifecycle import CONTAINER_NOT_OBSERVED_EXIT_CODE, ContainerState
from runtime.steps import background
from tests.unit.sandboxes.fakes import FakeImages

from .machine import Machine, Refused, Server

_PATIENCE = 40
"""Rounds in which a pod must be as it is wanted."""
_ROUND = 15.0
"""Seconds between two rounds."""


def pod_config(attempt: int = 0) -> api_pb2.PodSandboxConfig:
    config = api_pb2.PodSandboxConfig(
        metadata=api_pb2.PodSandboxMetadata(name="pod", namespace="ns", uid="u", attempt=attempt)
    )
    config.linux.security_context.namespace_options.ipc = api_pb2.NODE  # no tmpfs: no root needed
    return config


def container_config(attempt: int = 0) -> api_pb2.ContainerConfig:
    return api_pb2.ContainerConfig(
        metadata=api_pb2.ContainerMetadata(name="app", attempt=attempt),
        image=api_pb2.ImageSpec(image=FakeImages.image.reference),
        mounts=[
            api_pb2.Mount(
                container_path="/volume",
                readonly=True,
                image=api_pb2.ImageSpec(image=FakeImages.image.reference),
            )
        ],
    )


class Kubelet:
    """Looks after the pod on one server; a server that is started anew gets a new one."""

    def __init__(self, machine: Machine, server: Server) -> None:
        self._machine = machine
        self._server = server

    # Calls

    async def run_pod(self, attempt: int = 0) -> str:
        request = api_pb2.RunPodSandboxRequest(config=pod_config(attempt))
        answer = await self._server.call("RunPodSandbox", request)
        return str(answer.pod_sandbox_id)

    async def create(self, pod: str, attempt: int = 0) -> str:
        request = api_pb2.CreateContainerRequest(
            pod_sandbox_id=pod, config=container_config(attempt), sandbox_config=pod_config()
        )
        return str((await self._server.call("CreateContainer", request)).container_id)

    async def start(self, container: str) -> None:
        await self._call("StartContainer", container_id=container)

    async def stop(self, container: str, grace: int = 30) -> None:
        await self._call("StopContainer", container_id=container, timeout=grace)

    async def remove(self, container: str) -> None:
        await self._call("RemoveContainer", container_id=container)

    async def update(self, container: str) -> None:
        resources = api_pb2.LinuxContainerResources(cpu_shares=2048)
        await self._call("UpdateContainerResources", container_id=container, linux=resources)

    async def stop_pod(self, pod: str) -> None:
        await self._call("StopPodSandbox", pod_sandbox_id=pod)

    async def remove_pod(self, pod: str) -> None:
        await self._call("RemovePodSandbox", pod_sandbox_id=pod)

    async def _call(self, rpc: str, **fields: Any) -> None:
        await self._server.call(rpc, getattr(api_pb2, f"{rpc}Request")(**fields))

    async def pods(self) -> list[api_pb2.PodSandbox]:
        answer = await self._server.call("ListPodSandbox", api_pb2.ListPodSandboxRequest())
        return list(answer.items)

    async def containers(self) -> list[api_pb2.Container]:
        answer = await self._server.call("ListContainers", api_pb2.ListContainersRequest())
        return list(answer.containers)

    # What must hold whenever nothing is under way

    async def judge(self) -> None:
        """Raise AssertionError for a lost object, a lost exit code, or a state that is not true."""
        listed = {pod.id for pod in await self.pods()}
        listed |= {container.id for container in await self.containers()}
        running = {
            task_id
            for task_id, process in self._machine.daemon.tasks_of.items()
            if process.status == task_types_pb2.RUNNING
        }
        assert running <= listed, "something runs that is in no list"
        for container in self._server.store.containers:
            status, told = container.status, self._machine.daemon.ended.get(container.id)
            assert container.state is not ContainerState.UNKNOWN, "it could be known"
            assert container.state is not ContainerState.STARTING, "no start is under way"
            assert (container.state is ContainerState.RUNNING) == (container.id in running), (
                f"the state is {container.state.name}, "
                f"and a task {'runs' if container.id in running else 'does not run'}"
            )
            if container.state is ContainerState.EXITED and status.reason != "StartError":
                never_ran = f"it never ran, but exited with {status.exit_code}"
                assert (
                    told is not None or status.exit_code == CONTAINER_NOT_OBSERVED_EXIT_CODE
                ), never_ran
            if container.state is ContainerState.EXITED and told is not None:
                right = (told, "StartError")
                seen = (status.exit_code, status.reason)
                assert right[0] == seen[0] or right[1] == seen[1], f"exit {told} became {seen}"
        assert self._server.store.checkpoints.unsaved == 0

    async def settled(self) -> None:
        """Return when nothing of what calls left goes on."""
        await background.finished(300)
        await asyncio.sleep(60)

    # The pod as it is wanted

    async def bring_up(self) -> None:
        """Make the pod and its container run, from whatever there is."""
        await self._until(self._up)
        running = [
            item.id
            for item in await self.containers()
            if item.state == api_pb2.CONTAINER_RUNNING and item.metadata.name == "app"
        ]
        tasks = [
            task_id
            for task_id, process in self._machine.daemon.tasks_of.items()
            if process.status == task_types_pb2.RUNNING
        ]
        pods = [item.id for item in await self.pods() if item.state == api_pb2.SANDBOX_READY]
        assert len(running) == len(pods) == 1, f"{len(pods)} pods, {len(running)} containers run"
        assert sorted(tasks) == sorted([*running, *pods]), "a second task of it runs"

    async def _up(self) -> bool:
        pods = await self.pods()
        ready = [item for item in pods if item.state == api_pb2.SANDBOX_READY]
        for item in pods:
            if item not in ready:
                await self.stop_pod(item.id)
        if not ready:
            attempts = [item.metadata.attempt for item in pods]
            await self.run_pod(max(attempts) + 1 if attempts else 0)
            return False
        every = await self.containers()
        mine = [item for item in every if item.pod_sandbox_id == ready[0].id]
        if any(container.state == api_pb2.CONTAINER_RUNNING for container in mine):
            return True
        for container in mine:
            if container.state == api_pb2.CONTAINER_UNKNOWN:
                await self.stop(container.id)
        # a new sandbox of the pod goes on counting
        attempts = [item.metadata.attempt for item in every]
        await self.start(await self.create(ready[0].id, max(attempts) + 1 if attempts else 0))
        return False

    async def tear_down(self) -> None:
        """Stop and remove all there is; nothing may be left of it."""
        await self._until(self._down)
        await self.settled()
        assert self._machine.holdings == {}, f"left: {self._machine.holdings}"
        names = self._server.store.names
        assert names._holders == {}, f"names are still reserved: {list(names._holders)}"
        exits = self._server.exits
        assert not exits._followers and not exits._waits, "somebody waits for what is gone"

    async def _down(self) -> bool:
        for container in await self.containers():
            await self.stop(container.id)
            await self.remove(container.id)
        for pod in await self.pods():
            await self.stop_pod(pod.id)
            await self.remove_pod(pod.id)
        return not await self.pods() and not await self.containers()

    async def _until(self, done: Callable[[], Awaitable[bool]]) -> None:
        """Repeat until it is done; a call that is refused is tried again in the next round."""
        last: Refused | None = None
        for _ in range(_PATIENCE):
            try:
                if await done():
                    return
            except Refused as error:
                last = error
            await asyncio.sleep(_ROUND)
        raise AssertionError(f"the kubelet does not get on: {last}")
