"""A containerd, a network and images in memory, which record calls and fail on demand."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import grpc
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.empty_pb2 import Empty
from grpc import aio

from generated.containerd import (
    containers_pb2,
    leases_pb2,
    sandbox_pb2,
    snapshots_pb2,
    task_types_pb2,
    tasks_pb2,
    types_pb2,
)
from generated.cri import api_pb2
from generated.plans import RunPodSandboxPlan, StopContainerPlan
from runtime.config.tables import Config
from runtime.containerd.capabilities import Capabilities
from runtime.containers.operations import Containers
from runtime.containers.services import Services as ContainerServices
from runtime.containers.specs import Specs
from runtime.errors import Unknown
from runtime.lookups.cdi import CdiDirectories
from runtime.lookups.handlers import Handlers
from runtime.lookups.owned_snapshots import OwnedSnapshots
from runtime.sandboxes.services import Services
from runtime.store.events import Events
from runtime.store.layout import Layout
from runtime.store.objects import Container, Sandbox, Store
from runtime.store.selinux_levels import SelinuxLevels
from runtime.tasks.exits import Exits
from runtime.transforms import facts


def rpc_error(code: grpc.StatusCode, details: str = "told to fail") -> aio.AioRpcError:
    return aio.AioRpcError(code, aio.Metadata(), aio.Metadata(), details=details)


class FakeTask:
    """One task; ``ended`` is resolved with its exit code."""

    def __init__(self) -> None:
        self.status = task_types_pb2.CREATED
        self.ended: asyncio.Future[int] = asyncio.get_running_loop().create_future()

    def end(self, code: int) -> None:
        self.status = task_types_pb2.STOPPED
        if not self.ended.done():
            self.ended.set_result(code)


class FakeContainerd:
    """The calls that sandboxes make; each awaits once, so that steps really run in parallel."""

    namespace = "k8s.io"
    address = "unix:///nowhere/containerd.sock"

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.fail: dict[str, grpc.StatusCode] = {}
        self.hold: dict[str, asyncio.Event] = {}
        self.task_requests: dict[str, tasks_pb2.CreateTaskRequest] = {}
        """The last request of Tasks.Create, by ID."""
        self.records: dict[str, containers_pb2.Container] = {}
        self.held_leases: set[str] = set()
        self.held_snapshots: set[str] = set()
        self.announced: set[str] = set()
        self.snapshotters: set[str] = set()
        """The snapshotters from which a snapshot was removed."""
        self.capabilities = Capabilities(services=frozenset({"sandboxes"}))
        self.running: dict[str, FakeTask] = {}
        self.away = asyncio.Event()
        self._next: asyncio.Future[None] | None = None
        self.containers = self.calls_of("containers")
        self.leases = self.calls_of("leases")
        self.sandboxes = self.calls_of("sandboxes")
        self.snapshots = self.calls_of("snapshots")
        self.tasks = self.calls_of("tasks")

    def calls_of(self, service: str) -> _Calls:
        """The stub of a service, whose calls are the methods ``SERVICE_call``."""
        return _Calls(self, service)

    async def wait_ready(self) -> None:
        """Return when the daemon is up."""
        self.note("wait_ready")
        self.away.clear()

    def with_lease(self, lease: str) -> tuple[tuple[str, str], ...]:
        return (("containerd-lease", lease),)

    async def called(self, call: str) -> None:
        """Return once this call was made."""
        while call not in self.calls:
            self._next = asyncio.get_running_loop().create_future()
            await self._next

    def note(self, call: str) -> None:
        """Record a call and wake its waiters."""
        self.calls.append(call)
        if self._next is not None and not self._next.done():
            self._next.set_result(None)

    @property
    def holdings(self) -> set[str]:
        """Every ID that an object exists under."""
        held = self.held_leases | self.held_snapshots | self.announced
        return held | set(self.records) | set(self.running)

    # The effect of each call

    def containers_create(self, request: containers_pb2.CreateContainerRequest) -> Any:
        self.records[request.container.id] = request.container
        return containers_pb2.CreateContainerResponse(container=request.container)

    def containers_get(self, request: containers_pb2.GetContainerRequest) -> Any:
        _must_be(request.id in self.records)
        return containers_pb2.GetContainerResponse(container=self.records[request.id])

    def containers_update(self, request: containers_pb2.UpdateContainerRequest) -> Any:
        for key, value in request.container.extensions.items():
            self.records[request.container.id].extensions[key].CopyFrom(value)
        return containers_pb2.UpdateContainerResponse()

    def containers_list(self, request: containers_pb2.ListContainersRequest) -> Any:
        kind = request.filters[0].partition("==")[2]
        found = [r for r in self.records.values() if r.labels["io.cri-containerd.kind"] == kind]
        return containers_pb2.ListContainersResponse(containers=found)

    def containers_delete(self, request: containers_pb2.DeleteContainerRequest) -> Any:
        _must_be(self.records.pop(request.id, None))
        return Empty()

    def leases_create(self, request: leases_pb2.CreateRequest) -> Any:
        self.held_leases.add(request.id)
        return leases_pb2.CreateResponse()

    def leases_delete(self, request: leases_pb2.DeleteRequest) -> Any:
        _must_be(request.id in self.held_leases)
        self.held_leases.discard(request.id)
        return Empty()

    def snapshots_prepare(self, request: snapshots_pb2.PrepareSnapshotRequest) -> Any:
        self.held_snapshots.add(request.key)
        return snapshots_pb2.PrepareSnapshotResponse()

    def snapshots_view(self, request: snapshots_pb2.ViewSnapshotRequest) -> Any:
        if request.key in self.held_snapshots:
            raise rpc_error(grpc.StatusCode.ALREADY_EXISTS, "it exists")
        self.held_snapshots.add(request.key)
        return snapshots_pb2.ViewSnapshotResponse()

    def snapshots_mounts(self, request: snapshots_pb2.MountsRequest) -> Any:
        _must_be(request.key in self.held_snapshots)
        return snapshots_pb2.MountsResponse()

    def snapshots_remove(self, request: snapshots_pb2.RemoveSnapshotRequest) -> Any:
        self.snapshotters.add(request.snapshotter)
        _must_be(request.key in self.held_snapshots)
        self.held_snapshots.discard(request.key)
        return Empty()

    def sandboxes_create(self, request: sandbox_pb2.StoreCreateRequest) -> Any:
        self.announced.add(request.sandbox.sandbox_id)
        return sandbox_pb2.StoreCreateResponse()

    def sandboxes_delete(self, request: sandbox_pb2.StoreDeleteRequest) -> Any:
        _must_be(request.sandbox_id in self.announced)
        self.announced.discard(request.sandbox_id)
        return sandbox_pb2.StoreDeleteResponse()

    def sandboxes_list(self, request: sandbox_pb2.StoreListRequest) -> Any:
        found = [
            types_pb2.Sandbox(sandbox_id=name, extensions={"metadata": AnyMessage()})
            for name in sorted(self.announced)
        ]
        return sandbox_pb2.StoreListResponse(list=found)

    def tasks_create(self, request: tasks_pb2.CreateTaskRequest) -> Any:
        self.task_requests[request.container_id] = request
        self.running[request.container_id] = FakeTask()
        return tasks_pb2.CreateTaskResponse(pid=7)

    def tasks_start(self, request: tasks_pb2.StartRequest) -> Any:
        self.running[request.container_id].status = task_types_pb2.RUNNING
        return tasks_pb2.StartResponse(pid=7)

    def tasks_get(self, request: tasks_pb2.GetRequest) -> Any:
        task = self._task(request.container_id)
        code = task.ended.result() if task.ended.done() else 0
        process = task_types_pb2.Process(
            id=request.container_id, pid=7, status=task.status, exit_status=code
        )
        return tasks_pb2.GetResponse(process=process)

    def tasks_kill(self, request: tasks_pb2.KillRequest) -> Any:
        self._task(request.container_id).end(128 + request.signal)
        return Empty()

    def tasks_delete(self, request: tasks_pb2.DeleteTaskRequest) -> Any:
        task = self._task(request.container_id)
        if task.status == task_types_pb2.RUNNING:
            raise rpc_error(grpc.StatusCode.FAILED_PRECONDITION, "the task must be stopped")
        del self.running[request.container_id]
        return tasks_pb2.DeleteResponse(exit_status=0)

    def tasks_metrics(self, request: tasks_pb2.MetricsRequest) -> Any:
        return tasks_pb2.MetricsResponse()

    async def wait(self, task_id: str) -> tasks_pb2.WaitResponse:
        code = await self._or_away(asyncio.shield(self._task(task_id).ended))
        return tasks_pb2.WaitResponse(exit_status=code)

    async def _or_away(self, ended: asyncio.Future[int]) -> int:
        away = asyncio.ensure_future(self.away.wait())
        waited: set[asyncio.Future[Any]] = {ended, away}
        await asyncio.wait(waited, return_when=asyncio.FIRST_COMPLETED)
        away.cancel()
        if ended.done():
            return ended.result()
        raise rpc_error(grpc.StatusCode.UNAVAILABLE, "connection lost")

    def _task(self, task_id: str) -> FakeTask:
        _must_be(task_id in self.running)
        return self.running[task_id]


class _Calls:
    """The stub of one service."""

    def __init__(self, daemon: FakeContainerd, service: str) -> None:
        self._daemon = daemon
        self._service = service

    def __getattr__(self, name: str) -> Callable[..., Any]:
        call = f"{self._service}.{name}"

        def begin(request: Any, **_: object) -> Any:
            self._daemon.note(call)
            return answer(request)

        async def answer(request: Any) -> Any:
            daemon = self._daemon
            if call in daemon.hold:
                await daemon.hold[call].wait()
            await asyncio.sleep(0)
            if call in daemon.fail:
                raise rpc_error(daemon.fail[call])
            if daemon.away.is_set():
                raise rpc_error(grpc.StatusCode.UNAVAILABLE, "connection lost")
            if call == "tasks.Wait":
                return await daemon.wait(request.container_id)
            return getattr(daemon, f"{self._service}_{name.lower()}")(request)

        return begin


def _must_be(there: object) -> None:
    if not there:
        raise rpc_error(grpc.StatusCode.NOT_FOUND, "not found")


class FakeNetwork:
    """CNI in memory."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.attached: set[str] = set()
        self.fail: set[str] = set()
        self.not_ready: str | None = None
        self.hang = False

    def problem(self, handler: str = "") -> str | None:
        return self.not_ready

    async def add(
        self,
        sandbox_id: str,
        netns_path: str,
        config: api_pb2.PodSandboxConfig,
        *,
        handler: str = "",
    ) -> Any:
        self.calls.append("ADD")
        self.attached.add(sandbox_id)
        if self.hang:
            await asyncio.sleep(60)
        await asyncio.sleep(0)
        if "ADD" in self.fail:
            raise Unknown("told to fail")

        class Attachment:
            ip = "10.0.0.2"
            additional_ips = ("fd00::2",)
            result: Mapping[str, Any] = {"Interfaces": {}}

        return Attachment()

    async def delete(
        self,
        sandbox_id: str,
        netns_path: str,
        config: api_pb2.PodSandboxConfig,
        *,
        had_result: bool,
        handler: str = "",
    ) -> None:
        self.calls.append(f"DEL {'strict' if had_result else 'lenient'}")
        if "DEL" in self.fail and had_result:
            raise Unknown("told to fail")
        self.attached.discard(sandbox_id)


class FakeImages:
    """One image, of pods and containers."""

    image = facts.Image(
        id="sha256:1", reference="pause:1", chain_id="sha256:2", entrypoint=("/pause",), user="1:1"
    )

    async def ensure(self, reference: str) -> facts.Image:
        return self.image

    async def resolve(self, reference: str) -> facts.Image | None:
        return self.image

    async def unpacked(self, image: facts.Image, snapshotter: str) -> str:
        return image.chain_id

    async def annotations(self, image: facts.Image) -> Mapping[str, str]:
        return {}

    async def apply(self, layer: Path, mounts: Sequence[types_pb2.Mount], lease: object) -> None:
        raise AssertionError("no test restores a checkpoint here")


class FakeLogKeeper:
    """A keeper whose output is always drained."""

    def __init__(self) -> None:
        self.calls: list[str] = []

    async def open(self, container_id: str, *_: object, **__: object) -> None:
        self.calls.append(f"open {container_id}")

    async def reopen(self, container_id: str) -> None:
        self.calls.append(f"reopen {container_id}")

    async def drained(self, container_id: str) -> None:
        self.calls.append(f"drained {container_id}")

    async def close(self, container_id: str) -> None:
        self.calls.append(f"close {container_id}")

    @contextlib.asynccontextmanager
    async def attach(
        self, container_id: str, **_: object
    ) -> AsyncIterator[AsyncIterator[tuple[str, bytes]]]:
        self.calls.append(f"attach {container_id}")
        yield self._nothing()

    async def _nothing(self) -> AsyncIterator[tuple[str, bytes]]:
        return
        yield


class RecordedContainers:
    """The server's own work on containers; records its calls."""

    def __init__(self, containers: Containers) -> None:
        self.calls: list[str] = []
        self._containers = containers

    async def stop(
        self, container: Container, plan: StopContainerPlan
    ) -> api_pb2.StopContainerResponse:
        self.calls.append(f"stop {container.id} {plan.grace}")
        return await self._containers.stop(container, plan)

    async def remove(
        self, container: Container, request: api_pb2.RemoveContainerRequest
    ) -> api_pb2.RemoveContainerResponse:
        self.calls.append(f"remove {container.id}")
        return await self._containers.remove(container, request)

    async def release_images(self, sandbox: Sandbox) -> None:
        await self._containers.release_images(sandbox)


class World:
    """Everything that sandboxes need; only the directories are real."""

    def __init__(self, directory: Path, selinux: facts.SelinuxPolicy | None = None) -> None:
        self.containerd = FakeContainerd()
        self.network = FakeNetwork()
        self.log_keeper = FakeLogKeeper()
        self.store = Store(Layout(directory / "root", directory / "state"), Events())
        self.exits = Exits(
            containerd=self.containerd,  # type: ignore[arg-type]
            store=self.store,
            log_keeper=self.log_keeper,
        )
        host = facts.Host(hostname="node", selinux=selinux)
        levels = SelinuxLevels(self.store, selinux)
        handlers = Handlers(facts.Handler(name="runc"))
        self.container_services = ContainerServices(
            containerd=self.containerd,  # type: ignore[arg-type]
            store=self.store,
            exits=self.exits,
            images=FakeImages(),
            snapshots=OwnedSnapshots(self.containerd),  # type: ignore[arg-type]
            log_keeper=self.log_keeper,
            host=host,
            handlers=handlers,
            config=Config(),
            specs=Specs(self.containerd),  # type: ignore[arg-type]
            levels=levels,
            cdi=CdiDirectories([]),
        )
        self.containers = RecordedContainers(Containers(self.container_services))
        self.services = Services(
            containerd=self.containerd,  # type: ignore[arg-type]
            store=self.store,
            exits=self.exits,
            images=FakeImages(),
            snapshots=OwnedSnapshots(self.containerd),  # type: ignore[arg-type]
            network=self.network,
            containers=self.containers,
            host=host,
            handlers=handlers,
            config=Config(),
            levels=levels,
        )

    @property
    def directories(self) -> list[str]:
        """What sandboxes have on disk."""
        layout = self.store.layout
        bases = (layout.root / "sandboxes", layout.state / "sandboxes")
        return [str(path) for base in bases if base.exists() for path in base.iterdir()]


def run_request(network: Any = api_pb2.POD, **fields: Any) -> RunPodSandboxPlan:
    config = api_pb2.PodSandboxConfig(
        metadata=api_pb2.PodSandboxMetadata(name="pod", namespace="ns", uid="u", attempt=1),
        dns_config=api_pb2.DNSConfig(servers=["10.0.0.10"]),
    )
    options = config.linux.security_context.namespace_options
    options.network = network
    options.ipc = api_pb2.NODE  # no tmpfs: these tests need no root
    config.MergeFrom(api_pb2.PodSandboxConfig(**fields))
    return RunPodSandboxPlan(pod_config=config, runtime_handler="")
