"""What an earlier server left of a container becomes an object again.

Its task tells, and where that is silent its status file: a saved exit is never doubted, as
containerd forgets the code with the task, which is deleted after the exit was saved.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, replace
from typing import Final

import structlog
from grpc import aio

from generated.containerd import containers_pb2, task_types_pb2
from generated.lifecycle import ContainerEvent, ContainerState
from generated.plans import plan_container
from runtime.containers.remove import remove_directories, remove_record_and_snapshot
from runtime.containers.services import Services
from runtime.errors import CriError, Unavailable
from runtime.logs.client import Fifos
from runtime.store import records
from runtime.store.objects import Container
from runtime.store.records import RecordError
from runtime.tasks import dead_shim
from runtime.tasks.exits import ALIVE, Exit, delete_task, task
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
    """By the status file."""
    status: facts.ContainerStatus
    process: task_types_pb2.Process | None = None
    to_watch: bool = False
    """It is UNKNOWN because its task could not be asked; it is asked again later."""


async def find(services: Services, record: containers_pb2.Container) -> Found | None:
    """Judge a container; None for a creation that was cut short, which is undone.

    Raises RecordError when the record cannot be read.
    """
    metadata = records.container_metadata(record.extensions[records.CONTAINER_EXTENSION].value)
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
            known = status = judged(saved, process)
            await _tidy(services, record, saved, status, process)
    except RecordError as error:
        log.warning("container becomes unknown", container=metadata.id, error=str(error))
        status = replace(saved, state=ContainerState.UNKNOWN)
    except (aio.AioRpcError, CriError, OSError, TimeoutError) as error:
        status, to_watch = _unasked(known, error, metadata.id)
    return Found(metadata, record.snapshotter, saved, status, process, to_watch)


def _unasked(
    known: facts.ContainerStatus, error: BaseException, container_id: str
) -> tuple[facts.ContainerStatus, bool]:
    """What is shown of a container that was not dealt with to the end: its exit, if it is known."""
    reason = (
        f"{error.code().name}: {error.details()}"
        if isinstance(error, aio.AioRpcError)
        else str(error) or type(error).__name__
    )
    if known.state is ContainerState.EXITED:
        log.warning("what is left of a container stays", container=container_id, error=reason)
        return known, False
    log.warning("container becomes unknown", container=container_id, error=reason)
    return replace(known, state=ContainerState.UNKNOWN), True


def add(services: Services, found: Found) -> Container:
    """Make the container known and follow its task."""
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
    """Ask again for the task of an UNKNOWN container, and move the container by the answer.

    Gives the process if it runs, whose output is to be kept. Raises while there is still no answer:
    AioRpcError, CriError.
    """
    process = await task(services.containerd, container.id)
    try:
        status = judged(saved, process)
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
        case _:  # its end is dealt with as any other
            services.exits.follow_container(container)
    return None


async def keep_logs(
    services: Services, container: Container, process: task_types_pb2.Process
) -> None:
    """Have the output drained, by the FIFOs that the shim names; a keeper that lived on has it.

    A log file that cannot be opened is tried again: the container runs already.
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
        log.error("output of a container is lost", container=container.id, error=str(error))


async def forget_logs(services: Services, container: Container) -> None:
    """Have a log keeper that lived on let go of what a start that was cut short had it open.

    It saw the end of that start's output and would not read the output of the next one.
    """
    try:
        await services.log_keeper.close(container.id)
    except (CriError, OSError) as error:
        log.warning("output of an earlier start stays open", id=container.id, error=str(error))


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


def _was_cut_short(services: Services, container_id: str) -> bool:
    """Whether the container was never whole, or no longer is.

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
    """What the rollback of CreateContainer does, for one that had no time to do it."""
    await dead_shim.clean_up_record(services.containerd.namespace, record)
    await remove_record_and_snapshot(services, metadata.id, metadata.sandbox_id, record.snapshotter)
    await remove_directories(services, metadata.id)
    log.info("half-made container undone", container=metadata.id, name=metadata.name)


def judged(
    saved: facts.ContainerStatus, process: task_types_pb2.Process | None
) -> facts.ContainerStatus:
    """The status by the task.

    Raises RecordError when the two contradict each other, and Unavailable when containerd does not
    know the task's state either.
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
            raise RecordError(f"its task never started, but its status is {saved.state.name}")
        return saved
    # UNKNOWN: the shim was silent for 2 s, which says nothing about the container's health
    raise Unavailable(f"the shim of container {process.id} does not answer containerd")


def _known_reason(saved: facts.ContainerStatus) -> str:
    """The saved reason, e.g. of an earlier OOM; not the one that stands in for a lost file."""
    return "" if saved.reason == records.UNKNOWN_REASON else saved.reason


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
) -> None:
    """Save what was found out, then end what is left of a task that does not run."""
    if status != saved:
        await services.store.checkpoints.save(record.id, status)
    if process is None:
        await dead_shim.clean_up_record(services.containerd.namespace, record)
    elif process.status == task_types_pb2.STOPPED:
        await delete_task(services.containerd, record.id)
    elif process.status == task_types_pb2.CREATED:
        await services.exits.end(record.id)
