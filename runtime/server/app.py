"""The only place where the objects are connected: from the configuration to a serving process.

The socket is open from the start. Calls get UNAVAILABLE, with the reason, until containerd responds
and everything of an earlier run is recovered; and again whenever containerd goes away.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
from typing import Final

import structlog
from grpc import aio

from generated.cri import api_pb2_grpc
from generated.handlers import protocols
from generated.handlers.image_service import ImageService
from generated.handlers.runtime_service import RuntimeService
from runtime.cni.network import Network
from runtime.config.tables import Config, ConfigError
from runtime.containerd.capabilities import BUILTIN_CRI_OFF
from runtime.containerd.client import Containerd
from runtime.containers.operations import Containers
from runtime.containers.services import Services as ContainerServices
from runtime.containers.specs import Specs
from runtime.errors import CriError
from runtime.events.operations import Events
from runtime.frame import Frame
from runtime.images.operations import Images
from runtime.images.pause import PauseSource
from runtime.linux import directories
from runtime.logs.client import LogKeeper
from runtime.lookups import handlers, host
from runtime.lookups.cdi import CdiDirectories
from runtime.lookups.owned_snapshots import OwnedSnapshots
from runtime.node.operations import Node
from runtime.sandboxes.operations import Sandboxes
from runtime.sandboxes.services import Services as SandboxServices
from runtime.server import listener
from runtime.server.embedded import OWN_PAUSE, Daemon
from runtime.server.metrics import Metrics
from runtime.server.older import add_older_services
from runtime.server.recovery import Recovery, through_restarts
from runtime.stats.operations import Stats
from runtime.steps import background
from runtime.store import events as store_events
from runtime.store.layout import Layout
from runtime.store.objects import Container, Sandbox, Store
from runtime.store.selinux_levels import SelinuxLevels
from runtime.streaming.operations import Streaming
from runtime.tasks.exits import Exits
from runtime.transforms import facts

log = structlog.get_logger(__name__)

_CLEAN_UP_LIMIT: Final = 10.0
"""Seconds at shutdown for rolling back interrupted calls. Recovery rolls back the rest."""

_CRI_NAMESPACE_CLASH: Final = (
    "containerd's built-in CRI plugin runs in the same namespace and will manage the same pods;  "
    f"{BUILTIN_CRI_OFF}"
)


_LOG_COUNTS_PERIOD: Final = 5.0
"""Seconds between two readings of the log keeper's counts."""


async def serve(config: Config, server: aio.Server, daemon: Daemon | None) -> None:
    """Serve until SIGTERM or SIGINT, then let running calls finish; pods keep running.

    ``server`` is bound to its socket and has no services yet. ``daemon`` is the private containerd,
    if there is one; it is kept running meanwhile. Raises ConfigError for problems that the user
    must fix.
    """
    app = await App.joined(config)
    await app.run(server, daemon)


class App:
    """All parts of a running server. Created by ``joined``."""

    def __init__(
        self,
        config: Config,
        containerd: Containerd,
        log_keeper: LogKeeper,
        node: facts.Host,
        known: handlers.Handlers,
    ) -> None:
        self.config = config
        self.containerd = containerd
        self.log_keeper = log_keeper
        self.host = node
        self.handlers = known
        self.metrics = Metrics(unsaved=lambda: self.store.checkpoints.unsaved)
        self.store = Store(
            Layout(config.root_dir, config.state_dir),
            store_events.Events(dropped=self.metrics.events_dropped),
        )
        self.exits = Exits(containerd=containerd, store=self.store, log_keeper=log_keeper)
        levels = SelinuxLevels(
            self.store,
            node.selinux,
            config.selinux_category_range,
            ignored=self.metrics.field_ignored,
        )
        self.network = Network(
            config.cni,
            of_handlers={
                name: (runtime.cni_conf_dir, runtime.cni_max_conf_num)
                for name, runtime in config.containerd.runtimes.items()
                if runtime.cni_conf_dir
            },
            given_up=self.metrics.given_up,
            operated=self.metrics.network_operated,
        )
        self.images = Images(
            containerd=containerd,
            config=config,
            host=self.host,
            handlers=self.handlers,
            left_out=self.metrics.left_out,
            metrics=self.metrics,
        )
        snapshots = OwnedSnapshots(containerd)
        self.containers = Containers(
            ContainerServices(
                containerd=containerd,
                store=self.store,
                exits=self.exits,
                images=self.images,
                snapshots=snapshots,
                log_keeper=log_keeper,
                host=self.host,
                handlers=self.handlers,
                config=config,
                specs=Specs(containerd),
                levels=levels,
                cdi=CdiDirectories(config.cdi_spec_dirs, enabled=config.enable_cdi),
                timer=self._timed,
            )
        )
        self.sandboxes = Sandboxes(
            SandboxServices(
                containerd=containerd,
                store=self.store,
                exits=self.exits,
                images=self.images,
                snapshots=snapshots,
                network=self.network,
                containers=self.containers,
                host=self.host,
                handlers=self.handlers,
                config=config,
                levels=levels,
                timer=self._timed,
            )
        )
        self.stats = Stats(
            store=self.store,
            images=self.images,
            containers=self.containers,
            handlers=self.handlers,
            config=config,
            left_out=self.metrics.left_out,
        )
        self.node = Node(
            containerd=containerd, network=self.network, handlers=self.handlers, config=config
        )
        self.events = Events(
            hub=self.store.events, sandboxes=self.sandboxes, containers=self.containers
        )
        self.recovery = Recovery(self.sandboxes.services, self.containers.services)
        self.streaming = Streaming(
            config=config,
            store=self.store,
            containers=self.containers,
            metrics=self.metrics,
        )
        self._closed: str | None = "the server is starting"
        self._stop = asyncio.Event()
        self._failure: BaseException | None = None
        self._background = background.Tasks(failed=self._fail)

    @classmethod
    async def joined(cls, config: Config) -> App:
        """Create all parts for this configuration; this does not call containerd yet.

        Raises ConfigError, before anything is started, for a key that cannot work on this node.
        """
        node = host.probe(config)
        known = handlers.configured(config)
        for key, directory in (("root", config.root_dir), ("state", config.state_dir)):
            try:
                directories.make_private(directory)
            except OSError as error:
                raise ConfigError(
                    f"{key}: {directory} cannot be created or made private: {error.strerror}"
                ) from error
        containerd = await Containerd.connect(
            config.containerd.address, config.containerd.namespace
        )
        try:
            keeper = await LogKeeper.start(str(config.state_dir))
        except (CriError, OSError) as error:
            raise ConfigError(f"cannot start: {error}") from error
        return cls(config, containerd, keeper, node, known)

    async def run(self, server: aio.Server, daemon: Daemon | None) -> None:
        """Serve until a signal, or until a failure that the running server cannot recover from."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop.set)
        await self.streaming.start()
        self._add_services(server)
        await server.start()
        log.info("listening", socket=str(self.config.socket))
        self._background.start(self._open())
        if daemon:
            self._background.start(daemon.keep_alive())
        try:
            await self._stop.wait()
            log.info("shutting down; waiting for running calls", within=f"{listener.GRACE:.0f} s")
            self.store.events.close()
        finally:
            await asyncio.gather(server.stop(listener.GRACE), self.streaming.stop(listener.GRACE))
            await self._close()
        if self._failure:
            raise self._failure

    def _add_services(self, to: aio.Server) -> None:
        if self.config.metrics.address:
            self.metrics.serve(self.config.metrics.address)
        frame = Frame(
            closed=self._why_closed,
            observe=self.metrics.observe,
            log=structlog.get_logger("cri"),
            debugging=self.config.log_level == "debug",
            set_but_ignored=self.metrics.field_ignored,
            unknown=self.metrics.field_unknown,
            awaited_at_shutdown=background.awaited_at_shutdown,
        )
        _must_satisfy(self.sandboxes, protocols.SandboxOperations)
        _must_satisfy(self.containers, protocols.ContainerOperations)
        _must_satisfy(self.images, protocols.ImageOperations)
        _must_satisfy(self.node, protocols.NodeOperations)
        _must_satisfy(self.stats, protocols.StatsOperations)
        _must_satisfy(self.streaming, protocols.StreamingOperations)
        _must_satisfy(self.events, protocols.EventOperations)
        runtime_service: RuntimeService[Container, Sandbox] = RuntimeService(
            frame=frame,
            find_container=self.store.containers,
            find_sandbox=self.store.sandboxes,
            containers=self.containers,
            events=self.events,
            node=self.node,
            sandboxes=self.sandboxes,
            stats=self.stats,
            streaming=self.streaming,
        )
        image_service = ImageService(frame=frame, images=self.images)
        api_pb2_grpc.add_RuntimeServiceServicer_to_server(runtime_service, to)
        api_pb2_grpc.add_ImageServiceServicer_to_server(image_service, to)
        services = {"RuntimeService": runtime_service, "ImageService": image_service}
        add_older_services(services, to)

    async def _open(self) -> None:
        """Everything between containerd's first response and the first call that is served."""
        self._closed = f"waiting for containerd at {self.containerd.address}"
        await self.containerd.wait_ready()
        self._closed = "recovering the pods and containers of an earlier run"
        self.handlers.must_have_snapshotters(self.containerd)
        self._say_what_is_odd()
        await asyncio.gather(
            self.handlers.learn_features(self.containerd, self.host),
            self.network.start(),
            through_restarts(self.containerd, self.images.start),
            self.exits.start(),
        )
        if self.config.pause_image == OWN_PAUSE:
            await through_restarts(self.containerd, self._install_own_pause)
        await self.recovery.run()
        self.network.collect([sandbox.id for sandbox in self.store.sandboxes])
        self.stats.sampler.start()
        if self.metrics.served:
            self._background.start(self._count_logs())
        self._background.start(self.containerd.watch(self.images.reconcile))
        self._closed = None
        log.info("serving", socket=str(self.config.socket))

    async def _count_logs(self) -> None:
        """Show the log keeper's counts in the metrics."""
        while True:
            with contextlib.suppress(CriError, OSError):  # a keeper that is being replaced
                self.metrics.logs_counted(await self.log_keeper.counts())
            await asyncio.sleep(_LOG_COUNTS_PERIOD)

    async def _install_own_pause(self) -> None:
        if await self.images.resolve(OWN_PAUSE) is None:
            await self.images.install(OWN_PAUSE, PauseSource(self.host.architecture))

    def _why_closed(self) -> str | None:
        if self._closed:
            return self._closed
        if not self.containerd.connected:
            return f"waiting for containerd at {self.containerd.address} to come back"
        return None

    def _say_what_is_odd(self) -> None:
        """Log node properties that affect every pod once, not with every pod."""
        if self.containerd.capabilities.builtin_cri:
            log.error(_CRI_NAMESPACE_CLASH)
        if self.config.enable_selinux and self.host.selinux is None:
            log.warning("enable_selinux has no effect: the kernel has no SELinux, or no policy")
        floor = self.host.oom_score_adj_floor
        if floor is not None:
            log.warning(
                "oom_score_adj of pods and containers is raised to the server's own value",
                floor=floor,
                reason="this process lacks CAP_SYS_RESOURCE, or restrict_oom_score_adj is set",
            )

    def _timed(self, operation: str, handler: str, seconds: float) -> None:
        known = self.handlers.get(handler)
        self.metrics.timed(operation, handler, known.runtime_type if known else "", seconds)

    def _fail(self, error: BaseException) -> None:
        """A background task failed: end the server."""
        self._failure = error
        self._stop.set()

    async def _close(self) -> None:
        await self._background.cancel()
        await self.recovery.stop()
        left = await background.finished(_CLEAN_UP_LIMIT)
        if left:
            log.warning("left to the next start", work=left)
        await asyncio.gather(self.exits.stop(), self.stats.sampler.stop())
        await self.store.close()
        await asyncio.gather(self.images.close(), self.network.stop(), self.log_keeper.aclose())
        await self.containerd.close()


def _must_satisfy(part: object, protocol: type) -> None:
    """mypy compares signatures; this finds a missing method before the first call does"""
    if not isinstance(part, protocol):
        wanted = {name for name in vars(protocol) if not name.startswith("_")}
        missing = ", ".join(sorted(name for name in wanted if not hasattr(part, name)))
        raise TypeError(f"{type(part).__name__} lacks {missing} of {protocol.__name__}")
