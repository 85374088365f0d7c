"""A thin client of containerd's gRPC API.

Calls look like those of the generated stubs (``await containerd.tasks.Get(request)``)
and keep their errors (``grpc.aio.AioRpcError``; ``runtime.errors.from_rpc`` translates them). What
is added: every call carries the containerd namespace and has the deadline that
`runtime.containerd.deadlines` gives it, the channel comes back by itself when the daemon does, and
one watcher tells the rest of the server when the daemon is gone and when it is back.

What a daemon can do is found out by asking it (``Capabilities``); its version is never looked at.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any, Final, Protocol, TypeAlias

import grpc
import structlog
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.empty_pb2 import Empty
from google.protobuf.message import Message
from grpc import aio

from generated.containerd import (
    containers_pb2_grpc,
    content_pb2_grpc,
    diff_pb2_grpc,
    events_pb2_grpc,
    images_pb2_grpc,
    introspection_pb2,
    introspection_pb2_grpc,
    leases_pb2,
    leases_pb2_grpc,
    sandbox_pb2_grpc,
    snapshots_pb2_grpc,
    tasks_pb2_grpc,
    version_pb2_grpc,
)
from runtime.containerd.deadlines import DEADLINES
from runtime.errors import CriError

log = structlog.get_logger(__name__)

MAX_MESSAGE: Final = 16 << 20
"""Bytes; the limit of containerd and of the kubelet, in both directions."""

SPEC_TYPE_URL: Final = "types.containerd.io/opencontainers/runtime-spec/1/Spec"
PROCESS_TYPE_URL: Final = "types.containerd.io/opencontainers/runtime-spec/1/Process"
RESOURCES_TYPE_URL: Final = "types.containerd.io/opencontainers/runtime-spec/1/LinuxResources"

_PROBE_INTERVAL: Final = 0.2
_FIRST_INTERVAL: Final = 0.02
_MOMENT: Final = 1.0
"""Seconds; a daemon that starts together with us answers within it."""

_AWAY: Final = frozenset({grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED})

BUILTIN_CRI: Final = (
    "io.containerd.grpc.v1.cri",
    "io.containerd.cri.v1.images",
    "io.containerd.cri.v1.runtime",
)
"""The daemon's own CRI plugin; since 2.0 it has two parts that are switched off on their own."""
BUILTIN_CRI_OFF: Final = (
    "set disabled_plugins = ["
    + ", ".join(f'"{name}"' for name in BUILTIN_CRI)
    + "] in /etc/containerd/config.toml and restart containerd"
)
"""The remedy; containerd 1.x ignores the names that it does not know."""

Metadata: TypeAlias = tuple[tuple[str, str], ...]

_CHANNEL_OPTIONS: Final = [
    ("grpc.max_send_message_length", MAX_MESSAGE),
    ("grpc.max_receive_message_length", MAX_MESSAGE),
    # A restarted daemon is met within a second; gRPC itself would back off to two minutes.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1000),
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.enable_retries", 0),
    ("grpc.enable_http_proxy", 0),
]


class OciValue(Protocol):
    """What the OCI dataclasses of generated/oci/types.py share."""

    def to_json(self) -> bytes: ...


def oci_any(spec: OciValue) -> AnyMessage:
    """An OCI spec as ``Container.spec`` wants it."""
    return AnyMessage(type_url=SPEC_TYPE_URL, value=spec.to_json())


def process_any(process: OciValue) -> AnyMessage:
    """An OCI process as ``ExecProcessRequest.spec`` wants it."""
    return AnyMessage(type_url=PROCESS_TYPE_URL, value=process.to_json())


def resources_any(resources: OciValue) -> AnyMessage:
    """OCI resources as ``UpdateTaskRequest.resources`` wants them."""
    return AnyMessage(type_url=RESOURCES_TYPE_URL, value=resources.to_json())


def proto_any(message: Message) -> AnyMessage:
    """A protobuf message under its bare name, as containerd knows no ``type.googleapis.com/``."""
    return AnyMessage(type_url=message.DESCRIPTOR.full_name, value=message.SerializeToString())


@dataclass(frozen=True, slots=True)
class Snapshotter:
    """A snapshotter that the daemon has loaded."""

    name: str
    root: str
    """Its directory on the host, the ``fs_id`` of image and layer usage; "" when not told."""
    capabilities: frozenset[str]
    """E.g. ``remap-ids``: the snapshotter can shift owners for user namespaces."""


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What this daemon can do, as its introspection service tells."""

    snapshotters: Mapping[str, Snapshotter] = field(default_factory=dict)
    services: frozenset[str] = frozenset()
    """Ids of the loaded gRPC services, e.g. ``transfer`` (from 1.7 on)."""
    runtime_info: bool = False
    """Whether PluginInfo tells the features of a runtime (from 2.0 on)."""
    builtin_cri: bool = False
    """Whether the daemon's own CRI plugin runs: it would fight with us over ``k8s.io``."""
    builtin_cri_parts: bool = False
    """Whether parts of it run though it is off: they watch images and measure snapshots."""


class Service:
    """The calls of one service, each with this client's metadata and its deadline.

    ``partial`` is the cheapest place for both: 30 µs less for each call than an interceptor.
    """

    def __init__(
        self, stub: object, metadata: Metadata, deadlines: Mapping[str, float | None]
    ) -> None:
        for name, deadline in deadlines.items():
            setattr(self, name, partial(getattr(stub, name), metadata=metadata, timeout=deadline))

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(f"the containerd service has no call {name}")


class Containerd:
    """One daemon, one namespace, one channel. Made by ``connect``, ended by ``close``."""

    def __init__(self, channel: aio.Channel, address: str, namespace: str) -> None:
        self.address = address
        self.namespace = namespace
        self.capabilities = Capabilities()
        self._channel = channel
        self._metadata: Metadata = (("containerd-namespace", namespace),)
        self._connected = asyncio.Event()

        def service(name: str, stub: Callable[[aio.Channel], object]) -> Service:
            return Service(stub(channel), self._metadata, DEADLINES[name])

        self.containers = service("containers", containers_pb2_grpc.ContainersStub)
        self.content = service("content", content_pb2_grpc.ContentStub)
        self.diff = service("diff", diff_pb2_grpc.DiffStub)
        self.events = service("events", events_pb2_grpc.EventsStub)
        self.images = service("images", images_pb2_grpc.ImagesStub)
        self.introspection = service("introspection", introspection_pb2_grpc.IntrospectionStub)
        self.leases = service("leases", leases_pb2_grpc.LeasesStub)
        self.sandboxes = service("sandboxes", sandbox_pb2_grpc.StoreStub)
        self.snapshots = service("snapshots", snapshots_pb2_grpc.SnapshotsStub)
        self.tasks = service("tasks", tasks_pb2_grpc.TasksStub)
        self.version = service("version", version_pb2_grpc.VersionStub)

    @classmethod
    async def connect(cls, address: str, namespace: str = "k8s.io") -> Containerd:
        """A client of the daemon at ``address`` (``unix:///path``), which need not be there yet."""
        channel = aio.insecure_channel(address, options=_CHANNEL_OPTIONS)
        return cls(channel, address, namespace)

    async def close(self) -> None:
        """End the channel and every call on it."""
        await self._channel.close()

    @property
    def connected(self) -> bool:
        """Whether the daemon was there at the last look; without it, calls fail UNAVAILABLE."""
        return self._connected.is_set()

    def with_lease(self, lease_id: str) -> Metadata:
        """For ``metadata=`` of a call whose new objects the lease shall keep from the collector."""
        return (*self._metadata, ("containerd-lease", lease_id))

    async def wait_ready(self) -> None:
        """Return once the daemon answers and its capabilities are known; wait without end.

        A daemon that takes longer than a moment is said once, in one line, and so is its coming.
        """

        def say_waiting(error: aio.AioRpcError) -> None:
            log.warning(
                "waiting for containerd",
                address=self.address,
                error=error.details(),
                remedy="start containerd, or name its socket with --containerd",
            )

        waited = await self._until_answering(say_waiting)
        self._connected.set()
        if waited > _MOMENT:
            log.info("containerd is there", after=f"{waited:.1f} s")

    async def watch(self, back: Callable[[], Awaitable[object]]) -> None:
        """Follow the daemon's going and coming until cancelled; started after ``wait_ready``.

        ``back`` is awaited when the daemon answers again (subscriptions have no replay: reconcile
        there), and only then is ``connected`` true again. When ``back`` fails, it is awaited
        again.
        """
        while True:
            await self._until_lost()
            self._connected.clear()
            log.warning("containerd is gone", address=self.address)
            began = time.monotonic()
            while not self.connected:
                await self._until_answering(lambda error: None)
                try:
                    await back()
                except (aio.AioRpcError, CriError) as error:
                    log.warning("could not catch up with containerd", error=str(error))
                    await asyncio.sleep(_PROBE_INTERVAL)
                else:
                    self._connected.set()
            away = f"{time.monotonic() - began:.1f} s"
            log.info("containerd is back", address=self.address, after=away)

    @asynccontextmanager
    async def temporary_lease(self) -> AsyncIterator[Metadata]:
        """A lease for the length of the block; gives the metadata that puts a call under it.

        It expires after a day, so that a crash in the block leaves nothing for good.
        """
        lease_id = f"cri-{secrets.token_hex(8)}"
        expiry = datetime.now(UTC) + timedelta(hours=24)
        labels = {"containerd.io/gc.expire": expiry.strftime("%Y-%m-%dT%H:%M:%SZ")}
        await self.leases.Create(leases_pb2.CreateRequest(id=lease_id, labels=labels))
        try:
            yield self.with_lease(lease_id)
        finally:
            await asyncio.shield(self._delete_lease(lease_id))

    async def _delete_lease(self, lease_id: str) -> None:
        try:
            await self.leases.Delete(leases_pb2.DeleteRequest(id=lease_id))
        except aio.AioRpcError as error:
            # It expires by itself; the call that it served must not fail for it.
            log.warning("a temporary lease stays", lease=lease_id, error=error.details())

    async def _until_answering(self, say_waiting: Callable[[aio.AioRpcError], None]) -> float:
        """Probe until the daemon answers; gives the seconds waited.

        ``say_waiting`` is called once, when more than a moment has passed.
        """
        began = time.monotonic()
        said = False
        while True:
            try:
                self.capabilities = await self._probe()
            except aio.AioRpcError as error:
                if error.code() not in _AWAY:
                    raise
                waited = time.monotonic() - began
                if waited > _MOMENT and not said:
                    said = True
                    say_waiting(error)
                await asyncio.sleep(_PROBE_INTERVAL if said else _FIRST_INTERVAL)
            else:
                return time.monotonic() - began

    async def _until_lost(self) -> None:
        ready = grpc.ChannelConnectivity.READY
        state = self._channel.get_state(try_to_connect=True)
        while state is ready:
            await self._channel.wait_for_state_change(state)
            state = self._channel.get_state(try_to_connect=True)

    async def _probe(self) -> Capabilities:
        answer = await self.introspection.Plugins(introspection_pb2.PluginsRequest())
        loaded = [plugin for plugin in answer.plugins if not plugin.HasField("init_err")]
        return Capabilities(
            snapshotters={
                plugin.id: Snapshotter(
                    name=plugin.id,
                    root=plugin.exports.get("root", ""),
                    capabilities=frozenset(plugin.capabilities),
                )
                for plugin in loaded
                if plugin.type == "io.containerd.snapshotter.v1"
            },
            services=frozenset(
                plugin.id for plugin in loaded if plugin.type == "io.containerd.grpc.v1"
            ),
            runtime_info=await self._tells_runtime_info(),
            builtin_cri=any(
                plugin.type == "io.containerd.grpc.v1" and plugin.id == "cri" for plugin in loaded
            ),
            builtin_cri_parts=any(plugin.type == "io.containerd.cri.v1" for plugin in loaded),
        )

    async def _tells_runtime_info(self) -> bool:
        """Whether PluginInfo is served; any other answer than UNIMPLEMENTED says that it is."""
        request = introspection_pb2.PluginInfoRequest(type="io.containerd.none", id="none")
        try:
            await self.introspection.PluginInfo(request)
        except aio.AioRpcError as error:
            if error.code() in _AWAY:
                raise
            return error.code() is not grpc.StatusCode.UNIMPLEMENTED
        return True


async def daemon_version(containerd: Containerd) -> str:
    """The daemon's version, only ever to be shown."""
    answer = await containerd.version.Version(Empty())
    return str(answer.version)
