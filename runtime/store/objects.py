"""All sandboxes and containers that this server knows, and the only way to change them.

Rules of this file:

* An object's ``metadata`` and ``status`` are immutable values that are replaced by a change, so a
  reader never sees half of one.
* A state changes only by `fire`: the transition is looked up in the lifecycle table
  (spec/lifecycle.yaml), saved if necessary, made visible, and then sent as an event.
* Nothing here calls containerd. A change that is not saved is made without awaiting, so of two
  callers that claim an object only one gets it. Changes that are saved run one after the other,
  each to its end, even if the caller is cancelled.
* A status that cannot be saved does not prevent the change (`runtime.store.checkpoints`): a node
  with a full disk must still be able to stop its pods.
* A removed object does not change any more, and its files are not written again.

A container's exit is saved before it is visible: `Container.save_exit` writes the status file
before the task is deleted, and `fire` makes the state visible once the output is in the log. The
file has the built-in plugin's format: it sets ``FinishedAt``, which means EXITED, with ``ExitCode``
and ``Reason``. Recovery trusts such a file whatever containerd still holds: a STOPPED task only
remains to be deleted, and a missing task was already deleted.

The sandboxes' status is in memory only, because it is read from the pause task again after a
restart; their metadata is saved with the pause container by the code that creates it.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, replace
from typing import TypedDict, Unpack

from generated import lifecycle
from generated.cri import api_pb2
from generated.lifecycle import (
    ContainerEvent,
    ContainerState,
    SandboxEvent,
    SandboxState,
    Transition,
)
from generated.statuses import container as container_listing
from generated.statuses import list_containers_response, list_pod_sandbox_response
from generated.statuses import pod_sandbox as sandbox_listing
from runtime.errors import FailedPrecondition
from runtime.steps.background import to_the_end
from runtime.store.checkpoints import Checkpoints
from runtime.store.events import Events
from runtime.store.index import Index
from runtime.store.layout import Layout
from runtime.store.names import Names
from runtime.transforms import facts
from runtime.transforms.facts import ContainerStatus, PodResources


class SandboxChanges(TypedDict, total=False):
    """Fields of `facts.SandboxStatus` that may change together with the state."""

    pid: int


class Sandbox:
    """One pod sandbox: its current data and state transitions."""

    def __init__(
        self,
        store: Store,
        metadata: facts.SandboxMetadata,
        status: facts.SandboxStatus,
        snapshotter: str,
    ) -> None:
        self._store = store
        self._listed: api_pb2.PodSandbox | None = None
        self._removed = False
        self.metadata = metadata
        self.status = status
        self.snapshotter = snapshotter
        """The root file system of the pause container, from its record; "" if it has none."""
        self.files = store.layout.sandbox(metadata)
        self.exited = asyncio.Event()
        """Set once the exit of the pause container was handled (or if there was none)."""
        self.network_is_down = False
        """Set once CNI DEL has succeeded and the namespace is deleted: nothing is left to retry."""
        self._note_exit()

    @property
    def id(self) -> str:
        return self.metadata.id

    @property
    def state(self) -> SandboxState:
        return self.status.state

    @property
    def facts(self) -> facts.Sandbox:
        """The root object ``sandbox`` for builders and readers."""
        return facts.Sandbox(metadata=self.metadata, status=self.status, files=self.files)

    @property
    def containers(self) -> list[Container]:
        """The containers of this pod, including those being removed."""
        return self._store.containers.of(self.id)

    def listed(self) -> api_pb2.PodSandbox:
        """Its entry in ListPodSandbox; cached until something changes; do not modify it."""
        if self._listed is None:
            self._listed = sandbox_listing.read(sandbox=self.facts)
        return self._listed

    def fire(self, event: SandboxEvent, **changes: Unpack[SandboxChanges]) -> None:
        """Apply ``event``, with ``changes`` to other status fields, in one transaction.

        Raises FailedPrecondition, and changes nothing, if the state does not allow the event or the
        sandbox was removed.
        """
        if self._removed:
            raise FailedPrecondition(f"sandbox {self.id} was removed")
        transition = lifecycle.fire_sandbox(self.state, event)
        if transition.to is None:
            self._removed = True
            self._store.sandboxes._drop(self)
            self._store.names.release(self.metadata.name, self.id)
        else:
            self.status = replace(self.status, state=transition.to, **changes)
        self._note_exit(gone=transition.to is None)
        self._changed()
        if transition.emits is not None:
            self._store.tell(transition.emits, self.id, self)

    def resize(self, resources: PodResources) -> None:
        """Make the resources visible that were saved in the pod's record."""
        self.metadata = replace(self.metadata, resized=resources)

    def _note_exit(self, *, gone: bool = False) -> None:
        if gone or self.state is SandboxState.NOTREADY:
            self.exited.set()

    def _changed(self) -> None:
        self._listed = None
        self._store.sandboxes.changed()


@dataclass(frozen=True, slots=True)
class SavedExit:
    """How a container's task ended, as in its status file."""

    code: int
    finished_at: int
    """Nanoseconds since the epoch."""
    reason: str = ""
    message: str = ""


class StatusChanges(TypedDict, total=False):
    """Fields of `facts.ContainerStatus` that may change, with or without the state."""

    pid: int
    started_at: int
    finished_at: int
    exit_code: int
    reason: str
    message: str
    resources: api_pb2.ContainerResources | None


def _ended(status: facts.ContainerStatus, exit: SavedExit) -> facts.ContainerStatus:
    return replace(
        status,
        state=ContainerState.EXITED,
        pid=0,
        finished_at=exit.finished_at,
        exit_code=exit.code,
        reason=exit.reason,
        message=exit.message,
    )


class Container:
    """One container: its current data and state transitions."""

    def __init__(
        self,
        store: Store,
        metadata: facts.ContainerMetadata,
        status: facts.ContainerStatus,
        snapshotter: str,
    ) -> None:
        self._store = store
        self._listed: api_pb2.Container | None = None
        self.metadata = metadata
        self.status = status
        self.snapshotter = snapshotter
        """The path of its root file system, from its record; "" if unknown."""
        self.exited = asyncio.Event()
        """Set once the exit was handled: status saved, task deleted, output drained."""
        self.cleaned_up = False
        """Whether containerd confirmed that it deleted the exited task, and the log keeper closed
        the output: then RemoveContainer repeats neither. Not saved: after a restart it does."""
        self.start_is_over = asyncio.Event()
        """Clear while StartContainer is running, which may last longer than the state STARTING."""
        self.start_is_over.set()
        self.stop_signal_sent = False
        """Whether the stop signal was sent: a second graceful stop only waits."""
        self._exit: SavedExit | None = None
        """How the task ended, set once this is saved."""
        self._saved: ContainerStatus | None = None
        """The last value passed for saving."""
        self._in_order = asyncio.Lock()
        """Held while a change is being saved."""
        self._removed = False
        self._moved = asyncio.Event()
        self._note_exit()

    @property
    def id(self) -> str:
        return self.metadata.id

    @property
    def state(self) -> ContainerState:
        return self.status.state

    @property
    def facts(self) -> facts.Container:
        """The root object ``container`` for builders and readers, without values known only at
        creation."""
        return facts.Container(metadata=self.metadata, status=self.status)

    @property
    def sandbox(self) -> Sandbox | None:
        """Its pod; None only if the pod's record was lost."""
        return self._store.sandboxes.get(self.metadata.sandbox_id)

    @property
    def runtime_handler(self) -> str:
        """The handler of its pod, as the pod's request named it; "" if the pod's record was
        lost."""
        sandbox = self.sandbox
        return sandbox.metadata.runtime_handler if sandbox else ""

    async def start_ended(self, limit: float | None = None) -> bool:
        """Return True once no StartContainer is running for it, whatever its result.

        Returns False after ``limit`` seconds if the start is still running.
        """
        try:
            async with asyncio.timeout(limit):
                while self.state is ContainerState.STARTING:
                    await self._moved.wait()
        except TimeoutError:
            return False
        return True

    def listed(self) -> api_pb2.Container:
        """Its entry in ListContainers; cached until something changes; do not modify it."""
        if self._listed is None:
            self._listed = container_listing.read(container=self.facts)
        return self._listed

    async def amend(self, **changes: Unpack[StatusChanges]) -> None:
        """Replace status fields outside a transition (resources, the reason OOMKilled); saved
        first.

        Raises FailedPrecondition if the container is being removed.
        """
        await to_the_end(self._amend(changes))

    async def _amend(self, changes: StatusChanges) -> None:
        async with self._in_order:
            self.must_stay()
            if self._exit is not None and "reason" in changes:
                self._exit = replace(self._exit, reason=changes["reason"])
            await self._save(replace(self.status, **changes))
            self.must_stay()
            self.status = replace(self.status, **changes)
            self._changed()

    def must_stay(self) -> None:
        """Raise FailedPrecondition if the container is being removed, or was removed."""
        if self.state is ContainerState.REMOVING:
            raise FailedPrecondition(f"container {self.id} is being removed")

    async def save_exit(self, exit: SavedExit) -> None:
        """Save how the task ended, while the state visible to clients does not change.

        Called before the task is deleted, because containerd forgets the exit code with the task.
        `fire` with EXITED makes the exit visible once the output is in the log. If the server dies
        in between, the status file says EXITED, and recovery follows it.
        """
        await to_the_end(self._save_exit(exit))

    async def _save_exit(self, exit: SavedExit) -> None:
        async with self._in_order:
            self._exit = exit
            await self._save(self.status)

    async def fire(self, event: ContainerEvent, **changes: Unpack[StatusChanges]) -> None:
        """Apply ``event``, with ``changes`` to other status fields, in one transaction.

        An event that saves nothing takes effect without awaiting. Raises FailedPrecondition, and
        changes nothing, if the state does not allow the event or the container was removed.
        """
        if self._removed:
            raise FailedPrecondition(f"container {self.id} was removed")
        transition = lifecycle.fire_container(self.state, event)
        if transition.persists is None:
            self._move(transition, changes)
        else:
            await to_the_end(self._save_and_move(event, changes))

    async def _save_and_move(self, event: ContainerEvent, changes: StatusChanges) -> None:
        async with self._in_order:
            lifecycle.fire_container(self.state, event)
            await self._save(replace(self.status, **changes))
            # meanwhile an event that saves nothing may have changed the state
            self._move(lifecycle.fire_container(self.state, event), changes)

    def _move(self, transition: Transition[ContainerState], changes: StatusChanges) -> None:
        if transition.to is None:
            self._removed = True
            self._store.containers._drop(self)
            self._store.names.release(self.metadata.name, self.id)
        else:
            status = replace(self.status, state=transition.to, **changes)
            if transition.to is ContainerState.EXITED and self._exit is not None:
                status = _ended(status, self._exit)
            self.status = status
        self._note_exit(gone=transition.to is None)
        self._changed()
        if transition.emits is not None:
            self._store.tell(transition.emits, self.id, self.sandbox)

    async def _save(self, status: ContainerStatus) -> None:
        """Save the status, with the exit if there was one; does nothing if the file is up to
        date."""
        if self._exit is not None:
            status = _ended(status, self._exit)
        status = replace(status, state=self.status.state)  # which the file does not contain
        if status != self._saved:
            self._saved = status
            await self._store.checkpoints.save(self.id, status)

    def _note_exit(self, *, gone: bool = False) -> None:
        if gone or self.state is ContainerState.EXITED:
            self.exited.set()

    def _changed(self) -> None:
        self._listed = None
        self._moved.set()
        self._moved = asyncio.Event()
        self._store.containers.changed()


class Sandboxes(Index[Sandbox]):
    """The sandboxes; the generated handlers look up IDs here."""

    def __init__(self, store: Store) -> None:
        super().__init__("sandbox")
        self._store = store
        self._all: api_pb2.ListPodSandboxResponse | None = None

    def add(
        self,
        metadata: facts.SandboxMetadata,
        status: facts.SandboxStatus,
        *,
        snapshotter: str = "",
        recovered: bool = False,
    ) -> Sandbox:
        """Add a sandbox and reserve its name; a recovered one sends no event."""
        names = self._store.names
        (names.adopt if recovered else names.reserve)(metadata.name, metadata.id)
        sandbox = Sandbox(self._store, metadata, status, snapshotter)
        self._insert(sandbox)
        self.changed()
        if not recovered and status.state is SandboxState.READY:
            for kind in lifecycle.SANDBOX_CREATED_EMITS:
                self._store.tell(kind, sandbox.id, sandbox)
        return sandbox

    def listing(self) -> api_pb2.ListPodSandboxResponse:
        """The response to an unfiltered list; cached until something changes; do not modify it."""
        if self._all is None:
            listing = facts.Listing(sandboxes=[item.listed() for item in self])
            self._all = list_pod_sandbox_response.read(listing=listing)
        return self._all

    def changed(self) -> None:
        """Drop the cached response."""
        self._all = None


class Containers(Index[Container]):
    """The containers; the generated handlers look up IDs here."""

    def __init__(self, store: Store) -> None:
        super().__init__("container")
        self._store = store
        self._of_sandbox: dict[str, dict[str, Container]] = {}
        self._all: api_pb2.ListContainersResponse | None = None

    async def create(
        self,
        metadata: facts.ContainerMetadata,
        status: facts.ContainerStatus,
        *,
        snapshotter: str = "",
    ) -> Container:
        """Save the status of a new container, then add it.

        Raises Unavailable if it cannot be saved.
        """
        await self._store.checkpoints.create(metadata.id, status)
        return self.add(metadata, status, snapshotter=snapshotter)

    def add(
        self,
        metadata: facts.ContainerMetadata,
        status: facts.ContainerStatus,
        *,
        snapshotter: str = "",
        recovered: bool = False,
    ) -> Container:
        """Add a container and reserve its name; a recovered one sends no event."""
        names = self._store.names
        (names.adopt if recovered else names.reserve)(metadata.name, metadata.id)
        container = Container(self._store, metadata, status, snapshotter)
        self._insert(container)
        self.changed()
        if not recovered:
            for kind in lifecycle.CONTAINER_CREATED_EMITS:
                self._store.tell(kind, container.id, container.sandbox)
        return container

    def of(self, sandbox_id: str) -> list[Container]:
        """The containers of one pod, including those being removed."""
        return list(self._of_sandbox.get(sandbox_id, {}).values())

    def _insert(self, item: Container) -> None:
        super()._insert(item)
        self._of_sandbox.setdefault(item.metadata.sandbox_id, {})[item.id] = item

    def _drop(self, item: Container) -> None:
        super()._drop(item)
        siblings = self._of_sandbox.get(item.metadata.sandbox_id, {})
        siblings.pop(item.id, None)
        if not siblings:
            self._of_sandbox.pop(item.metadata.sandbox_id, None)

    def listing(self) -> api_pb2.ListContainersResponse:
        """The response to an unfiltered list; cached until something changes; do not modify it."""
        if self._all is None:
            listing = facts.Listing(containers=[item.listed() for item in self])
            self._all = list_containers_response.read(listing=listing)
        return self._all

    def changed(self) -> None:
        """Drop the cached response."""
        self._all = None


class Store:
    """All that this server knows, in one place; empty until recovery fills it."""

    def __init__(self, layout: Layout, events: Events) -> None:
        self.layout = layout
        self.events = events
        self.names = Names()
        self.checkpoints = Checkpoints(layout)
        self.sandboxes = Sandboxes(self)
        self.containers = Containers(self)

    def tell(self, kind: str, container_id: str, sandbox: Sandbox | None) -> None:
        """Send the event of a change that is visible now, with the pod as it is now."""
        containers = self.containers.of(sandbox.id) if sandbox else []
        self.events.emit(
            facts.Event(
                kind,
                container_id,
                time.time_ns(),
                sandbox.facts if sandbox else None,
                tuple(container.facts for container in containers),
            )
        )

    async def close(self) -> None:
        """Save what could not be saved so far; no change may follow."""
        await self.checkpoints.close()
