"""Find again, at the start, every pod and container that an earlier server left.

That server may have been this one or containerd's built-in plugin: both keep the same records
(`runtime.store.records`). Recovery ends before the first call is served. It goes by what containerd
and the kernel say now, and by the records only where those are silent:

* a pod runs if its pause task runs; a container's exit code is its task's, if the task is still
  there;
* a creation that was cut short is undone: nobody was told of it;
* what cannot be judged becomes UNKNOWN, so that it can be stopped and removed;
* one object that makes trouble is logged and skipped, the others are recovered.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Final, Protocol

import structlog
from grpc import aio

from generated.containerd import containers_pb2, task_types_pb2
from generated.lifecycle import ContainerState, SandboxState
from runtime.containerd.removals import delete_container, delete_lease, remove_snapshot
from runtime.errors import CriError
from runtime.linux import netns
from runtime.linux.directories import remove_tree
from runtime.logs.client import Fifos
from runtime.sandboxes.run import UNFINISHED
from runtime.sandboxes.services import Services
from runtime.store import records
from runtime.store.objects import Container
from runtime.store.records import RecordError
from runtime.tasks import shared_shim
from runtime.tasks.exits import Exit, delete_task, task
from runtime.transforms import facts, labels

log = structlog.get_logger(__name__)

_OBJECT_LIMIT: Final = 10.0
"""Seconds for one object, as in the built-in plugin."""


_ALIVE: Final = frozenset({task_types_pb2.RUNNING, task_types_pb2.PAUSED, task_types_pb2.PAUSING})

_ID: Final = re.compile(r"[0-9a-f]{64}")


class LogKeeper(Protocol):
    """The log keeper as recovery uses it."""

    async def open(
        self,
        container_id: str,
        fifos: Fifos,
        tty: bool,
        log_path: str | None,
        *,
        line_limit: int,
        tolerant: bool,
    ) -> object: ...


async def recover(services: Services, log_keeper: LogKeeper) -> None:
    """Fill the store and follow every running task; raises when containerd cannot be asked."""
    began = time.monotonic()
    sandboxes = await _records(services, labels.SANDBOX)
    containers = await _records(services, labels.CONTAINER)
    await _undo_unfinished(services, sandboxes)
    await _each(sandboxes, lambda record: _recover_sandbox(services, record))
    await _each(containers, lambda record: _recover_container(services, log_keeper, record))
    await _remove_orphans(services)
    log.info(
        "recovered",
        sandboxes=len(services.store.sandboxes),
        containers=len(services.store.containers),
        took=f"{time.monotonic() - began:.2f} s",
    )


async def _records(services: Services, kind: str) -> list[containers_pb2.Container]:
    answer = await services.containerd.containers.List(
        containers_pb2.ListContainersRequest(filters=[f'labels."{labels.KIND}"=={kind}'])
    )
    return list(answer.containers)


async def _each(
    items: Iterable[containers_pb2.Container],
    recover_one: Callable[[containers_pb2.Container], Awaitable[None]],
) -> None:
    """Recover every object at once; one that fails is logged."""

    async def guarded(item: containers_pb2.Container) -> None:
        try:
            async with asyncio.timeout(_OBJECT_LIMIT):
                await recover_one(item)
        except Exception as error:
            log.error("object not recovered", id=item.id, error=str(error) or repr(error))

    await asyncio.gather(*map(guarded, items))


# Sandboxes


async def _recover_sandbox(services: Services, record: containers_pb2.Container) -> None:
    metadata = records.sandbox_metadata(record.extensions[records.SANDBOX_EXTENSION].value)
    created_at = record.created_at.ToNanoseconds()
    try:
        status = await _sandbox_status(services, metadata.id, created_at)
    except (aio.AioRpcError, TimeoutError) as error:
        log.warning("sandbox becomes unknown", sandbox=metadata.id, error=str(error))
        status = facts.SandboxStatus(SandboxState.UNKNOWN, created_at=created_at)
    sandbox = services.store.sandboxes.add(metadata, status, recovered=True)
    if status.state is SandboxState.READY:
        services.exits.follow_sandbox(sandbox)


async def _sandbox_status(
    services: Services, sandbox_id: str, created_at: int
) -> facts.SandboxStatus:
    process = await task(services.containerd, sandbox_id)
    if process is not None and process.status in _ALIVE:
        return facts.SandboxStatus(SandboxState.READY, created_at=created_at, pid=process.pid)
    # Keep the task of an exited pause container until the pod is removed. Deleting it would stop
    # the shim; containerd refuses that while containers still run, and does not retry.
    if process is not None and process.status != task_types_pb2.STOPPED:
        await services.exits.end(sandbox_id)
    return facts.SandboxStatus(SandboxState.NOTREADY, created_at=created_at)


# Creations that were cut short


async def _undo_unfinished(services: Services, sandboxes: list[containers_pb2.Container]) -> None:
    """Undo every RunPodSandbox that never answered, and take its record out of ``sandboxes``."""
    for path in sorted(_directory(services.store.layout.root / "sandboxes")):
        note = path / UNFINISHED
        try:
            metadata = records.sandbox_metadata(note.read_bytes())
        except FileNotFoundError:
            continue
        except (OSError, RecordError) as error:
            log.warning("unreadable note of a sandbox", path=str(note), error=str(error))
            continue
        sandboxes[:] = [record for record in sandboxes if record.id != metadata.id]
        try:
            await _undo(services, metadata)
            log.info("half-made sandbox undone", sandbox=metadata.id, name=metadata.name)
        except (aio.AioRpcError, CriError, OSError, TimeoutError) as error:
            log.error("half-made sandbox stays unknown", sandbox=metadata.id, error=str(error))
            status = facts.SandboxStatus(SandboxState.UNKNOWN, created_at=time.time_ns())
            services.store.sandboxes.add(metadata, status, recovered=True)


async def _undo(services: Services, metadata: facts.SandboxMetadata) -> None:
    """What the rollback of RunPodSandbox does, for one that had no time to do it."""
    containerd = services.containerd
    await services.exits.end(metadata.id)
    await shared_shim.withdraw(containerd, metadata.id)
    await delete_container(containerd, metadata.id)
    await remove_snapshot(containerd, services.snapshotter(metadata.runtime_handler), metadata.id)
    if metadata.netns_path:
        alive = netns.is_alive(metadata.netns_path)
        await services.network.delete(
            metadata.id,
            metadata.netns_path if alive else "",
            metadata.config,
            had_result=True,
        )
        await netns.remove(metadata.netns_path)
    await delete_lease(containerd, metadata.id)
    files = services.store.layout.sandbox(metadata)
    for directory in (files.state_dir, files.root_dir):
        await remove_tree(directory)


# Containers


async def _recover_container(
    services: Services, log_keeper: LogKeeper, record: containers_pb2.Container
) -> None:
    metadata = records.container_metadata(record.extensions[records.CONTAINER_EXTENSION].value)
    saved = _saved_status(services, metadata.id, record.created_at.ToNanoseconds())
    try:
        process = await task(services.containerd, metadata.id)
        status = await _container_status(services, metadata.id, saved, process)
    except (aio.AioRpcError, RecordError, TimeoutError) as error:
        log.warning("container becomes unknown", container=metadata.id, error=str(error))
        process, status = None, replace(saved, state=ContainerState.UNKNOWN)
    container = services.store.containers.add(metadata, status, recovered=True)
    if status != saved:
        services.store.checkpoints.save(container.id, status)
    if status.state is ContainerState.RUNNING and process is not None:
        await _keep_logs(services, log_keeper, container, process)
        services.exits.follow_container(container)


def _saved_status(services: Services, container_id: str, created_at: int) -> facts.ContainerStatus:
    """The status file, or what is said of a container that lost it: nobody knows how it ended."""
    try:
        return services.store.checkpoints.load(container_id)
    except (OSError, RecordError) as error:
        log.warning("status of a container is lost", container=container_id, error=str(error))
        return facts.ContainerStatus(
            ContainerState.UNKNOWN,
            created_at=created_at,
            exit_code=records.UNKNOWN_EXIT_CODE,
            reason=records.UNKNOWN_REASON,
        )


async def _container_status(
    services: Services,
    container_id: str,
    saved: facts.ContainerStatus,
    process: task_types_pb2.Process | None,
) -> facts.ContainerStatus:
    """The status by the task; raises RecordError when the two contradict each other."""
    if process is None:
        return _ended(saved, Exit.unseen()) if saved.state is ContainerState.RUNNING else saved
    if process.status in _ALIVE:
        if saved.state is ContainerState.EXITED:
            raise RecordError("the status file says that it ended, but its task runs")
        return replace(
            saved,
            state=ContainerState.RUNNING,
            pid=process.pid,
            started_at=saved.started_at or time.time_ns(),
            exit_code=0,
            reason=_known_reason(saved),
        )
    if process.status == task_types_pb2.STOPPED:
        exit = Exit.told(process.exit_status, process.exited_at)
        await delete_task(services.containerd, container_id)
        return saved if saved.state is ContainerState.EXITED else _ended(saved, exit)
    if process.status == task_types_pb2.CREATED:
        if saved.state is not ContainerState.CREATED:
            raise RecordError(f"its task never started, but its status is {saved.state.name}")
        await services.exits.end(container_id)
        return saved
    raise RecordError(f"its task is {task_types_pb2.Status.Name(process.status)}")


def _known_reason(saved: facts.ContainerStatus) -> str:
    """The saved reason, e.g. of an earlier OOM; not the one that stands in for a lost file."""
    return "" if saved.reason == records.UNKNOWN_REASON else saved.reason


def _ended(saved: facts.ContainerStatus, exit: Exit) -> facts.ContainerStatus:
    return replace(
        saved,
        state=ContainerState.EXITED,
        pid=0,
        started_at=saved.started_at or exit.at,
        finished_at=exit.at,
        exit_code=exit.code,
        reason=_known_reason(saved) or exit.reason,
    )


async def _keep_logs(
    services: Services,
    log_keeper: LogKeeper,
    container: Container,
    process: task_types_pb2.Process,
) -> None:
    """Have the output drained, by the FIFOs that the shim names; a keeper that lived on has it."""
    fifos = Fifos(
        stdin=process.stdin or None, stdout=process.stdout or None, stderr=process.stderr or None
    )
    try:
        await log_keeper.open(
            container.id,
            fifos,
            container.metadata.config.tty,
            container.metadata.log_path or None,
            line_limit=services.config.max_container_log_line_size,
            tolerant=True,
        )
    except (CriError, OSError) as error:
        log.error("output of a container is lost", container=container.id, error=str(error))


# What nobody owns


async def _remove_orphans(services: Services) -> None:
    """Delete the directories of objects that are gone, as far as that goes."""
    store = services.store
    for base in (store.layout.root, store.layout.state):
        for kind, known in (("sandboxes", store.sandboxes), ("containers", store.containers)):
            for path in _directory(base / kind):
                if _ID.fullmatch(path.name) and known.get(path.name) is None:
                    await _remove_orphan(path)


async def _remove_orphan(path: Path) -> None:
    try:
        await remove_tree(path)
        log.info("orphaned directory removed", path=str(path))
    except OSError as error:
        log.warning("orphaned directory stays", path=str(path), error=str(error))


def _directory(path: Path) -> list[Path]:
    return list(path.iterdir()) if path.is_dir() else []
