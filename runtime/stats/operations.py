"""Statistics of containers and pods, read from cgroup files and the pods' network namespaces.

Neither shims nor the daemon are queried, so a listing of a hundred pods takes some milliseconds and
works while containerd is down. Files are read in a thread, so the event loop is not blocked.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import TYPE_CHECKING, Protocol

import structlog

from generated.cri import api_pb2
from generated.filters import list_container_stats_request, list_pod_sandbox_stats_request
from generated.lifecycle import ContainerState, SandboxState
from generated.plans import plan_sandbox
from generated.statuses import (
    container_stats_response,
    list_container_stats_response,
    list_pod_sandbox_stats_response,
    pod_sandbox_stats_response,
)
from runtime.errors import NotFound, Unavailable
from runtime.linux.cgroups import Cgroups, sandbox_cgroup
from runtime.lookups.handlers import Handlers
from runtime.readings import Interface, Usage
from runtime.stats import sandbox as sandbox_stats
from runtime.stats.rates import CpuRates
from runtime.stats.sampler import Sampler
from runtime.steps import threads
from runtime.store.objects import Sandbox
from runtime.transforms import facts

if TYPE_CHECKING:
    from runtime.config.tables import Config
    from runtime.store.objects import Container, Store

log = structlog.get_logger(__name__)


class Images(Protocol):
    """Images as used here; `runtime.images.operations.Images` implements it."""

    def layer_usage(self, snapshotter: str, key: str) -> facts.LayerUsage | None: ...


class Stats:
    """The stats operations; they need only the store and kernel files."""

    def __init__(
        self,
        *,
        store: Store,
        images: Images,
        handlers: Handlers,
        config: Config,
        left_out: Callable[[str], None],
        cgroups: Cgroups | None = None,
    ) -> None:
        """``left_out`` counts the statistics that cannot be read, as ``cgroup`` or ``network``."""
        self._store = store
        self._images = images
        self._handlers = handlers
        self._config = config
        self._left_out = left_out
        self._cgroups = cgroups or Cgroups.probe()
        self._rates = CpuRates(config.stats_collect_period, config.stats_retention_period)
        self._paths: dict[str, tuple[int, str]] = {}
        self.sampler = Sampler(
            store=store,
            cgroups=self._cgroups,
            rates=self._rates,
            period=config.stats_collect_period,
            path=self._path,
        )

    async def container(
        self, container: Container, request: api_pb2.ContainerStatsRequest
    ) -> api_pb2.ContainerStatsResponse:
        """The statistics of one container; NotFound if it has no cgroup (any more)."""
        if container.state is not ContainerState.RUNNING:
            raise NotFound(
                f"container {container.id} is {container.state.name} and has no statistics; "
                "only running containers have them"
            )
        found = await threads.CGROUPS.run(self._containers, [container])
        if not found:
            raise NotFound(f"container {container.id} has just exited")
        return container_stats_response.read(measured_container=found[0])

    async def list_containers(
        self, request: api_pb2.ListContainerStatsRequest
    ) -> api_pb2.ListContainerStatsResponse:
        """The statistics of all containers that pass the filter; for one that does not run, only
        the size of its writable layer."""
        wanted = [
            container
            for container in self._store.containers
            if list_container_stats_request.matches(request, container.listed())
        ]
        self._forget_gone()
        return await threads.CGROUPS.run(self._list_containers, wanted)

    async def sandbox(
        self, sandbox: Sandbox, request: api_pb2.PodSandboxStatsRequest
    ) -> api_pb2.PodSandboxStatsResponse:
        """The statistics of one pod; Unavailable unless it is ready."""
        if sandbox.state is not SandboxState.READY:
            raise Unavailable(f"sandbox {sandbox.id} is {sandbox.state.name} and has no statistics")
        found = await threads.CGROUPS.run(self._sandboxes, [sandbox])
        if not found:
            raise Unavailable(f"sandbox {sandbox.id} has no cgroup; it may be stopping")
        return pod_sandbox_stats_response.read(measured_sandbox=found[0])

    async def list_sandboxes(
        self, request: api_pb2.ListPodSandboxStatsRequest
    ) -> api_pb2.ListPodSandboxStatsResponse:
        """The statistics of all ready pods that pass the filter."""
        wanted = [
            sandbox
            for sandbox in self._store.sandboxes
            if sandbox.state is SandboxState.READY
            and list_pod_sandbox_stats_request.matches(request, sandbox.listed())
        ]
        self._forget_gone()
        return await threads.CGROUPS.run(self._list_sandboxes, wanted)

    # From here on, code runs in a thread

    def _list_containers(
        self, containers: Iterable[Container]
    ) -> api_pb2.ListContainerStatsResponse:
        measured = facts.Measured(containers=self._containers(containers))
        return list_container_stats_response.read(measured=measured)

    def _list_sandboxes(self, sandboxes: Iterable[Sandbox]) -> api_pb2.ListPodSandboxStatsResponse:
        measured = facts.Measured(sandboxes=self._sandboxes(sandboxes))
        return list_pod_sandbox_stats_response.read(measured=measured)

    def _containers(self, containers: Iterable[Container]) -> tuple[facts.MeasuredContainer, ...]:
        return tuple(found for found in map(self._container, containers) if found is not None)

    def _container(self, container: Container) -> facts.MeasuredContainer | None:
        """The statistics of a container; None if it has just exited, or if its cgroup cannot be
        read, which must not affect the statistics of other containers."""
        layer = self._layer_usage(container)
        if container.state is not ContainerState.RUNNING:
            # only its writable layer is left to measure
            usage = Usage(0, None, None, None, None, layer=layer)
            return facts.MeasuredContainer(container.facts, usage)
        measured = self._usage(container)
        if measured is None:
            return None
        usage = replace(measured, nano_cores=self._rate(container, measured), layer=layer)
        return facts.MeasuredContainer(container.facts, usage)

    def _layer_usage(self, container: Container) -> facts.LayerUsage | None:
        sandbox = container.sandbox
        name = sandbox.metadata.runtime_handler if sandbox else ""
        snapshotter = container.snapshotter or self._handlers.snapshotter(name)
        return self._images.layer_usage(snapshotter, container.id)

    def _sandboxes(self, sandboxes: Iterable[Sandbox]) -> tuple[facts.MeasuredSandbox, ...]:
        return tuple(found for found in map(self._sandbox, sandboxes) if found is not None)

    def _sandbox(self, sandbox: Sandbox) -> facts.MeasuredSandbox | None:
        usage = self._usage(sandbox)
        if usage is None:
            return None
        running = [c for c in sandbox.containers if c.state is ContainerState.RUNNING]
        containers = self._containers(running)
        usage = replace(
            usage,
            nano_cores=self._rate(sandbox, usage),
            network=sandbox_stats.network(self._interfaces(sandbox)),
            process_count=sum(one.usage.processes or 0 for one in containers),
        )
        return facts.MeasuredSandbox(sandbox.facts, usage, containers)

    def _rate(self, item: Container | Sandbox, usage: Usage) -> int | None:
        return self._rates.rate(item.id, usage.cpu, time.monotonic_ns())

    def _usage(self, item: Container | Sandbox) -> Usage | None:
        """The statistics of its cgroup; None if that was removed or cannot be read."""
        try:
            path = self._path(item)
            return None if path is None else self._cgroups.usage(path)
        except (FileNotFoundError, ProcessLookupError):
            return None
        except (OSError, ValueError) as error:
            log.warning(
                "statistics left out: a cgroup cannot be read", id=item.id, error=str(error)
            )
            self._left_out("cgroup")
            return None

    def _path(self, item: Container | Sandbox) -> str | None:
        """The cgroup of a container or pod; None if its process has ended.

        It is looked up once per process: an init system in a container moves itself into a
        sub-cgroup, and its current cgroup would then cover only a part.
        """
        pid = item.status.pid
        known = self._paths.get(item.id)
        if known is not None and known[0] == pid:
            return known[1]
        path = self._found(item)
        if path is not None:
            self._paths[item.id] = (pid, path)
        return path

    def _found(self, item: Container | Sandbox) -> str | None:
        if isinstance(item, Sandbox):
            parent = plan_sandbox(item.metadata.config).pod_cgroup
            if parent:
                return sandbox_cgroup(parent)
            # without a cgroup_parent the pod has no cgroup of its own: report the pause container's
        path = self._cgroups.of_process(item.status.pid) if item.status.pid else None
        return None if path is None else _above_own_cgroups(path, item.id)

    def _interfaces(self, sandbox: Sandbox) -> list[Interface]:
        if not sandbox.metadata.netns_path or not sandbox.status.pid:
            return []
        try:
            with open(f"/proc/{sandbox.status.pid}/net/dev", encoding="ascii") as file:
                return sandbox_stats.parse_net_dev(file.read())
        except (FileNotFoundError, ProcessLookupError):
            return []
        except (OSError, ValueError) as error:
            log.warning("network statistics left out", sandbox=sandbox.id, error=str(error))
            self._left_out("network")
            return []

    def _forget_gone(self) -> None:
        known = {item.id for item in self._store.containers}
        known |= {item.id for item in self._store.sandboxes}
        self._rates.forget_all_but(known)
        for key in self._paths.keys() - known:
            del self._paths[key]


def _above_own_cgroups(path: str, container_id: str) -> str:
    """``path`` up to the component with the container's ID, which is its whole cgroup."""
    parts = path.split("/")
    for index, part in enumerate(parts):
        if container_id in part:
            return "/".join(parts[: index + 1])
    return path
