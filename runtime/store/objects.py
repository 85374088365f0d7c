"""Every sandbox and container that this server knows, and the only way to change one.

Rules that hold in this file:

* An object's ``metadata`` and ``status`` are immutable values; a change replaces them, so that a
  reader never sees half of one.
* A state changes by `fire` alone: the lifecycle table (spec/lifecycle.yaml) is asked, what must be
  saved is saved, then the change becomes visible, then the event goes out. When saving fails,
  nothing has changed.
* Nothing here calls containerd or waits: one call of `fire` is one transaction because the event
  loop runs nothing else meanwhile.

A container's exit is saved before it is seen: `Container.save_exit` writes the status file before
the task is deleted, `fire` makes the state visible once the output is in the log. The file has the
built-in plugin's form: ``FinishedAt`` is set, so it says EXITED, with ``ExitCode`` and ``Reason``.
Recovery may trust such a file whatever containerd still holds: a task that is STOPPED is left to be
deleted, and if there is none, it has been deleted already.

The sandboxes' own status is in memory only, as the pause task tells it again after a restart; their
metadata is saved with the pause container by those who create it.
"""

from __future__ import annotations

import asyncio
import os
import time
from bisect import bisect_left, insort
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, Generic, Protocol, TypeVar

import structlog

from generated import lifecycle
from generated.cri import api_pb2
from generated.lifecycle import ContainerEvent, ContainerState, SandboxEvent, SandboxState
from generated.statuses import container as container_listing
from generated.statuses import pod_sandbox as sandbox_listing
from runtime.errors import FailedPrecondition, InvalidArgument
from runtime.steps import threads
from runtime.store import records
from runtime.store.events import Events
from runtime.transforms import facts

log = structlog.get_logger(__name__)

_HOST_SHM: Final = "/dev/shm"


@dataclass(frozen=True, slots=True)
class Layout:
    """Where the files of every object are; both directories are the server's own."""

    root: Path
    """``Config.root_dir``: survives a reboot."""
    state: Path
    """``Config.state_dir``: gone after a reboot."""

    def sandbox(self, metadata: facts.SandboxMetadata) -> facts.SandboxFiles:
        """The files of a sandbox; nothing is created."""
        root = self.root / "sandboxes" / metadata.id
        state = self.state / "sandboxes" / metadata.id
        namespaces = metadata.config.linux.security_context.namespace_options
        return facts.SandboxFiles(
            root_dir=str(root),
            state_dir=str(state),
            hostname=str(root / "hostname"),
            hosts=str(root / "hosts"),
            resolv_conf=str(root / "resolv.conf"),
            shm=_HOST_SHM if namespaces.ipc == api_pb2.NODE else str(state / "shm"),
        )

    def container_root(self, container_id: str) -> Path:
        """The directory of a container's status file and volumes."""
        return self.root / "containers" / container_id

    def container_state(self, container_id: str) -> Path:
        """The directory of a container's FIFOs."""
        return self.state / "containers" / container_id

    def container_status(self, container_id: str) -> Path:
        """A container's status file."""
        return self.container_root(container_id) / "status"


class Names:
    """Who holds which name: two creations of the same attempt must not run side by side."""

    def __init__(self) -> None:
        self._holders: dict[str, tuple[str, float]] = {}

    def reserve(self, name: str, holder: str) -> None:
        """Give ``name`` to the id ``holder``; succeeds if the id holds it already.

        Raises FailedPrecondition with the holder and for how long it has had the name: the kubelet
        repeats an attempt after its own timeout, and people then search for what takes so long.
        """
        taken = self._holders.setdefault(name, (holder, time.monotonic()))
        if taken[0] != holder:
            age = time.monotonic() - taken[1]
            raise FailedPrecondition(
                f'name "{name}" is reserved for "{taken[0]}" since {age:.0f} s; '
                "wait for its creation or removal to end, or remove it"
            )

    def release(self, name: str) -> None:
        """Free the name; a free one stays free."""
        self._holders.pop(name, None)

    def holder(self, name: str) -> str | None:
        """The id that holds the name."""
        taken = self._holders.get(name)
        return taken[0] if taken else None


class _Identified(Protocol):
    @property
    def id(self) -> str: ...


T = TypeVar("T", bound=_Identified)


class Index(Generic[T]):
    """Objects by id and by any unique prefix of it."""

    def __init__(self, noun: str) -> None:
        self._noun = noun
        self._by_id: dict[str, T] = {}
        self._ids: list[str] = []

    def __iter__(self) -> Iterator[T]:
        """All objects as they are now; one may be removed while iterating."""
        return iter(list(self._by_id.values()))

    def __len__(self) -> int:
        return len(self._by_id)

    def get(self, exact_id: str) -> T | None:
        """The object of exactly this id."""
        return self._by_id.get(exact_id)

    def find(self, prefix: str) -> T | None:
        """The one object whose id begins with ``prefix``; None when there is none.

        Raises InvalidArgument for an empty prefix and for one that fits several.
        """
        exact = self._by_id.get(prefix)
        if exact is not None:
            return exact
        if not prefix:
            raise InvalidArgument(f"the {self._noun} id is empty; give an id or a prefix of one")
        at = bisect_left(self._ids, prefix)
        fitting = [name for name in self._ids[at : at + 2] if name.startswith(prefix)]
        if len(fitting) > 1:
            raise InvalidArgument(
                f'more than one {self._noun} id begins with "{prefix}"; give more of it'
            )
        return self._by_id[fitting[0]] if fitting else None

    def _insert(self, item: T) -> None:
        if item.id in self._by_id:
            raise ValueError(f"the {self._noun} {item.id} is known already")
        self._by_id[item.id] = item
        insort(self._ids, item.id)

    def _drop(self, item: T) -> None:
        if self._by_id.pop(item.id, None) is not None:
            del self._ids[bisect_left(self._ids, item.id)]


class Sandbox:
    """One pod sandbox: its facts of the moment and the moves of its state."""

    def __init__(
        self,
        store: Store,
        metadata: facts.SandboxMetadata,
        status: facts.SandboxStatus,
        snapshotter: str,
    ) -> None:
        self._store = store
        self._listed: api_pb2.PodSandbox | None = None
        self.metadata = metadata
        self.status = status
        self.snapshotter = snapshotter
        """Where the pause container's root file system is, by its record; "" when it has none."""
        self.files = store.layout.sandbox(metadata)
        self.exited = asyncio.Event()
        """Set once the end of the pause container is dealt with (or there was none)."""
        self.network_is_down = False
        """Set once CNI DEL has gone through and the namespace is gone: nothing is left to retry."""
        self._note_exit()

    @property
    def id(self) -> str:
        return self.metadata.id

    @property
    def state(self) -> SandboxState:
        return self.status.state

    @property
    def facts(self) -> facts.Sandbox:
        """The root ``sandbox`` of builders and readers."""
        return facts.Sandbox(metadata=self.metadata, status=self.status, files=self.files)

    @property
    def containers(self) -> list[Container]:
        """The containers of this pod, those under removal included."""
        return [item for item in self._store.containers if item.metadata.sandbox_id == self.id]

    def listed(self) -> api_pb2.PodSandbox:
        """Its entry in ListPodSandbox; kept until something changes, and not to be changed."""
        if self._listed is None:
            self._listed = sandbox_listing.read(sandbox=self.facts)
        return self._listed

    def amend(self, **changes: Any) -> None:
        """Replace metadata that is not part of a transition, e.g. the network's answer.

        Saving it with the pause container is the caller's work.
        """
        self.metadata = replace(self.metadata, **changes)
        self._changed()

    def fire(self, event: SandboxEvent, **changes: Any) -> None:
        """Move by ``event``, with ``changes`` of other status fields, in one transaction.

        Raises FailedPrecondition, and changes nothing, when the state does not allow the event.
        """
        transition = lifecycle.fire_sandbox(self.state, event)
        if transition.to is None:
            self._store.sandboxes._drop(self)
            self._store.names.release(self.metadata.name)
        else:
            self.status = replace(self.status, state=transition.to, **changes)
        self._note_exit(gone=transition.to is None)
        self._changed()
        if transition.emits is not None:
            self._store.events.emit(transition.emits, self.id, self.id)

    def _note_exit(self, *, gone: bool = False) -> None:
        if gone or self.state is SandboxState.NOTREADY:
            self.exited.set()

    def _changed(self) -> None:
        self._listed = None
        self._store.sandboxes.changed()


@dataclass(frozen=True, slots=True)
class SavedExit:
    """How a container's task ended, as its status file tells it."""

    code: int
    finished_at: int
    """Nanoseconds since the epoch."""
    reason: str = ""


def _ended(status: facts.ContainerStatus, exit: SavedExit) -> facts.ContainerStatus:
    return replace(
        status,
        state=ContainerState.EXITED,
        pid=0,
        finished_at=exit.finished_at,
        exit_code=exit.code,
        reason=exit.reason,
    )


class Container:
    """One container: its facts of the moment and the moves of its state."""

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
        """Where its root file system is, by its record; "" when that does not tell."""
        self.exited = asyncio.Event()
        """Set once the exit is dealt with: status saved, task deleted, output drained."""
        self.stop_signal_sent = False
        """A second graceful stop only waits: the signal is sent once."""
        self._saved_exit: SavedExit | None = None
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
        """The root ``container`` of builders and readers, without what only creation knows."""
        return facts.Container(metadata=self.metadata, status=self.status)

    @property
    def sandbox(self) -> Sandbox | None:
        """Its pod; None only when the pod's record was lost."""
        return self._store.sandboxes.get(self.metadata.sandbox_id)

    async def start_ended(self) -> None:
        """Return when no StartContainer is at work on it, however that ended."""
        while self.state is ContainerState.STARTING:
            await self._moved.wait()

    def listed(self) -> api_pb2.Container:
        """Its entry in ListContainers; kept until something changes, and not to be changed."""
        if self._listed is None:
            self._listed = container_listing.read(container=self.facts)
        return self._listed

    def amend(self, **changes: Any) -> None:
        """Replace status fields outside a transition (resources, an OOM as reason), saved first."""
        if self._saved_exit is not None and "reason" in changes:
            self._saved_exit = replace(self._saved_exit, reason=changes["reason"])
        status = replace(self.status, **changes)
        exit = self._saved_exit
        self._store.checkpoints.save(self.id, status if exit is None else _ended(status, exit))
        self.status = status
        self._changed()

    def save_exit(self, exit: SavedExit) -> None:
        """Save how the task ended while the state that clients see stays as it is.

        Called before the task is deleted, because containerd forgets the exit code with the task;
        `fire` with EXITED makes it visible once the output is in the log. A server that ends in
        between leaves a status file that says EXITED, and recovery goes by it. Raises OSError.
        """
        self._saved_exit = exit
        self._store.checkpoints.save(self.id, _ended(self.status, exit))

    def amend_config(self, config: api_pb2.ContainerConfig) -> None:
        """Replace the config that is echoed; saving it with the container is the caller's work."""
        self.metadata = replace(self.metadata, config=config)
        self._changed()

    def fire(self, event: ContainerEvent, **changes: Any) -> None:
        """Move by ``event``, with ``changes`` of other status fields, in one transaction.

        Raises FailedPrecondition when the state does not allow the event, and OSError when the
        status cannot be saved; nothing has changed then.
        """
        transition = lifecycle.fire_container(self.state, event)
        if transition.to is None:
            self._store.containers._drop(self)
            self._store.names.release(self.metadata.name)
        else:
            status = replace(self.status, state=transition.to, **changes)
            if self._saved_exit is not None and transition.to is ContainerState.EXITED:
                status = _ended(status, self._saved_exit)
            if transition.persists is not None:
                self._store.checkpoints.save(self.id, status)
            self.status = status
        self._note_exit(gone=transition.to is None)
        self._changed()
        if transition.emits is not None:
            self._store.events.emit(transition.emits, self.id, self.metadata.sandbox_id)

    def _note_exit(self, *, gone: bool = False) -> None:
        if gone or self.state is ContainerState.EXITED:
            self.exited.set()

    def _changed(self) -> None:
        self._listed = None
        self._moved.set()
        self._moved = asyncio.Event()
        self._store.containers.changed()


class Sandboxes(Index[Sandbox]):
    """The sandboxes; the generated handlers look ids up here."""

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
        """Make a sandbox known under its name; a recovered one without telling followers."""
        self._store.names.reserve(metadata.name, metadata.id)
        sandbox = Sandbox(self._store, metadata, status, snapshotter)
        self._insert(sandbox)
        self.changed()
        if not recovered and status.state is SandboxState.READY:
            for kind in lifecycle.SANDBOX_CREATED_EMITS:
                self._store.events.emit(kind, sandbox.id, sandbox.id)
        return sandbox

    def listing(self) -> api_pb2.ListPodSandboxResponse:
        """The answer to an unfiltered list; kept until something changes, and not to be changed."""
        if self._all is None:
            self._all = api_pb2.ListPodSandboxResponse(items=[item.listed() for item in self])
        return self._all

    def changed(self) -> None:
        """Forget the kept answer."""
        self._all = None


class Containers(Index[Container]):
    """The containers; the generated handlers look ids up here."""

    def __init__(self, store: Store) -> None:
        super().__init__("container")
        self._store = store
        self._all: api_pb2.ListContainersResponse | None = None

    def add(
        self,
        metadata: facts.ContainerMetadata,
        status: facts.ContainerStatus,
        *,
        snapshotter: str = "",
        recovered: bool = False,
    ) -> Container:
        """Make a container known under its name; a new one is saved first and told to followers."""
        self._store.names.reserve(metadata.name, metadata.id)
        if not recovered:
            self._store.checkpoints.save(metadata.id, status)
        container = Container(self._store, metadata, status, snapshotter)
        self._insert(container)
        self.changed()
        if not recovered:
            for kind in lifecycle.CONTAINER_CREATED_EMITS:
                self._store.events.emit(kind, container.id, metadata.sandbox_id)
        return container

    def listing(self) -> api_pb2.ListContainersResponse:
        """The answer to an unfiltered list; kept until something changes, and not to be changed."""
        if self._all is None:
            self._all = api_pb2.ListContainersResponse(containers=[c.listed() for c in self])
        return self._all

    def changed(self) -> None:
        """Forget the kept answer."""
        self._all = None


class Checkpoints:
    """The status files of containers: each is whole at any moment, and on disk soon after.

    A write is a new file renamed over the old one. It is forced to disk by a thread afterwards: a
    crash of this process loses nothing even so, and a power cut, which ends every container anyway,
    may lose the last moments only; no call waits for a disk.
    """

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        self._syncing: set[asyncio.Task[None]] = set()

    def save(self, container_id: str, status: facts.ContainerStatus) -> None:
        """Write the status; raises OSError and leaves the old one when that fails."""
        path = self._layout.container_status(container_id)
        path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        write_atomically(path, records.container_status_json(status))
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            _sync(path)
        else:
            syncing = loop.create_task(threads.STATE_FILES.run(_sync, path))
            self._syncing.add(syncing)
            syncing.add_done_callback(self._synced)

    def _synced(self, syncing: asyncio.Task[None]) -> None:
        self._syncing.discard(syncing)
        if not syncing.cancelled() and (error := syncing.exception()) is not None:
            log.warning("a status is not on disk yet", error=str(error))

    def load(self, container_id: str) -> facts.ContainerStatus:
        """Read the status; raises OSError and `runtime.store.records.RecordError`."""
        return records.container_status(self._layout.container_status(container_id).read_bytes())


def write_atomically(path: Path, data: bytes, mode: int = 0o600) -> None:
    """Put a file there whole, readable by its owner only unless told otherwise."""
    temporary = path.with_name(f".{path.name}.new")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode)
    try:
        os.write(descriptor, data)
    finally:
        os.close(descriptor)
    os.rename(temporary, path)


def _sync(path: Path) -> None:
    """Force a renamed file and its name to disk; succeeds if it was deleted meanwhile."""
    for target in (path, path.parent):
        try:
            descriptor = os.open(target, os.O_RDONLY)
        except FileNotFoundError:
            return
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


class Store:
    """What this server knows, in one place; empty until recovery fills it."""

    def __init__(self, layout: Layout, events: Events) -> None:
        self.layout = layout
        self.events = events
        self.names = Names()
        self.checkpoints = Checkpoints(layout)
        self.sandboxes = Sandboxes(self)
        self.containers = Containers(self)
