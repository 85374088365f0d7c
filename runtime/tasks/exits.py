"""Observe the exit of every task, exactly once, and handle it.

One ``Tasks.Wait`` is open for each task. It is sent before ``Tasks.Start``, so that no exit is
missed, and its response is handled only after the start has been saved:

    exits.wait(container.id)                    # before Tasks.Start
    …                                           # Tasks.Start, fire(STARTED)
    exits.follow_container(container)           # from here on the exit is handled

A failed call never counts as an exit. If containerd goes away, the wait is sent again, and
``Tasks.Get`` shows what happened meanwhile. Only a responding daemon that knows no such task means
the outcome not_observed of
spec/lifecycle.yaml.

An exit is handled in this order: code and time saved to disk, task deleted (containerd forgets the
code with it), output written to the log, state visible, event sent. If the server dies in between,
recovery finds the exit in the status file or in the task.

Handling is retried with growing pauses until it succeeds: an exited container must not stay RUNNING
because the disk was full for a moment.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from typing import Any, Final, Protocol

import structlog
from grpc import aio

from generated.containerd import task_types_pb2, tasks_pb2
from generated.lifecycle import (
    CONTAINER_OOM_KILLED_REASON,
    ContainerEvent,
    ContainerState,
    SandboxEvent,
    SandboxState,
)
from runtime.containerd.client import Containerd
from runtime.errors import CriError, FailedPrecondition, in_words
from runtime.store.objects import Container, Sandbox, SavedExit, Store
from runtime.tasks import dead_shim
from runtime.tasks.calls import Exit, delete_task, kill_task, task
from runtime.tasks.oom import OomKills

log = structlog.get_logger(__name__)

_KILL_LIMIT: Final = 10.0
"""Seconds for a task to exit after SIGKILL."""

_DRAIN_LIMIT: Final = 10.0
"""Seconds for draining a container's output."""

_FIRST_PAUSE: Final = 1.0
_LONGEST_PAUSE: Final = 300.0
"""Seconds between attempts to handle an exit, doubled from the first to the longest."""

_RECONNECT_PAUSE: Final = 0.2
"""Seconds before a failed wait is sent again."""
_LONGEST_RECONNECT_PAUSE: Final = 5.0

_SIGKILL_CODE: Final = 137
"""128 + SIGKILL: the exit code of a process killed by the kernel's out-of-memory killer."""

_FOLLOWED: Final = frozenset({ContainerState.RUNNING, ContainerState.UNKNOWN})
"""States of a container whose task may exit."""

_STOPPED_TOGETHER: Final = 0.5
"""Seconds for the tasks of a stopped pod to exit one after the other."""


class LogDrain(Protocol):
    """What this module needs from the log keeper."""

    async def drained(self, container_id: str) -> None: ...

    async def close(self, container_id: str) -> None: ...


class Exits:
    """The waits and followers of all tasks of this server."""

    def __init__(self, *, containerd: Containerd, store: Store, log_keeper: LogDrain) -> None:
        self._containerd = containerd
        self._store = store
        self._log_keeper = log_keeper
        self._waits: dict[str, asyncio.Task[Exit]] = {}
        self._followers: dict[str, asyncio.Task[None]] = {}
        self._settling: dict[str, asyncio.Task[None]] = {}
        self.oom_kills = OomKills(containerd, self._note_oom)

    async def start(self) -> None:
        """Start to listen for out-of-memory events; called once, before recovery."""
        await self.oom_kills.start()

    async def stop(self) -> None:
        """End all waits; tasks and their exits are left to the next start."""
        tasks = [*self._waits.values(), *self._followers.values(), *self._settling.values()]
        for each in tasks:
            each.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self.oom_kills.stop()

    def wait(self, task_id: str) -> asyncio.Task[Exit]:
        """The only wait for the exit of a task, sent now if it is not open yet.

        Await it under ``asyncio.shield``, because others may be waiting for it too.
        """
        wait = self._waits.get(task_id)
        if wait is None:
            # Send Wait now, not inside the new task, so that it reaches containerd before the next
            # call.
            answer = self._containerd.tasks.Wait(tasks_pb2.WaitRequest(container_id=task_id))
            wait = asyncio.create_task(self._wait(task_id, answer), name=f"wait {task_id}")
            self._waits[task_id] = wait
        return wait

    def forget(self, task_id: str) -> None:
        """End the wait of a task that never started; no exit is handled."""
        for tasks in (self._followers, self._waits):
            task = tasks.pop(task_id, None)
            if task is not None:
                task.cancel()

    async def end(self, task_id: str) -> None:
        """Kill and delete a task that has no follower; succeeds if it does not exist."""
        if await kill_task(self._containerd, task_id, signal.SIGKILL):
            await asyncio.wait({self.wait(task_id)}, timeout=_KILL_LIMIT)
        await delete_task(self._containerd, task_id)
        self.forget(task_id)

    def settle(self, task_id: str, work: Coroutine[Any, Any, None]) -> None:
        """Run ``work`` in the background to find out the state of a task that is not known."""
        settling = asyncio.create_task(work, name=f"settle {task_id}")
        self._settling[task_id] = settling
        settling.add_done_callback(lambda _: self._settling.pop(task_id, None))

    def follow_sandbox(self, sandbox: Sandbox) -> None:
        """Handle the exit of this pause task, whenever it happens."""
        self._follow(sandbox.id, lambda exit: self._sandbox_exited(sandbox, exit))

    def follow_container(self, container: Container) -> None:
        """Handle the exit of this container's task, whenever it happens."""
        self._follow(container.id, lambda exit: self._container_exited(container, exit))

    def _follow(self, task_id: str, handle: Callable[[Exit], Awaitable[None]]) -> None:
        if task_id in self._followers:
            return
        wait = self.wait(task_id)
        follower = asyncio.create_task(self._deal(task_id, wait, handle), name=f"exit {task_id}")
        self._followers[task_id] = follower

    async def _deal(
        self,
        task_id: str,
        wait: asyncio.Task[Exit],
        handle: Callable[[Exit], Awaitable[None]],
    ) -> None:
        me = asyncio.current_task()
        try:
            exit = await asyncio.shield(wait)
            pause = _FIRST_PAUSE
            while True:
                try:
                    await handle(exit)
                    break
                except Exception as error:
                    again = f"{pause:.0f} s"
                    log.warning(
                        "could not handle the exit", id=task_id, error=repr(error), again=again
                    )
                    await asyncio.sleep(pause)
                    pause = min(pause * 2, _LONGEST_PAUSE)
        finally:
            # after `forget` they may belong to another follower
            if self._followers.get(task_id) is me:
                del self._followers[task_id]
                self._waits.pop(task_id, None)

    # Waiting

    async def _wait(self, task_id: str, answer: Awaitable[tasks_pb2.WaitResponse]) -> Exit:
        pause = _RECONNECT_PAUSE
        while True:
            try:
                ended = await answer
                return Exit.reported(ended.exit_status, ended.exited_at)
            except aio.AioRpcError as error:
                log.debug(
                    "wait interrupted", id=task_id, code=error.code().name, error=error.details()
                )
            except Exception:
                # whatever the error, the task's exit must still be observed
                log.exception("wait failed", id=task_id)
            found = await self._ended(task_id)
            if found is not None:
                return found
            await asyncio.sleep(pause)
            pause = min(pause * 2, _LONGEST_RECONNECT_PAUSE)
            answer = self._containerd.tasks.Wait(tasks_pb2.WaitRequest(container_id=task_id))

    async def _ended(self, task_id: str) -> Exit | None:
        """The exit, if containerd says that the task exited; None while it runs or this is
        unknown."""
        try:
            process = await task(self._containerd, task_id)
        except aio.AioRpcError:
            return None
        if process is None:
            return Exit.unseen()
        if process.status == task_types_pb2.STOPPED:
            return Exit.reported(process.exit_status, process.exited_at)
        return None

    # Handling exits

    async def _sandbox_exited(self, sandbox: Sandbox, exit: Exit) -> None:
        """Delete the pause task after those of the pod's containers.

        Its deletion ends the shim that they share; the shim refuses while it holds another task,
        and containerd does not retry. When a pod is stopped, all tasks exit within some
        milliseconds. If only the pause container died, its pod is NOTREADY long before the other
        tasks exit.
        """
        log.info("sandbox exited", sandbox=sandbox.id, code=exit.code)
        containers = asyncio.ensure_future(_ended(sandbox.containers))
        try:
            await asyncio.wait({containers}, timeout=_STOPPED_TOGETHER)
            if not containers.done():
                self._sandbox_ended(sandbox)
            await containers
            if await delete_task(self._containerd, sandbox.id) is None:
                await dead_shim.clean_up(self._containerd, sandbox.id)
        except Exception:
            # the sandbox has exited even if its task cannot be deleted now
            self._sandbox_ended(sandbox)
            raise
        finally:
            containers.cancel()
        self._sandbox_ended(sandbox)

    def _sandbox_ended(self, sandbox: Sandbox) -> None:
        if sandbox.state in (SandboxState.READY, SandboxState.UNKNOWN):
            sandbox.fire(SandboxEvent.EXITED, pid=0)
        sandbox.exited.set()

    async def _container_exited(self, container: Container, exit: Exit) -> None:
        reason = exit.reason
        if container.status.reason == CONTAINER_OOM_KILLED_REASON or await self._was_oom_killed(
            container, exit
        ):
            reason = CONTAINER_OOM_KILLED_REASON
        log.info("container exited", container=container.id, code=exit.code, reason=reason)
        if container.state in _FOLLOWED:
            await container.save_exit(SavedExit(exit.code, exit.at, reason))
        deleted = await delete_task(self._containerd, container.id)
        if deleted is None:
            await dead_shim.clean_up(self._containerd, container.id)
        closed = await self._drain(container.id)
        container.cleaned_up = deleted is not None and closed
        if container.state in _FOLLOWED:
            await container.fire(ContainerEvent.EXITED)

    async def _drain(self, container_id: str) -> bool:
        """Write all output to the log before the exit is visible, but do not wait for ever.

        A process that outlives the container's first one may hold the output open; it is drained
        until the container is removed. Returns whether the output was closed.
        """
        try:
            async with asyncio.timeout(_DRAIN_LIMIT):
                await self._log_keeper.drained(container_id)
                await self._log_keeper.close(container_id)
        except (TimeoutError, CriError) as error:
            log.warning("output not drained", container=container_id, error=in_words(error))
            return False
        return True

    async def _was_oom_killed(self, container: Container, exit: Exit) -> bool:
        """Whether the out-of-memory killer ended the container; the event can arrive later."""
        if exit.code != _SIGKILL_CODE:
            return False
        status = container.status
        return await self.oom_kills.in_exited(container.id, pid=status.pid, since=status.started_at)

    async def _note_oom(self, container_id: str) -> None:
        """Record an out-of-memory kill in the container, of its first process or a child."""
        container = self._store.containers.get(container_id)
        if container is None:
            return
        with contextlib.suppress(FailedPrecondition):  # its removal has begun
            await container.amend(reason=CONTAINER_OOM_KILLED_REASON)


async def _ended(containers: Iterable[Container]) -> None:
    """Return when these containers have no task left."""
    for container in containers:
        await container.start_ended()
        if container.state in (ContainerState.RUNNING, ContainerState.UNKNOWN):
            await container.exited.wait()
