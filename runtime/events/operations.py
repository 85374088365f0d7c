"""The event operations, called by the generated handlers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Final

from generated.cri import api_pb2
from generated.lifecycle import SandboxState
from generated.statuses import container_event_response
from runtime.errors import DeadlineExceeded, Unavailable
from runtime.events.services import Containers, Sandboxes
from runtime.store import events
from runtime.transforms import facts

_AGAIN: Final = 1.0
"""Seconds between attempts to read from containerd what a status needs."""


class Events:
    """Satisfies the generated ``EventOperations``."""

    def __init__(self, *, hub: events.Events, sandboxes: Sandboxes, containers: Containers) -> None:
        self._hub = hub
        self._sandboxes = sandboxes
        self._containers = containers

    async def follow(
        self, request: api_pb2.GetEventsRequest
    ) -> AsyncIterator[api_pb2.ContainerEventResponse]:
        """All events from now on, and unread ones of the last minutes.

        Raises ResourceExhausted for a client that does not read, Unavailable when the server stops.
        """
        with self._hub.follow() as follower:
            while True:
                yield await self._response(await follower.get())

    async def _response(self, event: facts.Event) -> api_pb2.ContainerEventResponse:
        sandbox = event.sandbox
        if sandbox is not None and sandbox.status.state is not SandboxState.READY:
            # a ready pod had its addresses at that moment, even if it is stopped when this is read
            event = replace(event, sandbox=self._sandboxes.reachable(sandbox))
        statuses = [await self._shown(container) for container in event.containers]
        return container_event_response.read(event=replace(event, statuses=tuple(statuses)))

    async def _shown(self, container: facts.Container) -> facts.ShownContainer:
        """The data for a container's status. Waits for containerd, because an event with half a
        status would mislead the kubelet, and an error would end its stream."""
        while True:
            try:
                return await self._containers.shown(container)
            except (Unavailable, DeadlineExceeded):
                await asyncio.sleep(_AGAIN)
