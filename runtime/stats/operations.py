"""Statistics of containers and pods, read from cgroup files and the pods' network namespaces.

Neither shims nor the daemon are queried, so a listing of a hundred pods takes some milliseconds and
works while containerd is down. Files are read in a thread, so the event loop is not blocked.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

import structlog

from generated.cri import api_pb2
from generated.filters import list_container_stats_request, list_pod_sandbox_stats_request
from generated.lifecycle import ContainerState, SandboxState
from generated.oci import types
from generated.plans import plan_sandbox
from generated.statuses import (
    container_stats_response,
    list_container_stats_response,
    list_metric_descriptors_response,
    list_pod_sandbox_metrics_response,
    list_pod_sandbox_stats_response,
    pod_sandbox_stats_response,
)
from runtime.errors import CriError, NotFound, Unavailable
from runtime.linux.cgroups import Cgroups, container_cgroup, sandbox_cgroup
from runtime.lookups.handlers import Handlers
from runtime.readings import (
    ContainerSamples,
    Interface,
    MetricDescriptors,
    NodeSamples,
    PodSamples,
    Usage,
)
from runtime.stats import sandbox as sandbox_stats
from runtime.stats.rates import CpuRates
from runtime.stats.sampler import Sampler
from runtime.stats.services import Containers, Images
from runtime.steps import threads
from runtime.store.objects import Sandbox
from runtime.transforms import facts

if TYPE_CHECKING:
    from runtime.config.tables import Config
    from runtime.stats import metrics
    from runtime.store.objects import Container, Store

log = structlog.get_logger(__name__)


class Stats:
    """The stats operations; they need only the store and kernel files."""

    def __init__(
        self,
        *,
        store: Store,
        images: Images,
        containers: Containers,
        handlers: Handlers,
        config: Config,
        left_out: Callable[[str], None],
        cgroups: Cgroups | None = None,
    ) -> None:
        """``left_out`` counts the statistics that cannot be read, as ``cgroup`` or ``network``."""
        self._store = store
        self._images = images
        self._container_specs = containers
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
        known = {container.id: container for container in self._store.containers}
        listed = [container.listed() for container in known.values()]
        wanted = [known[one.id] for one in list_container_stats_request.selected(request, listed)]
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
        ready = {s.id: s for s in self._store.sandboxes if s.state is SandboxState.READY}
        listed = [sandbox.listed() for sandbox in ready.values()]
        wanted = [ready[one.id] for one in list_pod_sandbox_stats_request.selected(request, listed)]
        self._forget_gone()
        return await threads.CGROUPS.run(self._list_sandboxes, wanted)

    async def list_metric_descriptors(
        self, request: api_pb2.ListMetricDescriptorsRequest
    ) -> api_pb2.ListMetricDescriptorsResponse:
        """All metrics that `list_metrics` can have."""
        from generated.metrics import DESCRIPTORS

        return list_metric_descriptors_response.read(
            metric_descriptors=MetricDescriptors(DESCRIPTORS)
        )

    async def list_metrics(
        self, request: api_pb2.ListPodSandboxMetricsRequest
    ) -> api_pb2.ListPodSandboxMetricsResponse:
        """The metrics of all ready pods and their running containers."""
        ready = [pod for pod in self._store.sandboxes if pod.state is SandboxState.READY]
        specs: dict[str, types.Spec] = {}
        for container in self._store.containers:
            if container.state is ContainerState.RUNNING:
                specs[container.id] = await self._prepared(container)
        return await threads.CGROUPS.run(self._metrics, ready, specs)

    async def _prepared(self, container: Container) -> types.Spec:
        """The container's OCI spec; empty if containerd does not tell it. A layer that was not
        measured yet is measured now, because the container has just been created."""
        if self._layer_usage(container) is None:
            await self._images.measure_layer(self._snapshotter(container), container.id)
        try:
            return await self._container_specs.spec(container)
        except CriError:
            return types.Spec()

    # From here on, code runs in a thread

    def _metrics(
        self, pods: Iterable[Sandbox], specs: Mapping[str, types.Spec]
    ) -> api_pb2.ListPodSandboxMetricsResponse:
        # only a kubelet with a feature gate asks for them
        from runtime.stats import metrics

        reader = metrics.Reader.of(self._cgroups)
        samples = (
            PodSamples(
                pod.id,
                metrics.of_pod(pod, self._interfaces(pod)),
                tuple(
                    found
                    for container in pod.containers
                    if container.id in specs
                    and (found := self._container_metrics(reader, container, pod, specs))
                ),
            )
            for pod in pods
        )
        return list_pod_sandbox_metrics_response.read(node_samples=NodeSamples(tuple(samples)))

    def _container_metrics(
        self,
        reader: metrics.Reader,
        container: Container,
        pod: Sandbox,
        specs: Mapping[str, types.Spec],
    ) -> ContainerSamples | None:
        """None if it has just ended or cannot be read."""
        with self._left_out_if_unreadable(container.id):
            path = self._path(container)
            if path is not None:
                layer = self._layer_usage(container)
                spec = specs[container.id]
                return reader.container(container, pod, path, spec=spec, layer=layer)
        return None

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
        return self._images.layer_usage(self._snapshotter(container), container.id)

    def _snapshotter(self, container: Container) -> str:
        return self._handlers.snapshotter(container.runtime_handler, container.snapshotter)

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
        with self._left_out_if_unreadable(item.id):
            path = self._path(item)
            return None if path is None else self._cgroups.usage(path)
        return None

    @contextmanager
    def _left_out_if_unreadable(self, id: str) -> Iterator[None]:
        """Go on after the block if a cgroup was removed, or cannot be read: one such cgroup must
        not affect the statistics of other objects."""
        try:
            yield
        except (FileNotFoundError, ProcessLookupError):
            pass
        except (OSError, ValueError) as error:
            log.warning("statistics left out: a cgroup cannot be read", id=id, error=str(error))
            self._left_out("cgroup")

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
        return None if path is None else container_cgroup(path, item.id)

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
