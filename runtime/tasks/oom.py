"""Which containers lost a process to the out-of-memory killer.

The shim's event is the first source. It can arrive after the exit, and it is lost while no server
listens; then the kernel's log and the counters of the container's cgroup tell.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from functools import cached_property
from typing import Final

import structlog
from google.protobuf.any_pb2 import Any as AnyMessage
from grpc import aio

from generated.containerd import (
    cgroup1_metrics_pb2,
    cgroup2_metrics_pb2,
    events_pb2,
    task_events_pb2,
    tasks_pb2,
)
from runtime.containerd.client import Containerd
from runtime.linux.cgroups import Cgroups, container_cgroup
from runtime.linux.oom_log import OomLog
from runtime.steps import threads
from runtime.steps.watched import ended, watched

log = structlog.get_logger(__name__)

_RECONNECT_PAUSE: Final = 0.2
"""Seconds before events are subscribed again."""


class OomKills:
    """Kills in containers, from ``start`` to ``stop``."""

    def __init__(self, containerd: Containerd, note: Callable[[str], Awaitable[None]]) -> None:
        """``note`` is called with the container's ID when the shim reports a kill."""
        self._containerd = containerd
        self._note = note
        self._log = OomLog()
        self._watch: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Start to listen for events; called once, before recovery."""
        await threads.CGROUPS.run(self._log.read)
        self._watch = watched("oom events", self._follow_events)

    async def stop(self) -> None:
        """Stop listening."""
        if self._watch is not None:
            await ended(self._watch)
        self._log.close()

    async def in_exited(self, container_id: str, *, pid: int, since: int) -> bool:
        """Whether a process of a container whose task has exited was killed.

        Looks at the kernel's log, then at the cgroup's counter: before the task is deleted and,
        under systemd, if the cgroup still exists. ``since`` is when ``pid`` was started
        (nanoseconds since the epoch).
        """
        if self._log.killed(container_id, pid, since=since):
            return True
        try:
            answer = await self._containerd.tasks.Metrics(
                tasks_pb2.MetricsRequest(filters=[f"id=={container_id}"])
            )
        except aio.AioRpcError as error:
            log.debug("no metrics", container=container_id, error=error.details())
            return False
        return any(oom_kills(metric.data) > 0 for metric in answer.metrics)

    async def in_running(self, container_id: str, pid: int) -> bool:
        """Whether a process was killed in the cgroup of a running container."""
        return await threads.CGROUPS.run(self._counted, container_id, pid)

    def _counted(self, container_id: str, pid: int) -> bool:
        path = self._cgroups.of_process(pid)
        if path is None or container_id not in path:
            return False
        return bool(self._cgroups.oom_kills(container_cgroup(path, container_id)))

    @cached_property
    def _cgroups(self) -> Cgroups:
        return Cgroups.probe()

    async def _follow_events(self) -> None:
        request = events_pb2.SubscribeRequest(filters=['topic=="/tasks/oom"'])
        while True:
            try:
                async for envelope in self._containerd.events.Subscribe(request):
                    oom = task_events_pb2.TaskOOM.FromString(envelope.event.value)
                    await self._note(oom.container_id)
            except aio.AioRpcError as error:
                log.debug("oom events interrupted", code=error.code().name, error=error.details())
            await asyncio.sleep(_RECONNECT_PAUSE)


def oom_kills(metrics: AnyMessage) -> int:
    """How many processes the out-of-memory killer ended in the cgroup of these metrics."""
    if metrics.type_url.endswith("io.containerd.cgroups.v1.Metrics"):
        return cgroup1_metrics_pb2.Metrics.FromString(metrics.value).memory_oom_control.oom_kill
    if metrics.type_url.endswith("io.containerd.cgroups.v2.Metrics"):
        return cgroup2_metrics_pb2.Metrics.FromString(metrics.value).memory_events.oom_kill
    return 0
