"""StartContainer: run the process of a created container.

Whatever fails after the container was claimed ends it as EXITED, code 128, reason StartError: a
container starts once, and the kubelet makes a new one.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

import structlog
from grpc import aio

from generated.containerd import snapshots_pb2, tasks_pb2, types_pb2
from generated.cri import api_pb2
from generated.lifecycle import ContainerEvent, ContainerState, SandboxState
from runtime.containers.create import target_pid
from runtime.containers.services import to_the_end
from runtime.errors import FailedPrecondition, from_rpc
from runtime.logs.client import Fifos
from runtime.steps.rollback import Rollback
from runtime.steps.side_by_side import all_finished

if TYPE_CHECKING:
    from runtime.containers.services import Services
    from runtime.store.objects import Container, Sandbox

log = structlog.get_logger(__name__)

START_ERROR = "StartError"
START_ERROR_CODE = 128

_SAVE_PAUSE = 1.0
"""Seconds until a status that could not be saved is saved again."""


async def start(
    services: Services, container: Container, request: api_pb2.StartContainerRequest
) -> api_pb2.StartContainerResponse:
    """Return once the process runs, and its pid and start time are saved."""
    sandbox = _ready_sandbox(container)
    container.fire(ContainerEvent.START)
    try:
        await _start(services, sandbox, container)
    except aio.AioRpcError as error:
        translated = from_rpc(error, f"start container {container.id}")
        await to_the_end(_note_failure(container, str(translated)))
        raise translated from error
    except BaseException as error:
        await to_the_end(_note_failure(container, str(error) or "the caller gave the start up"))
        raise
    finally:
        services.prepared.pop(container.id, None)
    services.exits.follow_container(container)
    return api_pb2.StartContainerResponse()


def fifos_of(services: Services, container: Container) -> Fifos:
    """The FIFOs between the shim and the log keeper."""
    directory = services.store.layout.container_state(container.id) / "io"
    config = container.metadata.config
    path = f"{directory}/{container.id}"
    return Fifos(
        stdin=f"{path}-stdin" if config.stdin else None,
        stdout=f"{path}-stdout",
        # a terminal has one output
        stderr=None if config.tty else f"{path}-stderr",
    )


def _ready_sandbox(container: Container) -> Sandbox:
    sandbox = container.sandbox
    if sandbox is None or sandbox.state is not SandboxState.READY:
        state = "gone" if sandbox is None else sandbox.state.name
        raise FailedPrecondition(
            f"pod {container.metadata.sandbox_id} is {state}; its containers cannot start"
        )
    return sandbox


async def _start(services: Services, sandbox: Sandbox, container: Container) -> None:
    # the process that was there at creation may have ended, and its number been given anew
    target_pid(services, sandbox, container.metadata.config)
    config = container.metadata.config
    fifos = fifos_of(services, container)
    async with Rollback() as undo:
        undo.push("close the output", services.log_keeper.close, container.id)
        await services.log_keeper.open(
            container.id,
            fifos,
            config.tty,
            container.metadata.log_path or None,
            line_limit=services.config.max_container_log_line_size,
        )
        request = tasks_pb2.CreateTaskRequest(
            container_id=container.id,
            rootfs=await _root_file_system(services, container),
            stdin=fifos.stdin or "",
            stdout=fifos.stdout or "",
            stderr=fifos.stderr or "",
            terminal=config.tty,
            runtime_path=services.handler(sandbox).runtime_path,
        )
        undo.push("end the task", services.exits.end, container.id)
        # Do not cancel these when the client disconnects: containerd could still create the task,
        # and nothing would own it.
        try:
            await all_finished(_run_task(services, container, request))
        except asyncio.CancelledError:
            if container.state is not ContainerState.RUNNING:
                raise
            # the caller went away too late: it runs, and whoever looks next sees that


async def _run_task(
    services: Services, container: Container, request: tasks_pb2.CreateTaskRequest
) -> None:
    tasks = services.containerd.tasks
    await tasks.Create(request)
    services.exits.wait(container.id)
    # before the call: a short process ends before it returns, and must not end before it started
    started_at = time.time_ns()
    answer = await tasks.Start(tasks_pb2.StartRequest(container_id=container.id))
    container.fire(ContainerEvent.STARTED, pid=answer.pid, started_at=started_at)


async def _root_file_system(services: Services, container: Container) -> list[types_pb2.Mount]:
    known = services.prepared.get(container.id)
    if known is not None:
        return known
    answer = await services.containerd.snapshots.Mounts(
        snapshots_pb2.MountsRequest(snapshotter=services.snapshotter(container), key=container.id)
    )
    return list(answer.mounts)


async def _note_failure(container: Container, message: str) -> None:
    finished_at = time.time_ns()
    while True:
        try:
            container.fire(
                ContainerEvent.START_FAILED,
                exit_code=START_ERROR_CODE,
                reason=START_ERROR,
                message=message,
                finished_at=finished_at,
            )
        except OSError as error:
            # as STARTING it could never be removed, so a full disk is waited for
            log.error("status not saved", container=container.id, error=str(error))
            await asyncio.sleep(_SAVE_PAUSE)
        else:
            return
