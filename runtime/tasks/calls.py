"""Calls about one task: get, kill and delete it; each handles a task that does not exist."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from typing import Final

import grpc
from google.protobuf.timestamp_pb2 import Timestamp
from grpc import aio

from generated.containerd import task_types_pb2, tasks_pb2
from generated.lifecycle import (
    CONTAINER_NOT_OBSERVED_EXIT_CODE,
    CONTAINER_NOT_OBSERVED_REASON,
)
from runtime.containerd.client import Containerd

ALIVE: Final = frozenset({task_types_pb2.RUNNING, task_types_pb2.PAUSED, task_types_pb2.PAUSING})
"""Task states in which the process is running."""

_NOT_PAUSED: Final = frozenset(
    {task_types_pb2.RUNNING, task_types_pb2.STOPPED, task_types_pb2.CREATED}
)

_GONE: Final = frozenset({grpc.StatusCode.NOT_FOUND})

_SHIM_GONE: Final = "ttrpc: closed"
"""containerd's message if a shim exits during a call; it has no code of its own."""
_SHIM_ATTEMPTS: Final = 5
_SHIM_PAUSE: Final = 0.05
"""Seconds until the daemon has noticed that a shim exited."""


@dataclass(frozen=True, slots=True)
class Exit:
    """How a task ended."""

    code: int
    at: int
    """Nanoseconds since the epoch."""
    reason: str = ""
    """`CONTAINER_NOT_OBSERVED_REASON` if the exit was not observed."""

    @classmethod
    def unseen(cls) -> Exit:
        """The exit of a task that containerd no longer knows."""
        return cls(
            code=CONTAINER_NOT_OBSERVED_EXIT_CODE,
            at=time.time_ns(),
            reason=CONTAINER_NOT_OBSERVED_REASON,
        )

    @classmethod
    def reported(cls, code: int, at: Timestamp) -> Exit:
        """The exit as containerd reports it; if it has no time, the time is now."""
        return cls(code=code, at=at.ToNanoseconds() if at.seconds > 0 else time.time_ns())


async def task(containerd: Containerd, task_id: str) -> task_types_pb2.Process | None:
    """The task as containerd sees it; None if there is none. Raises on every other error."""
    try:
        answer = await containerd.tasks.Get(tasks_pb2.GetRequest(container_id=task_id))
    except aio.AioRpcError as error:
        if error.code() in _GONE:
            return None
        raise
    process: task_types_pb2.Process = answer.process
    return process


async def delete_task(containerd: Containerd, task_id: str) -> Exit | None:
    """Delete an exited task and thereby its shim; None if there is none. May be repeated."""
    request = tasks_pb2.DeleteTaskRequest(container_id=task_id)
    attempts = _SHIM_ATTEMPTS
    while True:
        attempts -= 1
        try:
            answer = await containerd.tasks.Delete(request)
        except aio.AioRpcError as error:
            if error.code() in _GONE:
                return None
            if not attempts or _SHIM_GONE not in (error.details() or ""):
                raise
        else:
            return Exit.reported(answer.exit_status, answer.exited_at)
        # the shim of a pod may exit with another task while it handles this call
        await asyncio.sleep(_SHIM_PAUSE)


async def resume_task(containerd: Containerd, task_id: str) -> None:
    """Let a paused task continue; succeeds if it runs, has exited or does not exist."""
    process = await task(containerd, task_id)
    if process is None or process.status in _NOT_PAUSED:
        return
    try:
        await containerd.tasks.Resume(tasks_pb2.ResumeTaskRequest(container_id=task_id))
    except aio.AioRpcError as error:
        if error.code() not in _GONE:
            raise


async def kill_task(containerd: Containerd, task_id: str, number: int) -> bool:
    """Send a signal to a task's first process; False if it does not exist any more."""
    request = tasks_pb2.KillRequest(container_id=task_id, signal=number)
    attempts = _SHIM_ATTEMPTS
    while True:
        attempts -= 1
        try:
            await containerd.tasks.Kill(request)
        except aio.AioRpcError as error:
            if error.code() in _GONE or "process already finished" in (error.details() or ""):
                return False
            if not attempts or _SHIM_GONE not in (error.details() or ""):
                raise
        else:
            return True
        # as for a deletion: the shim may exit during the call
        await asyncio.sleep(_SHIM_PAUSE)
