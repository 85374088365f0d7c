"""A node that outlives its server: containerd, CNI, namespaces and the log keeper, in memory.

The server's own code runs on it in an event loop without file descriptors. The loop's clock jumps
to the next timer, so that minutes of waiting take no time. To kill the server, its loop is never
run again: not even cancellation handlers run, as with SIGKILL.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, contextmanager
from pathlib import Path
from typing import Any, TypeVar
from unittest import mock

import grpc
import structlog
from google.protobuf.empty_pb2 import Empty
from google.protobuf.timestamp_pb2 import Timestamp
from grpc import aio

from generated.containerd import (
    containers_pb2,
    leases_pb2,
    snapshots_pb2,
    task_types_pb2,
    tasks_pb2,
    types_pb2,
)
from generated.cri import api_pb2
from generated.handlers.runtime_service import RuntimeService
from runtime.config.tables import Config
from runtime.containers import image_volumes
from runtime.containers.operations import Containers
from runtime.containers.services import Services as ContainerServices
from runtime.containers.specs import Specs
from runtime.frame import Frame
from runtime.linux import directories, kernel, netns
from runtime.lookups.cdi import CdiDirectories
from runtime.lookups.handlers import Handlers
from runtime.lookups.owned_snapshots import OwnedSnapshots
from runtime.sandboxes.operations import Sandboxes
from runtime.sandboxes.services import Services as SandboxServices
from runtime.server.recovery import Recovery
from runtime.steps.threads import Threads
from runtime.store.events import Events
from runtime.store.layout import Layout
from runtime.store.objects import Store
from runtime.store.selinux_levels import SelinuxLevels
from runtime.tasks import shims
from runtime.tasks.exits import Exits
from runtime.transforms import facts, labels
from tests.unit.sandboxes.fakes import FakeContainerd, FakeImages, rpc_error

T = TypeVar("T")

TICK = 0.02
"""Minimum seconds of the loop's clock per iteration."""

RUNTIME = "io.containerd.memory.v1"
"""Not runc, whose state would be searched on the real machine."""


class Loop(asyncio.BaseEventLoop):
    """An event loop without I/O and with a clock of its own."""

    def __init__(self) -> None:
        super().__init__()
        self._now = 0.0
        self._selector = self

    def time(self) -> float:
        return self._now

    def select(self, timeout: float | None) -> list[Any]:
        """Called once per iteration, with the seconds to the next timer."""
        if timeout is None:
            raise RuntimeError("everything waits, and nothing is left that could happen")
        self._now += max(timeout, TICK)
        return []

    def _process_events(self, events: list[Any]) -> None:
        pass

    def _write_to_self(self) -> None:
        pass


class Process:
    """The task of a container or pod."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.status: int = task_types_pb2.CREATED
        self.code = 0
        self.waiters: list[asyncio.Future[None]] = []

    def end(self, code: int) -> None:
        """Its first process exits."""
        if self.status == task_types_pb2.STOPPED:
            return
        self.status, self.code = task_types_pb2.STOPPED, code
        for waiter in self.waiters:
            if not waiter.done():
                waiter.set_result(None)


class Daemon(FakeContainerd):
    """containerd: a call arrives, takes effect and returns, each in an iteration of its own.

    A call that is in progress when the server is killed or cancels it takes effect or not,
    depending on `late`: both are tested.
    """

    def __init__(self, rootfs: Path) -> None:
        super().__init__()
        self._mount = types_pb2.Mount(type="bind", source=str(rootfs))
        self._leases: dict[str, str] = {}
        """By snapshot: the lease that protects it from the garbage collector."""
        self.late = False
        self.tasks_of: dict[str, Process] = self.running  # type: ignore[assignment]
        self.ended: dict[str, int] = {}
        """The exit code of every task that ran, by ID."""
        self.stubborn = False
        """Processes exit only on SIGKILL."""
        self.short_lived = False
        """Processes exit immediately, with code 7."""
        self._arrived: dict[object, Callable[[], object]] = {}
        self._pid = 1 << 22  # higher than any pid of the kernel
        for service in ("containers", "leases", "sandboxes", "snapshots", "tasks"):
            setattr(self, service, _Calls(self, service))

    def cut(self) -> None:
        """The server was killed: its connection is closed."""
        effects = list(self._arrived.values())
        self._arrived.clear()
        for process in self.tasks_of.values():
            process.waiters.clear()
        self.away = asyncio.Event()  # a lock belongs to the loop that used it first
        if self.late:
            for effect in effects:
                _tried(effect)

    async def answer(self, call: str, request: Any) -> Any:
        effect = self._effect(call, request)
        key = object()
        self._arrived[key] = effect
        try:
            await asyncio.sleep(0)
        except asyncio.CancelledError:
            if self._arrived.pop(key, None) is not None and self.late:
                _tried(effect)
            raise
        self._arrived.pop(key, None)
        self._must_be_here()
        result = effect()
        await asyncio.sleep(0)
        self._must_be_here()
        return result

    def _effect(self, call: str, request: Any) -> Callable[[], Any]:
        service, _, method = call.partition(".")
        work = getattr(self, f"{service}_{method.lower()}")
        return lambda: work(request)

    def _must_be_here(self) -> None:
        if self.away.is_set():
            raise rpc_error(grpc.StatusCode.UNAVAILABLE, "connection lost")

    async def wait_for(self, request: tasks_pb2.WaitRequest) -> tasks_pb2.WaitResponse:
        await asyncio.sleep(0)
        self._must_be_here()
        process = self._process(request.container_id)
        if process.status != task_types_pb2.STOPPED:
            ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            process.waiters.append(ended)
            gone = asyncio.ensure_future(self.away.wait())
            both: set[asyncio.Future[Any]] = {ended, gone}
            try:
                await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
            finally:
                gone.cancel()
        self._must_be_here()
        assert process.status == task_types_pb2.STOPPED
        return tasks_pb2.WaitResponse(exit_status=process.code, exited_at=Timestamp(seconds=9))

    def _process(self, task_id: str) -> Process:
        if task_id not in self.tasks_of:
            raise rpc_error(grpc.StatusCode.NOT_FOUND, "not found")
        return self.tasks_of[task_id]

    def end(self, task_id: str, code: int) -> None:
        """The first process of a task exits, by itself or by a signal."""
        process = self.tasks_of[task_id]
        if process.status == task_types_pb2.RUNNING:
            self.ended[task_id] = code
        process.end(code)

    # Calls that do more than in other tests

    def containers_create(self, request: containers_pb2.CreateContainerRequest) -> Any:
        if request.container.id in self.records:
            raise rpc_error(grpc.StatusCode.ALREADY_EXISTS, "it exists")
        return super().containers_create(request)

    def containers_update(self, request: containers_pb2.UpdateContainerRequest) -> Any:
        if request.container.id not in self.records:
            raise rpc_error(grpc.StatusCode.NOT_FOUND, "not found")
        self.records[request.container.id] = request.container
        return containers_pb2.UpdateContainerResponse()

    def containers_delete(self, request: containers_pb2.DeleteContainerRequest) -> Any:
        if request.id in self.tasks_of:
            raise rpc_error(grpc.StatusCode.FAILED_PRECONDITION, "it has a task")
        return super().containers_delete(request)

    def tasks_create(self, request: tasks_pb2.CreateTaskRequest) -> Any:
        if request.container_id not in self.records:
            raise rpc_error(grpc.StatusCode.NOT_FOUND, "no such container")
        if request.container_id in self.tasks_of:
            raise rpc_error(grpc.StatusCode.ALREADY_EXISTS, "it exists")
        self._pid += 1
        self.tasks_of[request.container_id] = Process(self._pid)
        return tasks_pb2.CreateTaskResponse(pid=self._pid)

    def tasks_start(self, request: tasks_pb2.StartRequest) -> Any:
        process = self._process(request.container_id)
        if process.status != task_types_pb2.CREATED:
            raise rpc_error(grpc.StatusCode.FAILED_PRECONDITION, "it was started already")
        process.status = task_types_pb2.RUNNING
        if self.short_lived and request.container_id in self._apps:
            self.end(request.container_id, 7)
        return tasks_pb2.StartResponse(pid=process.pid)

    @property
    def _apps(self) -> set[str]:
        return {r.id for r in self.records.values() if r.labels[labels.KIND] == labels.CONTAINER}

    def tasks_get(self, request: tasks_pb2.GetRequest) -> Any:
        process = self._process(request.container_id)
        return tasks_pb2.GetResponse(
            process=task_types_pb2.Process(
                id=request.container_id,
                pid=process.pid,
                status=process.status,  # type: ignore[arg-type]
                exit_status=process.code,
                exited_at=Timestamp(seconds=9),
            )
        )

    def tasks_kill(self, request: tasks_pb2.KillRequest) -> Any:
        process = self._process(request.container_id)
        if process.status == task_types_pb2.STOPPED:
            raise rpc_error(grpc.StatusCode.NOT_FOUND, "process already finished")
        if request.signal == signal.SIGKILL or not self.stubborn:
            self.end(request.container_id, 128 + request.signal)
        return Empty()

    def tasks_delete(self, request: tasks_pb2.DeleteTaskRequest) -> Any:
        process = self._process(request.container_id)
        if process.status == task_types_pb2.RUNNING:
            raise rpc_error(grpc.StatusCode.FAILED_PRECONDITION, "the task must be stopped")
        del self.tasks_of[request.container_id]
        return tasks_pb2.DeleteResponse(exit_status=process.code, exited_at=Timestamp(seconds=9))

    def tasks_update(self, request: tasks_pb2.UpdateTaskRequest) -> Any:
        self._process(request.container_id)
        return Empty()

    def under_lease(self, snapshot: str, lease: str) -> None:
        """A snapshot will be created under this lease."""
        self._leases[snapshot] = lease

    def snapshots_prepare(self, request: snapshots_pb2.PrepareSnapshotRequest) -> Any:
        super().snapshots_prepare(request)
        return snapshots_pb2.PrepareSnapshotResponse(mounts=[self._mount])

    def leases_delete(self, request: leases_pb2.DeleteRequest) -> Any:
        answer = super().leases_delete(request)
        used = {record.snapshot_key for record in self.records.values()}
        for key, lease in list(self._leases.items()):
            if lease == request.id and key not in used:
                self.held_snapshots.discard(key)
        return answer

    def snapshots_mounts(self, request: snapshots_pb2.MountsRequest) -> Any:
        if request.key not in self.held_snapshots:
            raise rpc_error(grpc.StatusCode.NOT_FOUND, "not found")
        return snapshots_pb2.MountsResponse(mounts=[self._mount])


def _tried(effect: Callable[[], object]) -> None:
    with contextlib.suppress(aio.AioRpcError):  # nobody receives the response
        effect()


class _Calls:
    """The stub of one service."""

    def __init__(self, daemon: Daemon, service: str) -> None:
        self._daemon = daemon
        self._service = service

    def __getattr__(self, name: str) -> Callable[..., Any]:
        def begin(request: Any, metadata: Sequence[tuple[str, str]] = ()) -> Any:
            if (self._service, name) == ("tasks", "Wait"):
                return asyncio.ensure_future(self._daemon.wait_for(request))
            if self._service == "snapshots" and name in ("Prepare", "View"):
                self._daemon.under_lease(request.key, dict(metadata)["containerd-lease"])
            return self._daemon.answer(f"{self._service}.{name}", request)

        return begin


class Keeper:
    """The log keeper, which outlives the server; output is drained after some iterations."""

    def __init__(self) -> None:
        self.opened: set[str] = set()

    async def open(self, container_id: str, *_: object, **__: object) -> None:
        await asyncio.sleep(0)
        self.opened.add(container_id)
        await asyncio.sleep(0)

    async def reopen(self, container_id: str) -> None:
        await asyncio.sleep(0)

    def attach(
        self, container_id: str, *, stdout: bool, stderr: bool
    ) -> AbstractAsyncContextManager[AsyncIterator[tuple[str, bytes]]]:
        raise NotImplementedError("nobody attaches here")

    async def drained(self, container_id: str) -> None:
        for _ in range(3):
            await asyncio.sleep(0)

    async def close(self, container_id: str) -> None:
        await asyncio.sleep(0)
        self.opened.discard(container_id)


class Network:
    """CNI."""

    def __init__(self) -> None:
        self.attached: set[str] = set()

    def problem(self, handler: str = "") -> str | None:
        return None

    async def add(
        self,
        sandbox_id: str,
        netns_path: str,
        config: api_pb2.PodSandboxConfig,
        *,
        handler: str = "",
    ) -> Any:
        await asyncio.sleep(0)
        self.attached.add(sandbox_id)
        await asyncio.sleep(0)

        class Attachment:
            ip = "10.0.0.2"
            additional_ips: tuple[str, ...] = ()
            result: Mapping[str, Any] = {"Interfaces": {}}

        return Attachment()

    async def delete(self, sandbox_id: str, *_: object, **__: object) -> None:
        await asyncio.sleep(0)
        self.attached.discard(sandbox_id)
        await asyncio.sleep(0)


class Machine:
    """The state that outlives the server."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        (directory / "rootfs").mkdir()
        self.daemon = Daemon(directory / "rootfs")
        self.keeper = Keeper()
        self.network = Network()
        self.namespaces: set[str] = set()
        self.mounts: set[str] = set()
        """Where images are mounted."""

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Run the server's code on this machine, with threads as iterations of the loop."""

        async def create(path: str) -> None:
            await asyncio.sleep(0)
            self.namespaces.add(path)
            await asyncio.sleep(0)

        async def remove(path: str) -> None:
            await asyncio.sleep(0)
            self.namespaces.discard(path)

        async def run_at(
            _: Threads, places: object, work: Callable[..., T], *args: Any, **fields: Any
        ) -> T:
            await asyncio.sleep(0)
            result = work(*args, **fields)
            await asyncio.sleep(0)
            return result

        def mount(_: object, target: str) -> None:
            assert target not in self.mounts, "mounted twice"
            self.mounts.add(target)

        def unmount(below: str) -> None:
            self.mounts -= {path for path in self.mounts if f"{path}/".startswith(f"{below}/")}

        with (
            mock.patch.object(image_volumes, "mount_read_only", mount),
            mock.patch.object(image_volumes, "is_mounted", lambda _, path: path in self.mounts),
            mock.patch.object(directories, "_unmount", unmount),
            mock.patch.object(kernel, "mount_tmpfs", lambda *_: None),
            mock.patch.object(netns, "create", create),
            mock.patch.object(netns, "remove", remove),
            mock.patch.object(netns, "is_alive", lambda path: path in self.namespaces),
            mock.patch.object(Threads, "run_at", run_at),
            mock.patch.object(shims, "running", list),
        ):
            yield

    @property
    def holdings(self) -> dict[str, set[str]]:
        """Everything that pods and containers hold, by kind; kinds without any are omitted."""
        daemon = self.daemon
        found = {
            "records": set(daemon.records),
            "tasks": set(daemon.tasks_of),
            "snapshots": daemon.held_snapshots,
            "leases": daemon.held_leases,
            "sandbox records": daemon.announced,
            "namespaces": self.namespaces,
            "addresses": self.network.attached,
            "open logs": self.keeper.opened,
            "mounts": self.mounts,
            "directories": {
                str(path.relative_to(self.directory))
                for kind in ("sandboxes", "containers", "image-volumes")
                for path in self.directory.glob(f"*/{kind}/*")
            },
        }
        return {kind: held for kind, held in found.items() if held}


class Server:
    """One run of the server; created in its loop."""

    def __init__(self, machine: Machine) -> None:
        directory, daemon = machine.directory, machine.daemon
        layout = Layout(directory / "root", directory / "state")
        self.store = Store(layout, Events())
        self.exits = Exits(
            containerd=daemon,  # type: ignore[arg-type]
            store=self.store,
            log_keeper=machine.keeper,
        )
        shared: dict[str, Any] = {
            "containerd": daemon,
            "store": self.store,
            "exits": self.exits,
            "images": FakeImages(),
            "snapshots": OwnedSnapshots(daemon),  # type: ignore[arg-type]
            "host": facts.Host(hostname="node"),
            "handlers": Handlers(facts.Handler(name="runc", runtime_type=RUNTIME)),
            "config": Config(),
            "levels": SelinuxLevels(self.store, None),
        }
        self.containers = Containers(
            ContainerServices(
                log_keeper=machine.keeper,
                specs=Specs(shared["containerd"]),
                cdi=CdiDirectories([]),
                **shared,
            )
        )
        self.sandboxes = Sandboxes(
            SandboxServices(network=machine.network, containers=self.containers, **shared)
        )
        self.recovery = Recovery(
            self.sandboxes.services,
            self.containers.services,
        )
        unserved: Any = object()
        self._service: Any = RuntimeService(
            frame=Frame(
                closed=lambda: None,
                observe=lambda *_: None,
                log=structlog.get_logger("cri"),
                debugging=False,
            ),
            find_container=self.store.containers,
            find_sandbox=self.store.sandboxes,
            containers=self.containers,
            sandboxes=self.sandboxes,
            events=unserved,
            node=unserved,
            stats=unserved,
            streaming=unserved,
        )

    async def call(self, rpc: str, request: Any) -> Any:
        """Serve one call; raises Refused with its code."""
        return await getattr(self._service, rpc)(request, _Context())


class Refused(Exception):
    """The server returned an error."""

    def __init__(self, code: grpc.StatusCode, details: str) -> None:
        super().__init__(f"{code.name}: {details}")
        self.code = code


class _Context:
    async def abort(self, code: grpc.StatusCode, details: str) -> None:
        raise Refused(code, details)


class Life:
    """A running server in a loop of its own."""

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self.loop = Loop()
        self.server = self.run(self._made())

    async def _made(self) -> Server:
        return Server(self.machine)

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Run the loop until ``work`` has ended."""
        return self.loop.run_until_complete(work)

    def turns(self, count: int) -> None:
        """Run some iterations of the loop."""

        async def some() -> None:
            for _ in range(count):
                await asyncio.sleep(0)

        self.run(some())

    def kill(self) -> None:
        """SIGKILL: none of its code runs any more."""
        self.machine.daemon.cut()

    def discard(self) -> None:
        """Release the tasks of a killed server, once its machine is no longer needed."""

        async def end() -> None:
            others = asyncio.all_tasks() - {asyncio.current_task()}
            for task in others:
                task.cancel()
            await asyncio.wait_for(asyncio.gather(*others, return_exceptions=True), 3600)

        while len(asyncio.all_tasks(self.loop)):
            self.run(end())
        self.loop.close()
