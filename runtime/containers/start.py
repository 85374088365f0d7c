"""StartContainer: run the process of a created container.

If anything fails after the container was claimed, it becomes EXITED with the outcome start_error of
spec/lifecycle.yaml: a container starts only once, and the kubelet creates a new one. A start that
cannot be undone, because containerd or the shim does not respond, makes it UNKNOWN instead, because
its process may be running: the kubelet stops such a container before it creates a new one. Its task
is queried until its state is known.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from pathlib import Path
from typing import TYPE_CHECKING

import structlog
from google.protobuf.any_pb2 import Any as AnyMessage
from grpc import aio

from generated.containerd import (
    runc_options_pb2,
    snapshots_pb2,
    task_types_pb2,
    tasks_pb2,
    types_pb2,
)
from generated.cri import api_pb2
from generated.lifecycle import (
    CONTAINER_START_ERROR_EXIT_CODE,
    CONTAINER_START_ERROR_REASON,
    ContainerEvent,
    ContainerState,
    SandboxState,
)
from generated.plans import ContainerPlan, plan_container
from runtime.containerd.runtime_options import stored_options
from runtime.containerd.values import proto_any, with_options
from runtime.containers import checkpoint_archive
from runtime.containers.create import target_pid
from runtime.containers.specs import read_record
from runtime.errors import CriError, FailedPrecondition, from_rpc
from runtime.linux.directories import remove_tree
from runtime.logs.client import Fifos
from runtime.steps.background import to_the_end
from runtime.steps.parallel import all_finished
from runtime.steps.rollback import Rollback
from runtime.store.objects import SavedExit
from runtime.tasks.calls import ALIVE, task
from runtime.tasks.creation import create_task
from runtime.transforms import selinux

if TYPE_CHECKING:
    from runtime.containers.services import Services
    from runtime.store.objects import Container, Sandbox

log = structlog.get_logger(__name__)

_FIRST_PAUSE = 0.2
_LONGEST_PAUSE = 5.0
"""Seconds between queries of a task whose start neither succeeded nor could be undone."""


async def start(
    services: Services, container: Container, request: api_pb2.StartContainerRequest
) -> api_pb2.StartContainerResponse:
    """Return once the process runs, and its pid and start time are saved.

    Raises FailedPrecondition if the pod is not READY, or the container was stopped before.
    """
    await container.fire(ContainerEvent.START)
    container.start_is_over.clear()
    attempt = _Attempt(services, container)
    try:
        await attempt.run()
    except aio.AioRpcError as error:
        translated = from_rpc(error, f"start container {container.id}")
        await to_the_end(attempt.note_failure(str(translated)))
        raise translated from error
    except BaseException as error:
        await to_the_end(attempt.note_failure(str(error) or "the client cancelled the start"))
        raise
    finally:
        services.prepared.pop(container.id, None)
        container.start_is_over.set()
    services.exits.follow_container(container)
    return api_pb2.StartContainerResponse()


def _new_fifos(services: Services, container: Container, plan: ContainerPlan) -> Fifos:
    """The FIFOs between the shim and the log keeper, of this start alone.

    The shim of a start that was cut short may open those of its own start, and end the output by
    closing them, at any time.
    """
    directory = services.store.layout.container_state(container.id) / "io" / secrets.token_hex(4)
    path = f"{directory}/{container.id}"
    return Fifos(
        stdin=f"{path}-stdin" if plan.open_stdin else None,
        stdout=f"{path}-stdout",
        # a terminal has one output
        stderr=None if plan.terminal else f"{path}-stderr",
    )


def _ready_sandbox(container: Container) -> Sandbox:
    sandbox = container.sandbox
    if sandbox is None or sandbox.state is not SandboxState.READY:
        state = "gone" if sandbox is None else sandbox.state.name
        raise FailedPrecondition(
            f"pod {container.metadata.sandbox_id} is {state}; its containers cannot start"
        )
    return sandbox


class _Attempt:
    """One StartContainer in progress."""

    def __init__(self, services: Services, container: Container) -> None:
        self._services = services
        self._container = container
        self._tasks = services.containerd.tasks
        self._started_at = 0
        """When Tasks.Start was called; 0 if it was not, so the process never ran."""
        self._problem = ""
        """Why the start could not be undone."""

    async def run(self) -> None:
        services, container = self._services, self._container
        sandbox = _ready_sandbox(container)
        plan = plan_container(container.metadata.config)
        # the process found at creation may have exited, and its PID may have been reused
        target_pid(services, sandbox, plan)
        fifos = _new_fifos(services, container, plan)
        async with Rollback(self._not_undone) as undo:
            undo.push("close the output", services.log_keeper.close, container.id)
            await services.log_keeper.open(
                container.id,
                fifos,
                plan.terminal,
                container.metadata.log_path or None,
                line_limit=services.config.max_container_log_line_size,
            )
            request = tasks_pb2.CreateTaskRequest(
                container_id=container.id,
                rootfs=await _root_file_system(services, container),
                stdin=fifos.stdin or "",
                stdout=fifos.stdout or "",
                stderr=fifos.stderr or "",
                terminal=plan.terminal,
                runtime_path=services.handler(sandbox).runtime_path,
            )
            restored = services.store.layout.container_restore(container.id)
            if restored.is_dir():
                request.options.CopyFrom(await self._restoring(restored))
            undo.push("end the task", services.exits.end, container.id)
            # Not cancelled when the client disconnects: nothing would own a task that is created
            # later.
            try:
                await all_finished(self._run_task(request))
            except asyncio.CancelledError:
                if container.state is not ContainerState.RUNNING:
                    raise
                # the client disconnected too late: the container runs, as its status will show
            except aio.AioRpcError as error:
                said = checkpoint_archive.errors_in(restored / checkpoint_archive.RESTORE_LOG)
                if not said:
                    raise
                failure = from_rpc(error, f"restore container {container.id}")
                raise type(failure)("; ".join([str(failure), *said])) from error
        if request.HasField("options"):
            await remove_tree(restored)

    async def _restoring(self, directory: Path) -> AnyMessage:
        """Options that let runc's shim restore the processes from a checkpoint."""
        record = await read_record(self._services.containerd, self._container.id)
        options = stored_options(record.runtime) or runc_options_pb2.Options()
        options.criu_image_path = str(directory / checkpoint_archive.IMAGES)
        options.criu_work_path = str(directory)
        return proto_any(options)

    async def _run_task(self, request: tasks_pb2.CreateTaskRequest) -> None:
        container = self._container
        await create_task(self._services.containerd, request)
        if container.state is not ContainerState.STARTING:
            raise FailedPrecondition(f"container {container.id} was stopped while it was starting")
        self._services.exits.wait(container.id)
        # taken before the call: a short-lived process can exit before it returns, never before it
        # starts
        self._started_at = time.time_ns()
        answer = await self._tasks.Start(tasks_pb2.StartRequest(container_id=container.id))
        await container.fire(ContainerEvent.STARTED, pid=answer.pid, started_at=self._started_at)

    def _not_undone(self, problem: str) -> None:
        self._problem = problem

    async def note_failure(self, message: str) -> None:
        """Show that the start failed, or that it is unknown whether it did."""
        container = self._container
        if self._problem:
            log.warning(
                "container becomes unknown: its start failed and could not be undone",
                container=container.id,
                error=message,
                problem=self._problem,
            )
            if container.state is ContainerState.STARTING:
                await container.fire(ContainerEvent.LOST)
            if self._started_at:
                self._services.exits.follow_container(container)
            self._services.exits.settle(container.id, self._settle(message))
        elif container.state is ContainerState.STARTING:
            await container.fire(
                ContainerEvent.START_FAILED,
                exit_code=CONTAINER_START_ERROR_EXIT_CODE,
                reason=CONTAINER_START_ERROR_REASON,
                message=message,
                finished_at=time.time_ns(),
            )
        else:
            # a stop did not wait for the start, and the task it followed is gone
            await self._end(message)

    async def _end(self, message: str) -> None:
        """Show an UNKNOWN container whose task is gone and never ran as failed to start."""
        container = self._container
        if container.state is ContainerState.UNKNOWN:
            failed = SavedExit(
                CONTAINER_START_ERROR_EXIT_CODE,
                time.time_ns(),
                CONTAINER_START_ERROR_REASON,
                message,
            )
            await container.save_exit(failed)
            await container.fire(ContainerEvent.EXITED)

    async def _settle(self, message: str) -> None:
        """Query the task until it is known what became of the start."""
        pause = _FIRST_PAUSE
        while self._container.state is ContainerState.UNKNOWN:
            await asyncio.sleep(pause)
            pause = min(pause * 2, _LONGEST_PAUSE)
            try:
                if await self._is_settled(message):
                    return
            except (aio.AioRpcError, CriError, OSError) as error:
                log.debug(
                    "result of the start still unknown",
                    container=self._container.id,
                    error=str(error),
                )

    async def _is_settled(self, message: str) -> bool:
        """Act on the task's current state; False while its shim does not report it."""
        services, container = self._services, self._container
        process = await task(services.containerd, container.id)
        if container.state is not ContainerState.UNKNOWN:  # stopped meanwhile
            return True
        if process is not None and process.status == task_types_pb2.UNKNOWN:
            return False
        if process is not None and process.status in ALIVE:
            log.info("container is running: its start succeeded", container=container.id)
            await container.fire(
                ContainerEvent.FOUND,
                pid=process.pid,
                started_at=self._started_at or time.time_ns(),
            )
            services.exits.follow_container(container)
        elif self._started_at and (process is None or process.status == task_types_pb2.STOPPED):
            # it exited, or containerd forgot it: the follower handles both
            services.exits.follow_container(container)
        else:
            # it never ran
            await services.exits.end(container.id)
            await services.log_keeper.close(container.id)
            await self._end(message)
        return True


async def _root_file_system(services: Services, container: Container) -> list[types_pb2.Mount]:
    mounts = services.prepared.get(container.id)
    if mounts is None:
        answer = await services.containerd.snapshots.Mounts(
            snapshots_pb2.MountsRequest(
                snapshotter=services.snapshotter(container), key=container.id
            )
        )
        mounts = list(answer.mounts)
    if container.metadata.process_label:
        label = (await services.specs.shown(container.id)).linux.mountLabel
        return with_options(mounts, selinux.context_options(label or ""))
    return mounts
