"""Statistics in the CRI: rates, absent values, filters, interfaces."""

from __future__ import annotations

import asyncio
import errno
import os
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from generated.cri import api_pb2
from generated.filters import container_stats_filter, pod_sandbox_stats_filter
from generated.lifecycle import ContainerState, SandboxState
from generated.oci import types
from generated.statuses import container_stats, pod_sandbox_stats_response
from runtime.config.tables import Config, Duration
from runtime.errors import NotFound, Unavailable
from runtime.linux.cgroups import Cgroups, container_cgroup
from runtime.lookups.handlers import Handlers
from runtime.readings import Interface, LayerUsage, Memory, Pressure, Stall, Swap, Usage
from runtime.stats import sandbox as sandbox_stats
from runtime.stats.operations import Stats
from runtime.stats.rates import CpuRates
from runtime.stats.sandbox import parse_net_dev
from runtime.store.objects import Container as StoreContainer
from runtime.store.objects import Store
from runtime.transforms.facts import (
    Container,
    ContainerMetadata,
    ContainerStatus,
    Handler,
    MeasuredSandbox,
    Sandbox,
    SandboxMetadata,
    SandboxStatus,
)
from tests.unit.containers import samples

SECOND = 1_000_000_000


def usage(at: int, cpu: int | None = None, **figures: object) -> Usage:
    values: dict[str, object] = {"memory": None, "swap": None, "processes": None, **figures}
    return Usage(timestamp=at, cpu=cpu, **values)  # type: ignore[arg-type]


def figures(measured: Usage) -> api_pb2.ContainerStats:
    """The statistics of a container as a client receives them."""
    metadata = ContainerMetadata("c", "c_p_n_u_0", "p", api_pb2.ContainerConfig())
    facts = Container(metadata, ContainerStatus(ContainerState.RUNNING))
    return container_stats.read(container=facts, usage=measured)


def traffic(interfaces: list[Interface]) -> api_pb2.NetworkUsage:
    """The network statistics of a pod as a client receives them."""
    measured = usage(1, network=sandbox_stats.network(interfaces))
    pod = Sandbox(
        SandboxMetadata("p", "p_n_u_0", api_pb2.PodSandboxConfig()),
        SandboxStatus(SandboxState.READY),
    )
    told = pod_sandbox_stats_response.read(measured_sandbox=MeasuredSandbox(pod, measured, ()))
    return told.stats.linux.network


def stats_of(store: Store, cgroups: FakeCgroups) -> Stats:
    """The operations on a node with one handler, where nothing may be left out."""
    return Stats(
        store=store,
        images=FakeImages(None),
        containers=FakeContainers(),
        handlers=Handlers(Handler("runc")),
        config=Config(),
        left_out=pytest.fail,
        cgroups=cgroups,
    )


def test_a_rate_needs_two_readings_far_enough_apart() -> None:
    rates = CpuRates(period=2, retention=10)
    assert rates.rate("c", 0, 10 * SECOND) is None
    # too soon: the noise of accounting
    assert rates.rate("c", 900, 10 * SECOND + 1) is None
    assert rates.rate("c", SECOND, 12 * SECOND) == SECOND // 2
    # read again at once: the last known rate, not a new window
    assert rates.rate("c", SECOND + 5, 12 * SECOND + 5) == SECOND // 2
    assert rates.rate("c", 3 * SECOND, 14 * SECOND) == SECOND
    assert rates.rate("c", None, 15 * SECOND) is None


def test_a_counter_that_went_back_starts_anew() -> None:
    rates = CpuRates(period=0, retention=10)
    rates.rate("c", 500, 1 * SECOND)
    assert rates.rate("c", 400, 3 * SECOND) is None
    assert rates.rate("c", 400, 5 * SECOND) == 0


def test_a_rate_is_no_mean_over_more_than_the_retention_period() -> None:
    rates = CpuRates(period=1, retention=120)
    rates.rate("c", 0, 0)
    assert rates.rate("c", SECOND, 121 * SECOND) is None
    assert rates.rate("c", 2 * SECOND, 122 * SECOND) == SECOND


def test_readings_of_removed_cgroups_are_dropped() -> None:
    rates = CpuRates(period=1, retention=10)
    rates.rate("c", 500, 1 * SECOND)
    rates.forget_all_but({"d"})
    assert rates.rate("c", 600, 3 * SECOND) is None


async def test_the_first_answer_has_rates(tmp_path: Path) -> None:
    """The counters of running containers and ready pods are read beforehand, nothing else."""
    store = samples.store(tmp_path)
    samples.sandbox(store, "pod", linux=api_pb2.LinuxPodSandboxConfig(cgroup_parent="/pod"))
    stopped = api_pb2.LinuxPodSandboxConfig(cgroup_parent="/stopped")
    samples.sandbox(store, "stopped", state=SandboxState.NOTREADY, linux=stopped)
    samples.container(store, "waits", state=ContainerState.CREATED)
    cgroups = FakeCgroups(None, {}, usage(5, 1000))
    stats = Stats(
        store=store,
        images=FakeImages(None),
        containers=FakeContainers(),
        handlers=Handlers(Handler("runc")),
        config=Config(stats_collect_period=Duration(0.001)),
        left_out=pytest.fail,
        cgroups=cgroups,
    )
    await stats.sampler.sample()
    assert cgroups.read == ["/pod"], "a pod whose containers wait to be restarted has a rate too"
    cgroups.read.clear()
    container = samples.container(store, "runs", pid=os.getpid())
    await stats.sampler.sample()
    await asyncio.sleep(0.002)
    await stats.sampler.sample()
    assert cgroups.read == ["/somewhere", "/pod"] * 2
    await asyncio.sleep(0.002)
    answer = await stats.container(container, api_pb2.ContainerStatsRequest())
    assert 0 < answer.stats.cpu.usage_nano_cores.value <= 1000 * 1000
    pods = await stats.list_sandboxes(api_pb2.ListPodSandboxStatsRequest())
    (pod,) = (pod for pod in pods.stats if pod.attributes.id == "pod")
    assert pod.linux.cpu.usage_nano_cores.value > 0


async def test_a_container_that_has_just_ended_does_not_stop_the_sampler(tmp_path: Path) -> None:
    store = samples.store(tmp_path)
    samples.container(store, "ended", pid=os.getpid())

    class Gone(FakeCgroups):
        def of_process(self, pid: int) -> str | None:
            raise ProcessLookupError

    stats = stats_of(store, Gone(None, {}))
    await stats.sampler.sample()


def test_the_counter_of_each_cgroup_version(tmp_path: Path) -> None:
    (tmp_path / "c").mkdir()
    (tmp_path / "c/cpu.stat").write_text("usage_usec 7\nuser_usec 5\n")
    (tmp_path / "c/cpuacct.usage").write_text("9\n")
    assert Cgroups(str(tmp_path), {}).cpu("/c") == 7000
    assert Cgroups(None, {"cpuacct": str(tmp_path)}).cpu("/c") == 9
    assert Cgroups(str(tmp_path), {}).cpu("/removed") is None


def test_unmeasured_values_are_unset_and_not_zero() -> None:
    cpu = figures(usage(1, 5)).cpu
    assert cpu.usage_core_nano_seconds.value == 5
    assert not cpu.HasField("usage_nano_cores") and not cpu.HasField("psi")
    nothing = figures(usage(1))
    assert [field.name for field, _ in nothing.ListFields()] == ["attributes"]
    memory = figures(usage(1, memory=Memory(10, 4, 1, 2, 3, None))).memory
    assert memory.HasField("working_set_bytes") and not memory.HasField("available_bytes")
    assert memory.working_set_bytes.value == 6
    assert figures(usage(1, 0)).cpu.HasField("usage_core_nano_seconds"), "0 was measured"


def test_available_memory_and_swap_never_fall_below_zero() -> None:
    found = figures(usage(1, memory=Memory(10, 0, 1, 2, 3, 8), swap=Swap(5, 3)))
    assert found.memory.HasField("available_bytes") and found.memory.available_bytes.value == 0
    assert found.swap.HasField("swap_available_bytes")
    assert found.swap.swap_available_bytes.value == 0


def test_pressure_is_reported_for_some_and_full() -> None:
    pressure = Pressure(Stall(1.0, 2.0, 3.0, 4), Stall(5.0, 6.0, 7.0, 8))
    io = figures(usage(1, io_pressure=pressure)).io
    assert io.psi.Some == api_pb2.PsiData(Avg10=1, Avg60=2, Avg300=3, Total=4)
    assert io.psi.Full == api_pb2.PsiData(Avg10=5, Avg60=6, Avg300=7, Total=8)


NET_DEV = """\
Inter-|   Receive                                                |  Transmit
 face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs drop fifo colls carrier compressed
    lo:     100       1    0    0    0     0          0         0      100       1    0    0    0     0       0          0
  net1:      10       1    2    0    0     0          0         0       30       1    4    0    0     0       0          0
  eth0:    1000       8    5    3    0     0          0         0     2000       9    6    7    0     0       0          0
"""  # noqa: E501


def test_the_default_interface_is_eth0_and_the_loopback_is_left_out() -> None:
    interfaces = parse_net_dev(NET_DEV)
    assert interfaces == [
        Interface("net1", 10, 1, 2, 0, 30, 1, 4, 0),
        Interface("eth0", 1000, 8, 5, 3, 2000, 9, 6, 7),
    ]
    network = traffic(interfaces)
    assert network.default_interface.name == "eth0"
    assert network.default_interface.tx_errors.value == 6
    assert [i.name for i in network.interfaces] == ["net1"]


def test_without_eth0_the_first_interface_is_the_default() -> None:
    assert traffic([Interface("net1", *[0] * 8)]).default_interface.name == "net1"
    assert sandbox_stats.network([]) is None


def test_statistics_cover_the_whole_container() -> None:
    # an init system in a container moves itself below the container's cgroup
    assert container_cgroup("/pods/abc123/init.scope", "abc123") == "/pods/abc123"
    assert container_cgroup("/k.slice/cri-containerd-abc123.scope", "abc123") == (
        "/k.slice/cri-containerd-abc123.scope"
    )
    assert container_cgroup("/elsewhere", "abc123") == "/elsewhere"


def test_all_conditions_of_a_stats_filter_must_match(tmp_path: Path) -> None:
    store = samples.store(tmp_path)
    container = samples.container(store, "abc", sandbox_id="pod", labels={"a": "1", "b": "2"})
    wanted, listed = api_pb2.ContainerStatsFilter, [container.listed()]
    assert container_stats_filter.selected(wanted(), listed) == listed
    all_three = wanted(id="ab", pod_sandbox_id="po", label_selector={"a": "1"})
    assert container_stats_filter.selected(all_three, listed) == listed
    assert container_stats_filter.selected(wanted(id="b"), listed) == []
    assert container_stats_filter.selected(wanted(label_selector={"a": "2"}), listed) == []
    sandbox = samples.sandbox(store, "pod", labels={"a": "1"})
    of_pods, pods = api_pb2.PodSandboxStatsFilter, [sandbox.listed()]
    assert pod_sandbox_stats_filter.selected(of_pods(id="p"), pods) == pods
    assert pod_sandbox_stats_filter.selected(of_pods(label_selector={"c": "1"}), pods) == []


async def test_a_listing_reads_only_files(tmp_path: Path) -> None:
    """The container's cgroup is found through its process, here this test's own."""
    store = samples.store(tmp_path)
    samples.sandbox(store, "pod")
    samples.container(store, "runs", pid=os.getpid())
    samples.container(store, "waits", state=ContainerState.CREATED)
    layer = LayerUsage(timestamp=7, size=4096, inodes=3, root="/var/lib/snapshots")
    stats = Stats(
        store=store,
        images=FakeImages(layer),
        containers=FakeContainers(),
        handlers=Handlers(Handler("runc")),
        config=Config(),
        left_out=pytest.fail,
        cgroups=FakeCgroups(None, {}, usage(5, 1000, memory=Memory(10, 4, 1, 2, 3, None))),
    )
    answer = await stats.list_containers(api_pb2.ListContainerStatsRequest())
    found, waits = answer.stats
    assert found.attributes.id == "runs"
    # a stopped one has the size of its writable layer, and nothing that looks like a measured 0
    assert waits.attributes.id == "waits"
    assert waits.writable_layer.used_bytes.value == 4096
    assert not waits.HasField("cpu") and not waits.HasField("memory")
    assert found.cpu.usage_core_nano_seconds.value == 1000
    assert found.writable_layer.used_bytes.value == 4096
    assert found.writable_layer.fs_id.mountpoint == "/var/lib/snapshots"


async def test_stopped_objects_have_no_statistics(tmp_path: Path) -> None:
    store = samples.store(tmp_path)
    container = samples.container(store, "c", state=ContainerState.EXITED)
    sandbox = samples.sandbox(store, "pod", state=SandboxState.NOTREADY)
    stats = stats_of(store, FakeCgroups(None, {}))
    with pytest.raises(NotFound, match="EXITED"):
        await stats.container(container, api_pb2.ContainerStatsRequest())
    with pytest.raises(Unavailable, match="NOTREADY"):
        await stats.sandbox(sandbox, api_pb2.PodSandboxStatsRequest())


@pytest.mark.parametrize(
    "error", [OSError(errno.ENODEV, "No such device"), PermissionError(13, "x"), ValueError("x")]
)
async def test_one_unreadable_cgroup_does_not_affect_the_others(
    tmp_path: Path, error: Exception
) -> None:
    store = samples.store(tmp_path)
    samples.sandbox(store, "pod")
    for name in ("bad", "good"):
        samples.container(store, name, pid=os.getpid())

    class Failing(FakeCgroups):
        def usage(self, path: str) -> Usage:
            if path == "/bad":
                raise error
            return super().usage(path)

    counted: list[str] = []
    stats = Stats(
        store=store,
        images=FakeImages(None),
        containers=FakeContainers(),
        handlers=Handlers(Handler("runc")),
        config=Config(),
        left_out=counted.append,
        cgroups=Failing(None, {}, usage(5, 1000)),
    )
    stats._paths = {name: (os.getpid(), f"/{name}") for name in ("bad", "good")}
    answer = await stats.list_containers(api_pb2.ListContainerStatsRequest())
    assert [found.attributes.id for found in answer.stats] == ["good"]
    assert counted == ["cgroup"]
    stats._paths["pod"] = (0, "/bad")
    pods = await stats.list_sandboxes(api_pb2.ListPodSandboxStatsRequest())
    assert len(pods.stats) == 0


class FakeContainers:
    def __init__(self, found: types.Spec | Exception | None = None) -> None:
        self._found = found or types.Spec()

    async def spec(self, container: StoreContainer) -> types.Spec:
        if isinstance(self._found, Exception):
            raise self._found
        return self._found


class FakeImages:
    def __init__(self, layer: LayerUsage | None, measured: LayerUsage | None = None) -> None:
        self._layer = layer
        self._measured = measured

    async def measure_layer(self, snapshotter: str, key: str) -> None:
        self._layer = self._measured

    def layer_usage(self, snapshotter: str, key: str) -> LayerUsage | None:
        return self._layer


@dataclass(frozen=True)
class FakeCgroups(Cgroups):
    """One result for every cgroup; None: all are gone."""

    answer: Usage | None = None
    read: list[str] = field(default_factory=list)
    """The cgroups whose counters were read."""

    def cpu(self, path: str) -> int | None:
        self.read.append(path)
        return len(self.read)

    def of_process(self, pid: int) -> str | None:
        return "/somewhere"

    def usage(self, path: str) -> Usage:
        if self.answer is None:
            raise FileNotFoundError(path)
        return self.answer
