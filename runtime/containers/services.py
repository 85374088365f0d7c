"""What the container operations need from the rest of the server."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Protocol
from weakref import WeakKeyDictionary, WeakSet

from generated.containerd import types_pb2
from runtime.config.tables import Config
from runtime.containerd.client import Containerd, Metadata
from runtime.containerd.runtime_options import is_runc
from runtime.containers.specs import Specs
from runtime.errors import FailedPrecondition
from runtime.linux.pipes import PipeWriter
from runtime.logs.client import Fifos
from runtime.lookups.cdi import CdiDirectories
from runtime.lookups.handlers import Handlers
from runtime.lookups.owned_snapshots import OwnedSnapshots
from runtime.lookups.users import UserDatabases
from runtime.steps.times import Timer, untimed
from runtime.store.objects import Container, Sandbox, Store
from runtime.store.selinux_levels import SelinuxLevels
from runtime.tasks.exits import Exits
from runtime.transforms import facts

COMMAND_STARTS: Final = 8
"""Commands that may start at the same time in one pod; any number may run."""


class Images(Protocol):
    """Images as used here; `runtime.images.operations.Images` implements it."""

    async def resolve(self, reference: str) -> facts.Image | None: ...

    async def unpacked(self, image: facts.Image, snapshotter: str) -> str: ...

    async def ensure(self, reference: str) -> facts.Image: ...

    async def annotations(self, image: facts.Image) -> Mapping[str, str]: ...

    async def apply(
        self, layer: Path, mounts: Sequence[types_pb2.Mount], lease: Metadata
    ) -> None: ...


class LogKeeper(Protocol):
    """The log keeper as used here; `runtime.logs.client.LogKeeper` implements it."""

    async def open(
        self,
        container_id: str,
        fifos: Fifos,
        tty: bool,
        log_path: str | None,
        *,
        line_limit: int,
        tolerant: bool = False,
    ) -> object: ...

    async def reopen(self, container_id: str) -> None: ...

    async def close(self, container_id: str) -> None: ...

    def attach(
        self, container_id: str, *, stdout: bool, stderr: bool
    ) -> AbstractAsyncContextManager[AsyncIterator[tuple[str, bytes]]]: ...


@dataclass(frozen=True, slots=True)
class Services:
    """The parts connected by `runtime.server.app`, and state that container operations share."""

    containerd: Containerd
    store: Store
    exits: Exits
    images: Images
    snapshots: OwnedSnapshots
    log_keeper: LogKeeper
    host: facts.Host
    handlers: Handlers
    config: Config
    specs: Specs
    cdi: CdiDirectories
    levels: SelinuxLevels
    timer: Timer = untimed
    users: UserDatabases = field(default_factory=UserDatabases)
    prepared: dict[str, list[types_pb2.Mount]] = field(default_factory=dict)
    """The root file systems of containers created but not started yet: the snapshotter's mounts."""
    updates: WeakKeyDictionary[Container, asyncio.Lock] = field(default_factory=WeakKeyDictionary)
    """Held while a container's resources change: the spec is read, changed and written back."""
    checkpoints: WeakKeyDictionary[Container, asyncio.Lock] = field(
        default_factory=WeakKeyDictionary
    )
    """Held while a checkpoint of a container is written."""
    volume_turns: WeakKeyDictionary[Sandbox, asyncio.Lock] = field(
        default_factory=WeakKeyDictionary
    )
    """Held while the images of a pod's containers are mounted or unmounted."""
    inputs: WeakKeyDictionary[Container, WeakSet[PipeWriter]] = field(
        default_factory=WeakKeyDictionary
    )
    """The input of each container, as its attached clients have opened it."""
    command_starts: WeakKeyDictionary[Sandbox, asyncio.Semaphore] = field(
        default_factory=WeakKeyDictionary
    )

    def starting(self, container: Container) -> asyncio.Semaphore:
        """Held while a command starts: at most `COMMAND_STARTS` start at the same time in one pod.

        A shim delays exits behind earlier starts, can queue 32 exits, and then takes a second for
        each: a hundred commands at once blocked it for minutes.
        """
        sandbox = container.sandbox
        if sandbox is None:  # its record was lost
            return asyncio.Semaphore(COMMAND_STARTS)
        return self.command_starts.setdefault(sandbox, asyncio.Semaphore(COMMAND_STARTS))

    def handler(self, sandbox: Sandbox) -> facts.Handler:
        """The runtime handler of a pod."""
        handler = self.handlers.get(sandbox.metadata.runtime_handler)
        if handler is None:
            raise FailedPrecondition(
                f"pod {sandbox.id} uses the runtime handler "
                f'"{sandbox.metadata.runtime_handler}", which is no longer configured'
            )
        return handler

    def snapshotter(self, container: Container) -> str:
        """The snapshotter of a container's root file system."""
        return self.handlers.snapshotter(container.runtime_handler, container.snapshotter)

    def handler_of(self, container: Container) -> facts.Handler | None:
        """The runtime handler of a container's pod; None if the pod or handler is unknown."""
        sandbox = container.sandbox
        return None if sandbox is None else self.handlers.get(sandbox.metadata.runtime_handler)

    def runs_on_node(self, container: Container) -> bool:
        """Whether the container's processes are known to be processes of this node: those of
        another shim than runc's can be in a virtual machine."""
        handler = self.handler_of(container)
        return handler is not None and is_runc(handler.runtime_type)
