"""Containers on a containerd in memory; only their files are real."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import grpc
from google.protobuf.empty_pb2 import Empty

from generated.containerd import containers_pb2, snapshots_pb2, tasks_pb2, types_pb2
from generated.cri import api_pb2
from generated.plans import CreateContainerPlan
from runtime.config.tables import Config
from runtime.containers.operations import Containers
from runtime.containers.services import Services
from runtime.containers.specs import Specs
from runtime.lookups.cdi import CdiDirectories
from runtime.lookups.handlers import Handlers
from runtime.lookups.owned_snapshots import OwnedSnapshots
from runtime.store.objects import Container, Sandbox
from runtime.store.selinux_levels import SelinuxLevels
from runtime.tasks.exits import Exits
from runtime.transforms import facts
from tests.unit.sandboxes.fakes import FakeContainerd, FakeLogKeeper, rpc_error

from . import samples

IMAGE = facts.Image(id="sha256:1", reference="app:1", chain_id="sha256:2", cmd=("run",))


class Daemon(FakeContainerd):
    """The calls that containers make in addition to those of sandboxes."""

    def __init__(self, rootfs: Path) -> None:
        super().__init__()
        self.rootfs = rootfs
        self.signals: list[int] = []
        self.stubborn = False
        """Processes exit only on SIGKILL."""

    def fail_now(self, code: grpc.StatusCode) -> None:
        raise rpc_error(code)

    def tasks_kill(self, request: tasks_pb2.KillRequest) -> Any:
        task = self._task(request.container_id)
        self.signals.append(request.signal)
        if request.signal == signal.SIGKILL or not self.stubborn:
            task.end(128 + request.signal)
        return Empty()

    def snapshots_prepare(self, request: snapshots_pb2.PrepareSnapshotRequest) -> Any:
        super().snapshots_prepare(request)
        mount = types_pb2.Mount(type="bind", source=str(self.rootfs))
        return snapshots_pb2.PrepareSnapshotResponse(mounts=[mount])

    def containers_get(self, request: containers_pb2.GetContainerRequest) -> Any:
        if request.id not in self.records:
            raise rpc_error(grpc.StatusCode.NOT_FOUND)
        return containers_pb2.GetContainerResponse(container=self.records[request.id])

    def containers_update(self, request: containers_pb2.UpdateContainerRequest) -> Any:
        assert list(request.update_mask.paths) == ["spec"]
        self.records[request.container.id].spec.CopyFrom(request.container.spec)
        return containers_pb2.UpdateContainerResponse()

    def tasks_update(self, request: tasks_pb2.UpdateTaskRequest) -> Any:
        self._task(request.container_id)
        return Empty()


class FakeImages:
    """One image, unpacked."""

    async def resolve(self, reference: str) -> facts.Image | None:
        return IMAGE if reference == IMAGE.reference else None

    async def unpacked(self, image: facts.Image, snapshotter: str) -> str:
        return image.chain_id


class World:
    """A ready pod, and everything that containers in it need."""

    def __init__(self, directory: Path, selinux: facts.SelinuxPolicy | None = None) -> None:
        rootfs = directory / "rootfs"
        rootfs.mkdir()
        self.daemon = Daemon(rootfs)
        self.log_keeper = FakeLogKeeper()
        self.store = samples.store(directory)
        self.exits = Exits(
            containerd=self.daemon,  # type: ignore[arg-type]
            store=self.store,
            log_keeper=self.log_keeper,
        )
        self.containers = Containers(
            Services(
                containerd=self.daemon,  # type: ignore[arg-type]
                store=self.store,
                exits=self.exits,
                images=FakeImages(),
                snapshots=OwnedSnapshots(self.daemon),  # type: ignore[arg-type]
                log_keeper=self.log_keeper,
                host=facts.Host(hostname="node", selinux=selinux),
                handlers=Handlers(facts.Handler(name="runc")),
                config=Config(),
                specs=Specs(self.daemon),  # type: ignore[arg-type]
                levels=SelinuxLevels(self.store, selinux),
                cdi=CdiDirectories([str(directory / "cdi")]),
            )
        )
        self.pod: Sandbox = samples.sandbox(self.store, "pod")

    async def created(self, image: str = IMAGE.reference, **config: Any) -> Container:
        requested = api_pb2.ContainerConfig(
            metadata=api_pb2.ContainerMetadata(name="app"),
            image=api_pb2.ImageSpec(image=image),
            **config,
        )
        plan = CreateContainerPlan(container_config=requested)
        answer = await self.containers.create(self.pod, plan)
        container = self.store.containers.get(answer.container_id)
        assert container is not None
        return container

    async def running(self, **config: Any) -> Container:
        container = await self.created(**config)
        await self.containers.start(container, api_pb2.StartContainerRequest())
        return container
