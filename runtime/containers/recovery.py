"""Turn what an earlier server left of a container into an object again.

The task's state decides, and the status file if there is no task. A saved exit always wins:
containerd forgets the exit code with the task, which is deleted after the exit was saved.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Collection
from dataclasses import dataclass, replace
from typing import Final

import structlog
from grpc import aio

from generated.containerd import containers_pb2, task_types_pb2
from generated.lifecycle import (
    CONTAINER_NOT_OBSERVED_EXIT_CODE,
    CONTAINER_NOT_OBSERVED_REASON,
    CONTAINER_OOM_KILLED_REASON,
    ContainerEvent,
    ContainerState,
)
from generated.plans import plan_container
from runtime.containers import checkpoint
from runtime.containers.remove import remove_directories, remove_record_and_snapshot
from runtime.containers.services import Services
from runtime.errors import CriError, Unavailable, in_words
from runtime.logs.client import Fifos
from runtime.store import records, salvage
from runtime.store.objects import Container
from runtime.store.records import RecordError
from runtime.tasks import dead_shim
from runtime.tasks.calls import ALIVE, Exit, delete_task, task
from runtime.transforms import facts

log = structlog.get_logger(__name__)

_OBJECT_LIMIT: Final = 10.0
"""Seconds for one object, as in the built-in plugin."""


@dataclass(frozen=True, slots=True)
class Found:
    """One container as it was found."""

    metadata: facts.ContainerMetadata
    snapshotter: str
    saved: facts.ContainerStatus
    """From the status file."""
    status: facts.ContainerStatus
    process: task_types_pb2.Process | None = None
    to_watch: bool = False
    """Whether it is UNKNOWN because its task could not be queried; it is queried again later."""


async def find(
    services: Services, record: containers_pb2.Container, being_created: Collection[str]
) -> Found | None:
    """Determine the state of a container; None for an interrupted creation, which is undone.

    ``being_created`` are the containers that an OCI runtime still creates. Raises RecordError if
    the record cannot be read, and the rest of containerd's record does not help.
    """
    metadata = _metadata(record)
    saved = _saved_status(services, metadata.id, record.created_at.ToNanoseconds())
    process = None
    known = saved
    to_watch = False
    try:
        async with asyncio.timeout(_OBJECT_LIMIT):
            process = await task(services.containerd, metadata.id)
            if process is None and _was_cut_short(services, metadata.id):
                await _undo(services, metadata, record)
                return None
            known = status = await _with_missed_oom(
                services, judged(saved, process), saved, process
            )
            await _tidy(services, record, saved, status, process, being_created)
    except RecordError as error:
        log.warning("container becomes unknown", container=metadata.id, error=str(error))
        status = replace(saved, state=ContainerState.UNKNOWN)
    except (aio.AioRpcError, CriError, OSError, TimeoutError) as error:
        status, to_watch = _unasked(known, error, metadata.id)
    return Found(metadata, record.snapshotter, saved, status, process, to_watch)


def _metadata(record: containers_pb2.Container) -> facts.ContainerMetadata:
    try:
        return records.container_metadata(record.extensions[records.CONTAINER_EXTENSION].value)
    except RecordError as damage:
        found = salvage.container(record, damage)
        log.error("the record of a container is damaged", container=record.id, error=str(damage))
        return found


async def _with_missed_oom(
    services: Services,
    status: facts.ContainerStatus,
    saved: facts.ContainerStatus,
    process: task_types_pb2.Process | None,
) -> facts.ContainerStatus:
    """The status with the reason OOMKilled, if a kill happened while no server was running."""
    if process is None or status.state is saved.state is not ContainerState.RUNNING:
        return status
    kills = services.exits.oom_kills
    if status.state is ContainerState.RUNNING:
        killed = await kills.in_running(process.id, process.pid)
    else:
        killed = await kills.in_exited(process.id, pid=saved.pid, since=saved.started_at)
    return replace(status, reason=CONTAINER_OOM_KILLED_REASON) if killed else status


def _unasked(
    known: facts.ContainerStatus, error: BaseException, container_id: str
) -> tuple[facts.ContainerStatus, bool]:
    """The status of a container that could not be recovered: its exit, if known."""
    reason = in_words(error)
    if known.state is ContainerState.EXITED:
        log.warning("leftovers of a container not removed", container=container_id, error=reason)
        return known, False
    log.warning("container becomes unknown", container=container_id, error=reason)
    return replace(known, state=ContainerState.UNKNOWN), True


def add(services: Services, found: Found) -> Container:
    """Add the container to the store and follow its task."""
    container = services.store.containers.add(
        found.metadata, found.status, snapshotter=found.snapshotter, recovered=True
    )
    contradictory = (
        found.status.state is ContainerState.UNKNOWN
        and found.process is not None
        and not found.to_watch
    )
    if found.status.state is ContainerState.RUNNING or contradictory:
        services.exits.follow_container(container)
    return container


async def settle(
    services: Services, container: Container, saved: facts.ContainerStatus
) -> task_types_pb2.Process | None:
    """Query the task of an UNKNOWN container again, and set its state accordingly.

    Returns the process if it runs, so that its output can be kept. Raises AioRpcError or CriError
    if its state is still unknown.
    """
    process = await task(services.containerd, container.id)
    try:
        status = await _with_missed_oom(services, judged(saved, process), saved, process)
    except RecordError as error:
        log.warning("container stays unknown", container=container.id, error=str(error))
        services.exits.follow_container(container)
        return None
    if status.state is ContainerState.CREATED:
        if process is None:
            await dead_shim.clean_up(services.containerd, container.id)
        else:
            await services.exits.end(container.id)
        await forget_logs(services, container)
    if container.state is not ContainerState.UNKNOWN:  # stopped meanwhile
        return None
    match status.state:
        case ContainerState.RUNNING:
            await checkpoint.resume_interrupted(services, container.id)
            await container.fire(
                ContainerEvent.FOUND,
                pid=status.pid,
                started_at=status.started_at,
                exit_code=0,
                reason=status.reason,
            )
            services.exits.follow_container(container)
            log.info("container found again", container=container.id)
            return process
        case ContainerState.CREATED:
            await container.fire(ContainerEvent.NEVER_STARTED)
        case _:  # its exit is handled like any other
            services.exits.follow_container(container)
    return None


async def keep_logs(
    services: Services, container: Container, process: task_types_pb2.Process
) -> None:
    """Continue to drain the output, through the FIFOs that the shim names; a surviving keeper
    has it.

    A log file that cannot be opened is retried, because the container is running already.
    """
    fifos = Fifos(
        stdin=process.stdin or None, stdout=process.stdout or None, stderr=process.stderr or None
    )
    try:
        await services.log_keeper.open(
            container.id,
            fifos,
            plan_container(container.metadata.config).terminal,
            container.metadata.log_path or None,
            line_limit=services.config.max_container_log_line_size,
            tolerant=True,
        )
    except (CriError, OSError) as error:
        log.error(
            "cannot drain the output of a container", container=container.id, error=str(error)
        )


async def forget_logs(services: Services, container: Container) -> None:
    """Let a surviving log keeper close what an interrupted start had opened, unless the container
    was started meanwhile: then what the keeper has open is that start's."""
    if container.state not in (ContainerState.CREATED, ContainerState.UNKNOWN):
        return
    try:
        await services.log_keeper.close(container.id)
    except (CriError, OSError) as error:
        log.warning(
            "could not close the output of an earlier start", id=container.id, error=str(error)
        )


def _saved_status(services: Services, container_id: str, created_at: int) -> facts.ContainerStatus:
    """The status file, or the status of a container that lost it: how it ended is unknown."""
    try:
        return services.store.checkpoints.load(container_id)
    except (OSError, RecordError) as error:
        log.warning("status of a container is lost", container=container_id, error=str(error))
        return facts.ContainerStatus(
            ContainerState.UNKNOWN,
            created_at=created_at,
            exit_code=CONTAINER_NOT_OBSERVED_EXIT_CODE,
            reason=CONTAINER_NOT_OBSERVED_REASON,
        )


def _was_cut_short(services: Services, container_id: str) -> bool:
    """Whether the container was never complete, or is partly removed.

    A creation makes the directory first and the status file last; a removal deletes the file first.
    """
    layout = services.store.layout
    return layout.container_root(container_id).is_dir() and not (
        layout.container_status(container_id).exists()
        or layout.container_status_copy(container_id).exists()
    )


async def _undo(
    services: Services, metadata: facts.ContainerMetadata, record: containers_pb2.Container
) -> None:
    """Do what the rollback of CreateContainer had no time to do."""
    await dead_shim.clean_up_record(services.containerd.namespace, record)
    await remove_record_and_snapshot(services, metadata.id, metadata.sandbox_id, record.snapshotter)
    await remove_directories(services, metadata.id)
    log.info("interrupted container creation undone", container=metadata.id, name=metadata.name)


def judged(
    saved: facts.ContainerStatus, process: task_types_pb2.Process | None
) -> facts.ContainerStatus:
    """The status according to the task.

    Raises RecordError if task and status file contradict each other, and Unavailable if containerd
    does not know the task's state either.
    """
    if process is None:
        return _exited(saved, Exit.unseen()) if saved.state is ContainerState.RUNNING else saved
    if process.status in ALIVE:
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
        if saved.state is ContainerState.EXITED:
            return saved
        return _exited(saved, Exit.reported(process.exit_status, process.exited_at))
    if process.status == task_types_pb2.CREATED:
        if saved.state is not ContainerState.CREATED:
            raise RecordError(
                f"its task never started, but the status file says {saved.state.name}"
            )
        return saved
    # UNKNOWN: the shim did not respond for 2 s, which says nothing about the container's health
    raise Unavailable(f"the shim of container {process.id} does not respond to containerd")


def _known_reason(saved: facts.ContainerStatus) -> str:
    """The saved reason, e.g. of an earlier OOM; not the placeholder for a lost file."""
    return "" if saved.reason == CONTAINER_NOT_OBSERVED_REASON else saved.reason


def _exited(saved: facts.ContainerStatus, exit: Exit) -> facts.ContainerStatus:
    return replace(
        saved,
        state=ContainerState.EXITED,
        pid=0,
        started_at=saved.started_at or exit.at,
        finished_at=exit.at,
        exit_code=exit.code,
        reason=_known_reason(saved) or exit.reason,
    )


async def _tidy(
    services: Services,
    record: containers_pb2.Container,
    saved: facts.ContainerStatus,
    status: facts.ContainerStatus,
    process: task_types_pb2.Process | None,
    being_created: Collection[str],
) -> None:
    """Save the state found, then end what is left of a task that does not run."""
    if status != saved:
        await services.store.checkpoints.save(record.id, status)
    if process is None:
        await dead_shim.clean_up_record(
            services.containerd.namespace, record, being_created=being_created
        )
    elif process.status == task_types_pb2.STOPPED:
        await delete_task(services.containerd, record.id)
    elif process.status == task_types_pb2.CREATED:
        await services.exits.end(record.id)
    else:
        await checkpoint.resume_interrupted(services, record.id)
