"""What the sandbox operations need from the rest of the server."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol
from weakref import WeakKeyDictionary

from generated.cri import api_pb2
from generated.plans import StopContainerPlan
from runtime.config.tables import Config
from runtime.containerd.client import Containerd
from runtime.linux import netns
from runtime.lookups.handlers import Handlers
from runtime.lookups.owned_snapshots import OwnedSnapshots
from runtime.lookups.users import UserDatabases
from runtime.steps.times import Timer, untimed
from runtime.store.objects import Container, Sandbox, Store
from runtime.store.selinux_levels import SelinuxLevels
from runtime.tasks.exits import Exits
from runtime.transforms import facts


class Attachment(Protocol):
    """The result of CNI ADD for a pod."""

    @property
    def ip(self) -> str: ...

    @property
    def additional_ips(self) -> tuple[str, ...]: ...

    @property
    def result(self) -> Mapping[str, Any]: ...


class Network(Protocol):
    """CNI as used here; `runtime.cni.network.Network` implements it."""

    def problem(self, handler: str = "") -> str | None: ...

    async def add(
        self,
        sandbox_id: str,
        netns_path: str,
        config: api_pb2.PodSandboxConfig,
        *,
        handler: str = "",
    ) -> Attachment: ...

    async def delete(
        self,
        sandbox_id: str,
        netns_path: str,
        config: api_pb2.PodSandboxConfig,
        *,
        had_result: bool,
        handler: str = "",
    ) -> None:
        """May be repeated; without a namespace, DEL only frees the addresses."""


class Images(Protocol):
    """Images as used here; `runtime.images.operations.Images` implements it."""

    async def ensure(self, reference: str) -> facts.Image: ...

    async def unpacked(self, image: facts.Image, snapshotter: str) -> str: ...


class ContainerWork(Protocol):
    """Ending a pod's containers; `runtime.containers.operations.Containers` implements it."""

    async def stop(
        self, container: Container, plan: StopContainerPlan
    ) -> api_pb2.StopContainerResponse: ...

    async def remove(
        self, container: Container, request: api_pb2.RemoveContainerRequest
    ) -> api_pb2.RemoveContainerResponse: ...

    async def release_images(self, sandbox: Sandbox) -> None:
        """Unmount the images that containers had as volumes; repeatable."""


@dataclass(frozen=True, slots=True)
class Services:
    """The parts connected by `runtime.server.app`."""

    containerd: Containerd
    store: Store
    exits: Exits
    images: Images
    snapshots: OwnedSnapshots
    network: Network
    containers: ContainerWork
    host: facts.Host
    handlers: Handlers
    config: Config
    levels: SelinuxLevels
    timer: Timer = untimed
    users: UserDatabases = field(default_factory=UserDatabases)
    """The user databases of pause images."""
    updates: WeakKeyDictionary[Sandbox, asyncio.Lock] = field(default_factory=WeakKeyDictionary)
    """Held while a pod's record changes: it is read, changed and written back."""

    @property
    def netns_directory(self) -> str:
        """The directory of the files that keep the pods' network namespaces alive."""
        if self.config.netns_mounts_under_state_dir:
            return str(self.config.state_dir / "netns")
        return netns.DIRECTORY
