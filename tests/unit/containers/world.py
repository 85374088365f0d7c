"""Containers on a containerd in memory; only their files are real."""

from __future__ import annotations

import signal
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import grpc
from google.protobuf.empty_pb2 import Empty

from generated.containerd import (
    containers_pb2,
    content_pb2,
    diff_pb2,
    runc_options_pb2,
    snapshots_pb2,
    task_types_pb2,
    tasks_pb2,
    types_pb2,
)
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
        self.dump_log = ""
        """What CRIU says when it fails."""
        self.changed_files = b""
        """The layer that Diff makes."""
        self.diff = self.calls_of("diff")
        self.content = _Content(self)

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

    def snapshots_view(self, request: snapshots_pb2.ViewSnapshotRequest) -> Any:
        super().snapshots_view(request)
        mount = types_pb2.Mount(type="bind", source=str(self.rootfs))
        return snapshots_pb2.ViewSnapshotResponse(mounts=[mount])

    def containers_get(self, request: containers_pb2.GetContainerRequest) -> Any:
        if request.id not in self.records:
            raise rpc_error(grpc.StatusCode.NOT_FOUND)
        return containers_pb2.GetContainerResponse(container=self.records[request.id])

    def containers_update(self, request: containers_pb2.UpdateContainerRequest) -> Any:
        assert list(request.update_mask.paths) == ["spec"]
        self.records[request.container.id].spec.CopyFrom(request.container.spec)
        return containers_pb2.UpdateContainerResponse()

    def tasks_pause(self, request: tasks_pb2.PauseTaskRequest) -> Any:
        self._task(request.container_id).status = task_types_pb2.PAUSED
        return Empty()

    def tasks_resume(self, request: tasks_pb2.ResumeTaskRequest) -> Any:
        self._task(request.container_id).status = task_types_pb2.RUNNING
        return Empty()

    def tasks_checkpoint(self, request: tasks_pb2.CheckpointTaskRequest) -> Any:
        """What runc and CRIU do: nothing works unless the container is paused."""
        assert self._task(request.container_id).status == task_types_pb2.PAUSED
        options = runc_options_pb2.CheckpointOptions.FromString(request.options.value)
        assert not options.exit
        Path(options.work_path, "dump.log").write_text(self.dump_log)
        if self.dump_log:
            raise rpc_error(grpc.StatusCode.UNKNOWN, "criu failed: type DUMP errno 0")
        Path(options.image_path, "inventory.img").write_bytes(b"memory")
        return tasks_pb2.CheckpointTaskResponse()

    def snapshots_stat(self, request: snapshots_pb2.StatSnapshotRequest) -> Any:
        assert request.key in self.held_snapshots
        return snapshots_pb2.StatSnapshotResponse(info=snapshots_pb2.Info(parent="sha256:2"))

    def diff_diff(self, request: diff_pb2.DiffRequest) -> Any:
        (task,) = self.running.values()
        assert task.status == task_types_pb2.PAUSED
        return diff_pb2.DiffResponse(diff=types_pb2.Descriptor(digest="sha256:3"))

    def tasks_update(self, request: tasks_pb2.UpdateTaskRequest) -> Any:
        self._task(request.container_id)
        return Empty()


class _Content:
    """The content store: it has what Diff has made."""

    def __init__(self, daemon: Daemon) -> None:
        self._daemon = daemon

    async def Read(
        self, request: content_pb2.ReadContentRequest, **_: object
    ) -> AsyncIterator[content_pb2.ReadContentResponse]:
        assert request.digest == "sha256:3"
        yield content_pb2.ReadContentResponse(data=self._daemon.changed_files)


class FakeImages:
    """One image, unpacked."""

    async def resolve(self, reference: str) -> facts.Image | None:
        return IMAGE if reference == IMAGE.reference else None

    def __init__(self) -> None:
        self.applied: list[tuple[bytes, list[types_pb2.Mount]]] = []
        """The layers that were unpacked from files."""
        self.about: dict[str, str] = {}
        """The annotations of the image."""

    async def unpacked(self, image: facts.Image, snapshotter: str) -> str:
        return image.chain_id

    async def ensure(self, reference: str) -> facts.Image:
        assert reference == IMAGE.reference
        return IMAGE

    async def annotations(self, image: facts.Image) -> Mapping[str, str]:
        return self.about

    async def apply(self, layer: Path, mounts: Sequence[types_pb2.Mount], lease: object) -> None:
        self.applied.append((layer.read_bytes(), list(mounts)))  # noqa: ASYNC240


class World:
    """A ready pod, and everything that containers in it need."""

    def __init__(
        self,
        directory: Path,
        selinux: facts.SelinuxPolicy | None = None,
        config: Config | None = None,
    ) -> None:
        rootfs = directory / "rootfs"
        rootfs.mkdir()
        self.daemon = Daemon(rootfs)
        self.log_keeper = FakeLogKeeper()
        self.images = FakeImages()
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
                images=self.images,
                snapshots=OwnedSnapshots(self.daemon),  # type: ignore[arg-type]
                log_keeper=self.log_keeper,
                host=facts.Host(hostname="node", selinux=selinux),
                handlers=Handlers(facts.Handler(name="runc")),
                config=config or Config(),
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
