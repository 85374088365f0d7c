"""A thin client of containerd's gRPC API.

Calls look like those of the generated stubs (``await containerd.tasks.Get(request)``) and raise the
same errors (``grpc.aio.AioRpcError``; ``runtime.errors.from_rpc`` translates them). In addition,
every call carries the containerd namespace and the deadline from `runtime.containerd.deadlines`,
the channel reconnects by itself when the daemon is back, and one watcher tells the rest of the
server when the daemon goes away and comes back.

What a daemon supports is queried (``Capabilities``); its version is never compared.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import Any, Final, TypeAlias

import grpc
import structlog
from google.protobuf.empty_pb2 import Empty
from grpc import aio

from generated.containerd import (
    containers_pb2_grpc,
    content_pb2_grpc,
    diff_pb2_grpc,
    events_pb2_grpc,
    images_pb2_grpc,
    introspection_pb2_grpc,
    leases_pb2_grpc,
    sandbox_pb2_grpc,
    snapshots_pb2_grpc,
    tasks_pb2_grpc,
    version_pb2_grpc,
)
from runtime.containerd.capabilities import AWAY, Capabilities, probe
from runtime.containerd.deadlines import DEADLINES
from runtime.containerd.limits import MAX_MESSAGE
from runtime.errors import CriError

log = structlog.get_logger(__name__)

_PROBE_INTERVAL: Final = 0.2
_FIRST_INTERVAL: Final = 0.02
_MOMENT: Final = 1.0
"""Seconds; a daemon that starts together with us responds within this time."""

Metadata: TypeAlias = tuple[tuple[str, str], ...]

_CHANNEL_OPTIONS: Final = [
    ("grpc.max_send_message_length", MAX_MESSAGE),
    ("grpc.max_receive_message_length", MAX_MESSAGE),
    # Detect a restarted daemon within a second; gRPC's default would back off to two minutes.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1000),
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.enable_retries", 0),
    ("grpc.enable_http_proxy", 0),
]


class Service:
    """The calls of one service, each with this client's metadata and its deadline.

    Using ``partial`` is the cheapest way to add both: 30 µs less per call than an interceptor.
    """

    def __init__(
        self, stub: object, metadata: Metadata, deadlines: Mapping[str, float | None]
    ) -> None:
        for name, deadline in deadlines.items():
            setattr(self, name, partial(getattr(stub, name), metadata=metadata, timeout=deadline))

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(f"the containerd service has no call {name}")


class Containerd:
    """One daemon, one namespace, one channel. Created by ``connect``, closed by ``close``."""

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
        """A client of the daemon at ``address`` (``unix:///path``), which need not be running
        yet."""
        channel = aio.insecure_channel(address, options=_CHANNEL_OPTIONS)
        return cls(channel, address, namespace)

    async def close(self) -> None:
        """Close the channel and every call on it."""
        await self._channel.close()

    @property
    def connected(self) -> bool:
        """Whether the daemon responded to the last probe; if not, calls fail with UNAVAILABLE."""
        return self._connected.is_set()

    def with_lease(self, lease_id: str) -> Metadata:
        """``metadata=`` for calls whose new objects the lease protects from garbage collection."""
        return (*self._metadata, ("containerd-lease", lease_id))

    async def wait_ready(self) -> None:
        """Return when the daemon responds and its capabilities are known; waits without limit.

        If this takes longer than a moment, one line is logged when waiting and one when it is over.
        """

        def say_waiting(error: aio.AioRpcError) -> None:
            log.warning(
                "waiting for containerd",
                address=self.address,
                error=error.details(),
                remedy="start containerd, or set its socket with --containerd",
            )

        waited = await self._until_answering(say_waiting)
        self._connected.set()
        if waited > _MOMENT:
            log.info("containerd is ready", after=f"{waited:.1f} s")

    async def watch(self, back: Callable[[], Awaitable[object]]) -> None:
        """Watch the daemon going away and coming back, until cancelled; started after
        ``wait_ready``.

        When the daemon responds again, ``back`` is awaited to reconcile (subscriptions have no
        replay), and only then is ``connected`` true again. If ``back`` fails, it is called again.
        """
        while True:
            await self._until_lost()
            self._connected.clear()
            log.warning("containerd is not responding", address=self.address)
            began = time.monotonic()
            while not self.connected:
                await self._until_answering(lambda error: None)
                try:
                    await back()
                except (aio.AioRpcError, CriError) as error:
                    log.warning("could not reconcile with containerd", error=str(error))
                    await asyncio.sleep(_PROBE_INTERVAL)
                else:
                    self._connected.set()
            away = f"{time.monotonic() - began:.1f} s"
            log.info("containerd is back", address=self.address, after=away)

    async def _until_answering(self, say_waiting: Callable[[aio.AioRpcError], None]) -> float:
        """Probe until the daemon responds; returns the seconds waited.

        ``say_waiting`` is called once, if it takes longer than a moment.
        """
        began = time.monotonic()
        said = False
        while True:
            try:
                self.capabilities = await probe(self.introspection)
            except aio.AioRpcError as error:
                if error.code() not in AWAY:
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


async def daemon_version(containerd: Containerd) -> str:
    """The daemon's version, for display only."""
    answer = await containerd.version.Version(Empty())
    return str(answer.version)
