"""A store with containers in it, for tests that need no containerd."""

from __future__ import annotations

from pathlib import Path

from generated.cri import api_pb2
from generated.lifecycle import ContainerState, SandboxState
from runtime.store.events import Events
from runtime.store.layout import Layout
from runtime.store.objects import Container, Sandbox, Store
from runtime.transforms import facts


def store(directory: Path) -> Store:
    return Store(Layout(root=directory / "root", state=directory / "state"), Events())


def sandbox(
    into: Store, sandbox_id: str, *, state: SandboxState = SandboxState.READY, **config: object
) -> Sandbox:
    metadata = facts.SandboxMetadata(
        id=sandbox_id,
        name=f"name of {sandbox_id}",
        config=api_pb2.PodSandboxConfig(**config),  # type: ignore[arg-type]
    )
    return into.sandboxes.add(metadata, facts.SandboxStatus(state, created_at=1))


def container(
    into: Store,
    container_id: str,
    *,
    sandbox_id: str = "pod",
    state: ContainerState = ContainerState.RUNNING,
    pid: int = 0,
    **config: object,
) -> Container:
    metadata = facts.ContainerMetadata(
        id=container_id,
        name=f"name of {container_id}",
        sandbox_id=sandbox_id,
        config=api_pb2.ContainerConfig(**config),  # type: ignore[arg-type]
    )
    status = facts.ContainerStatus(state, pid=pid, created_at=1)
    return into.containers.add(metadata, status)
