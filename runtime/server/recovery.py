"""Find again, at the start, all pods and containers left by an earlier server.

That server may have been this one or containerd's built-in plugin: both keep the same records
(`runtime.store.records`). Recovery ends before the first call is served. It trusts the current
state of containerd and the kernel, and the records only for what those do not know:

* a pod runs if its pause task runs; a container's exit code is the saved one, or else its task's;
* an interrupted creation is undone: no client was told of it;
* an object whose state cannot be determined is UNKNOWN: it can be stopped and removed, and is
  queried again until its state is known, so a shim that is unresponsive for a while loses nothing;
* an object that fails to recover is logged and does not affect the others.

All state is queried before the first object becomes visible. If containerd goes away meanwhile,
recovery waits for it and queries everything again.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeVar

import grpc
import structlog
from grpc import aio

from generated.containerd import containers_pb2, task_types_pb2
from generated.lifecycle import ContainerState, SandboxState
from runtime.containerd.client import Containerd
from runtime.containers import orphaned_commands
from runtime.containers import recovery as containers
from runtime.containers.services import Services as ContainerServices
from runtime.errors import Unavailable
from runtime.linux.directories import remove_tree
from runtime.sandboxes import recovery as sandboxes
from runtime.sandboxes import unfinished
from runtime.sandboxes.services import Services
from runtime.steps import threads
from runtime.steps.background import Tasks
from runtime.store.layout import IMAGE_VOLUMES
from runtime.store.objects import Container, Sandbox
from runtime.tasks import shared_shim, shims
from runtime.transforms import facts, labels

log = structlog.get_logger(__name__)

_AT_ONCE: Final = 64
"""Objects queried at a time: a shim that waits too long for the CPU would count as unresponsive."""

_FIRST_PAUSE: Final = 0.5
_LONGEST_PAUSE: Final = 10.0
"""Seconds between two queries of an UNKNOWN object, doubled from the first to the longest."""

_AWAY: Final = frozenset({grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED})
_RESTART_PAUSE: Final = 0.2
"""Seconds before a step is retried."""

_ID: Final = re.compile(r"[0-9a-f]{64}")

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class _Found:
    """All that an earlier server left."""

    sandboxes: list[sandboxes.Found]
    containers: list[containers.Found]

    @property
    def to_watch(self) -> set[str]:
        """The IDs of objects that could not be queried."""
        items: list[sandboxes.Found | containers.Found] = [*self.sandboxes, *self.containers]
        return {item.metadata.id for item in items if item.to_watch}


class Recovery:
    """Recovery at one start, and what continues after it: UNKNOWN objects are queried again."""

    def __init__(self, services: Services, container_services: ContainerServices) -> None:
        self._services = services
        self._container_services = container_services
        self._background = Tasks(failed=_failed)

    async def run(self) -> None:
        """Fill the store and follow every running task; waits if containerd is down."""
        began = time.monotonic()
        found, known = await through_restarts(self._services.containerd, self._find)
        self._add(found)
        await self._remove_orphans(known)
        log.info(
            "recovered",
            sandboxes=len(self._services.store.sandboxes),
            containers=len(self._services.store.containers),
            took=f"{time.monotonic() - began:.2f} s",
        )

    async def stop(self) -> None:
        """Cancel the background work; the next start finds the same objects again."""
        await self._background.cancel()

    # Querying

    async def _find(self) -> tuple[_Found, set[str]]:
        """Every object, and the IDs that containerd has a record of."""
        pods = {record.id: record for record in await self._records(labels.SANDBOX)}
        others = await self._records(labels.CONTAINER)
        known = {*pods, *(record.id for record in others)}
        half_made = await threads.STATE_FILES.run(unfinished.found, self._services.store.layout)
        unfinished_ids = {metadata.id for metadata in half_made}
        found = await self._judged(
            [record for record in pods.values() if record.id not in unfinished_ids], others
        )
        undone = await _all_of(
            (half.id, sandboxes.undone(self._services, half, pods.get(half.id)))
            for half in half_made
        )
        if found.to_watch:
            # Raises UNAVAILABLE if no query succeeded because containerd went away. If it was away
            # only for a moment, the failed queries are repeated before a pod is reported as not
            # ready.
            await self._records(labels.SANDBOX)
            again = found.to_watch
            second = await self._judged(
                [record for record in pods.values() if record.id in again],
                [record for record in others if record.id in again],
            )
            found = _Found(
                [item for item in found.sandboxes if item.metadata.id not in again]
                + second.sandboxes,
                [item for item in found.containers if item.metadata.id not in again]
                + second.containers,
            )
        return _Found([*undone, *found.sandboxes], found.containers), known | unfinished_ids

    async def _judged(
        self, pods: list[containers_pb2.Container], others: list[containers_pb2.Container]
    ) -> _Found:
        being_created = await shims.being_created() if others else ()
        judged, judged_containers = await asyncio.gather(
            _all_of((pod.id, sandboxes.find(self._services, pod)) for pod in pods),
            _all_of(
                (other.id, containers.find(self._container_services, other, being_created))
                for other in others
            ),
        )
        return _Found(judged, judged_containers)

    async def _records(self, kind: str) -> list[containers_pb2.Container]:
        answer = await self._services.containerd.containers.List(
            containers_pb2.ListContainersRequest(filters=[f'labels."{labels.KIND}"=={kind}'])
        )
        return list(answer.containers)

    # Adding to the store

    def _add(self, found: _Found) -> None:
        start = self._background.start
        # if two have the same name, the running one gets it
        for item in sorted(found.sandboxes, key=lambda item: item.status.pid == 0):
            with _logged(item.metadata.id):
                sandbox = sandboxes.add(self._services, item)
                if item.to_watch:
                    start(self._watch_sandbox(sandbox))
        for each in found.containers:
            with _logged(each.metadata.id):
                container = containers.add(self._container_services, each)
                if each.to_watch:
                    start(self._watch_container(container, each.saved))
                elif container.state is ContainerState.CREATED:
                    start(containers.forget_logs(self._container_services, container))
                elif container.state is ContainerState.RUNNING and each.process is not None:
                    self._keep_logs(container, each.process)
                for command in orphaned_commands.found(self._container_services, container):
                    containerd = self._container_services.containerd
                    start(orphaned_commands.drain_to_end(containerd, container, command))

    def _keep_logs(self, container: Container, process: task_types_pb2.Process) -> None:
        # in a separate task: a keeper that hangs on a log volume must not delay recovery
        work = containers.keep_logs(self._container_services, container, process)
        self._background.start(work)

    # Watching UNKNOWN objects

    async def _watch_sandbox(self, sandbox: Sandbox) -> None:
        async for _ in _attempts():
            if sandbox.state is not SandboxState.UNKNOWN:
                return
            with _unanswered(sandbox.id):
                await sandboxes.settle(self._services, sandbox)
                return

    async def _watch_container(self, container: Container, saved: facts.ContainerStatus) -> None:
        async for _ in _attempts():
            if container.state is not ContainerState.UNKNOWN:
                return
            with _unanswered(container.id):
                process = await containers.settle(self._container_services, container, saved)
                if process is not None:
                    self._keep_logs(container, process)
                return

    # Leftovers without an object

    async def _remove_orphans(self, known: set[str]) -> None:
        """Remove leftovers that have no record in containerd, as far as possible."""
        await self._remove_directories(known)
        try:
            await self._end_shims(known)
            await self._withdraw_pods(known)
        except (aio.AioRpcError, OSError, TimeoutError) as error:
            log.warning("leftovers without a pod not removed", error=str(error))

    async def _remove_directories(self, known: set[str]) -> None:
        layout = self._services.store.layout
        for base in (layout.root, layout.state):
            for kind in ("sandboxes", "containers", IMAGE_VOLUMES):
                for path in _directory(base / kind):
                    if _ID.fullmatch(path.name) and path.name not in known:
                        await _remove_directory(path)

    async def _end_shims(self, known: set[str]) -> None:
        """Kill the shims of removed containers, which containerd has forgotten."""
        containerd = self._services.containerd
        processes = await threads.CGROUPS.run(shims.running)
        for shim in shims.of_daemon(processes, containerd):
            shim_id = shim.option("-id")
            if shim_id not in known and not await self._has_record(shim_id):
                log.warning("killing a shim without a container", id=shim_id, pid=shim.pid)
                await shims.kill_shims([shim])

    async def _has_record(self, container_id: str) -> bool:
        """Whether containerd has a container with that ID, ours or another client's."""
        try:
            await self._services.containerd.containers.Get(
                containers_pb2.GetContainerRequest(id=container_id)
            )
        except aio.AioRpcError as error:
            if error.code() is grpc.StatusCode.NOT_FOUND:
                return False
            raise
        return True

    async def _withdraw_pods(self, known: set[str]) -> None:
        """Delete the sandbox store's records of pods whose pause container no longer exists."""
        containerd = self._services.containerd
        for sandbox_id in await shared_shim.announced(containerd):
            if sandbox_id not in known:
                log.info("orphaned sandbox record deleted", sandbox=sandbox_id)
                await shared_shim.withdraw(containerd, sandbox_id)


def _failed(error: BaseException) -> None:
    log.error("background recovery failed", error=repr(error), exc_info=error)


async def through_restarts(containerd: Containerd, step: Callable[[], Awaitable[T]]) -> T:
    """The result of a step of recovery, which is retried if containerd goes away during it.

    Raises every other failure.
    """
    while True:
        try:
            return await step()
        except (aio.AioRpcError, Unavailable) as error:
            if isinstance(error, aio.AioRpcError) and error.code() not in _AWAY:
                raise
            log.warning("containerd went away during the start", error=str(error))
        await asyncio.sleep(_RESTART_PAUSE)
        await containerd.wait_ready()


async def _all_of(works: Iterable[tuple[str, Coroutine[Any, Any, T | None]]]) -> list[T]:
    """The results of all works, run in parallel; a failure is logged with its ID."""
    at_once = asyncio.Semaphore(_AT_ONCE)

    async def guarded(object_id: str, work: Coroutine[Any, Any, T | None]) -> T | None:
        async with at_once:
            with _logged(object_id):
                return await work
        return None

    results = await asyncio.gather(*(guarded(id, work) for id, work in works))
    return [result for result in results if result is not None]


@contextmanager
def _logged(object_id: str) -> Iterator[None]:
    """A failing object must not affect the others."""
    try:
        yield
    except Exception as error:
        log.error("object not recovered", id=object_id, error=str(error) or repr(error))


@contextmanager
def _unanswered(object_id: str) -> Iterator[None]:
    """An object whose state is still unknown is queried again."""
    try:
        yield
    except Exception as error:
        log.debug("object still unknown", id=object_id, error=str(error) or repr(error))


async def _attempts() -> AsyncIterator[None]:
    pause = _FIRST_PAUSE
    while True:
        await asyncio.sleep(pause)
        yield
        pause = min(pause * 2, _LONGEST_PAUSE)


async def _remove_directory(path: Path) -> None:
    try:
        await remove_tree(path)
        log.info("orphaned directory removed", path=str(path))
    except OSError as error:
        log.warning("orphaned directory not removed", path=str(path), error=str(error))


def _directory(path: Path) -> list[Path]:
    return list(path.iterdir()) if path.is_dir() else []
