"""The metrics of containers and pods, on both cgroup versions."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from generated import metrics
from generated.cri import api_pb2
from generated.lifecycle import ContainerState, SandboxState
from generated.oci import types
from runtime.config.tables import Config
from runtime.errors import Unavailable
from runtime.linux import cgroups as cgroups_module
from runtime.linux.cgroups import Cgroups, page_sizes
from runtime.lookups.handlers import Handlers
from runtime.readings import Interface, LayerUsage
from runtime.stats.operations import Stats
from runtime.transforms import metrics as reading
from runtime.transforms.facts import Handler
from tests.unit.containers import samples
from tests.unit.stats.test_operations import FakeContainers, FakeImages

CADVISOR = {
    *("container_cpu_usage_seconds_total", "container_cpu_user_seconds_total"),
    *("container_cpu_system_seconds_total", "container_cpu_cfs_periods_total"),
    *("container_cpu_cfs_throttled_periods_total", "container_cpu_cfs_throttled_seconds_total"),
    *("container_memory_usage_bytes", "container_memory_working_set_bytes"),
    *("container_memory_max_usage_bytes", "container_memory_rss", "container_memory_cache"),
    *("container_memory_kernel_usage", "container_memory_mapped_file", "container_memory_swap"),
    *("container_memory_failcnt", "container_memory_failures_total"),
    *("container_memory_total_active_file_bytes", "container_memory_total_inactive_file_bytes"),
    *("container_oom_events_total", "container_hugetlb_usage_bytes"),
    *("container_hugetlb_max_usage_bytes", "container_blkio_device_usage_total"),
    *("container_fs_reads_bytes_total", "container_fs_writes_bytes_total"),
    *("container_fs_reads_total", "container_fs_writes_total", "container_fs_usage_bytes"),
    *("container_fs_limit_bytes", "container_fs_inodes_total", "container_fs_inodes_free"),
    *("container_processes", "container_threads", "container_threads_max"),
    *("container_file_descriptors", "container_sockets", "container_ulimits_soft"),
    *("container_spec_cpu_period", "container_spec_cpu_quota", "container_spec_cpu_shares"),
    *("container_spec_memory_limit_bytes", "container_spec_memory_swap_limit_bytes"),
    *("container_spec_memory_reservation_limit_bytes", "container_start_time_seconds"),
    "container_last_seen",
    *(f"container_pressure_{of}_waiting_seconds_total" for of in ("cpu", "memory", "io")),
    *(f"container_pressure_{of}_stalled_seconds_total" for of in ("cpu", "memory", "io")),
    *(
        f"container_network_{way}_{what}_total"
        for way in ("receive", "transmit")
        for what in ("bytes", "errors", "packets", "packets_dropped")
    ),
}
"""Metrics known to critest and the built-in plugin."""

V1 = {
    "cpuacct/c/cpuacct.usage": "5000000001\n",
    "cpuacct/c/cpuacct.usage_user": "3000000000\n",
    "cpuacct/c/cpuacct.usage_sys": "2000000000\n",
    "cpu/c/cpu.stat": (
        "nr_periods 10\nnr_throttled 3\nthrottled_time 4000000000\nnr_bursts 1\n"
        "burst_time 1000000000\n"
    ),
    "memory/c/memory.usage_in_bytes": "1000\n",
    "memory/c/memory.max_usage_in_bytes": "2000\n",
    "memory/c/memory.failcnt": "7\n",
    "memory/c/memory.kmem.usage_in_bytes": "77\n",
    "memory/c/memory.stat": (
        "pgfault 5\npgmajfault 1\ntotal_pgfault 6\ntotal_pgmajfault 2\ntotal_rss 300\n"
        "total_cache 400\ntotal_mapped_file 50\ntotal_swap 60\ntotal_active_file 70\n"
        "total_inactive_file 80\n"
    ),
    "memory/c/memory.oom_control": "oom_kill_disable 0\nunder_oom 0\noom_kill 9\n",
    "memory/c/cgroup.procs": "",
    "hugetlb/c/hugetlb.2MB.usage_in_bytes": "2097152\n",
    "hugetlb/c/hugetlb.2MB.max_usage_in_bytes": "4194304\n",
    "blkio/c/blkio.throttle.io_service_bytes_recursive": (
        "4000:0 Read 4096\n4000:0 Write 8192\n4000:0 Sync 1\n4000:0 Async 2\n4000:0 Discard 0\n"
        "4000:0 Total 12288\nTotal 12288\n"
    ),
    "blkio/c/blkio.throttle.io_serviced_recursive": "4000:0 Read 1\n4000:0 Write 2\nTotal 3\n",
    "pids/c/pids.current": "4\n",
    "pids/c/pids.max": "max\n",
}

V2 = {
    "c/cpu.stat": (
        "usage_usec 5000001\nuser_usec 3000000\nsystem_usec 2000000\nnr_periods 10\n"
        "nr_throttled 3\nthrottled_usec 4000000\nnr_bursts 1\nburst_usec 1000000\n"
    ),
    "c/cpu.pressure": (
        "some avg10=0.00 avg60=0.00 avg300=0.00 total=6000000\n"
        "full avg10=0.00 avg60=0.00 avg300=0.00 total=7000000\n"
    ),
    "c/memory.current": "1000\n",
    "c/memory.peak": "2000\n",
    "c/memory.stat": (
        "anon 300\nfile 400\nkernel 77\nfile_mapped 50\nactive_file 70\ninactive_file 80\n"
        "pgfault 6\npgmajfault 2\n"
    ),
    "c/memory.events": "low 0\nhigh 0\nmax 7\noom 9\noom_kill 9\n",
    "c/memory.swap.current": "60\n",
    "c/memory.pressure": "some avg10=0 avg60=0 avg300=0 total=8000000\nfull total=9000000\n",
    "c/hugetlb.2MB.current": "2097152\n",
    "c/io.stat": "4000:0 rbytes=4096 wbytes=8192 rios=1 wios=2 dbytes=0 dios=0\n8:16 rbytes=1\n",
    "c/io.pressure": "some total=10000000\nfull total=11000000\n",
    "c/pids.current": "4\n",
    "c/pids.max": "100\n",
    "c/cgroup.procs": "",
}

PARTITIONS = "major minor  #blocks  name\n\n4000        0   10485760 vda\n"


def write(root: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)


def cgroups_of(root: Path, version: str) -> Cgroups:
    write(root, V1 if version == "v1" else V2)
    if version == "v2":
        return Cgroups(str(root), {})
    return Cgroups(None, {path.name: str(path) for path in root.iterdir()})


@pytest.fixture(params=["v1", "v2"])
def version(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def cgroups(tmp_path: Path, version: str, monkeypatch: pytest.MonkeyPatch) -> Cgroups:
    monkeypatch.setattr("runtime.stats.metrics.page_sizes", lambda: ("2MB", "1GB"))
    monkeypatch.setattr("runtime.stats.metrics._text", _text)
    return cgroups_of(tmp_path / "cgroup", version)


def _text(path: str) -> str:
    if path == "/proc/partitions":
        return PARTITIONS
    return "Limit  Soft  Hard  Units\nMax open files            1024        4096      files\n"


SPEC = types.Spec(
    linux=types.Linux(
        resources=types.LinuxResources(
            cpu=types.LinuxCPU(shares=512, quota=20000, period=100000),
            memory=types.LinuxMemory(limit=1 << 26, reservation=1 << 20, swap=-1),
        )
    )
)


def stats_of(directory: Path, cgroups: Cgroups, **parts: Any) -> Stats:
    """A pod ``app`` with a running and a created container."""
    store = samples.store(directory)
    metadata = api_pb2.PodSandboxMetadata(name="app", namespace="shop")
    samples.sandbox(store, "pod", metadata=metadata)
    samples.sandbox(store, "stopped", state=SandboxState.NOTREADY)
    samples.container(store, "waits", state=ContainerState.CREATED)
    running = samples.container(
        store,
        "runs",
        pid=os.getpid(),
        metadata=api_pb2.ContainerMetadata(name="web"),
        image=api_pb2.ImageSpec(image="sha256:1", user_specified_image="web:1"),
    )
    layer = LayerUsage(timestamp=7, size=4096, inodes=3, root=str(directory))
    given: dict[str, Any] = {
        "images": FakeImages(layer),
        "containers": FakeContainers(SPEC),
        "left_out": pytest.fail,
        **parts,
    }
    stats = Stats(
        store=store,
        handlers=Handlers(Handler("runc")),
        config=Config(),
        cgroups=cgroups,
        **given,
    )
    stats._paths[running.id] = (os.getpid(), "/c")
    return stats


async def listed(stats: Stats) -> api_pb2.PodSandboxMetrics:
    """The metrics of the only ready pod."""
    answer = await stats.list_metrics(api_pb2.ListPodSandboxMetricsRequest())
    (pod,) = answer.pod_metrics
    return pod


async def metric_samples(stats: Stats) -> dict[tuple[str, ...], int]:
    """Name and own labels of each sample of the container, with its value."""
    (container,) = (await listed(stats)).container_metrics
    for metric in container.metrics:
        assert list(metric.label_values[:5]) == ["app", "shop", "web", "runs", "web:1"]
    return {(m.name, *m.label_values[5:]): m.value.value for m in container.metrics}


BOTH = {
    ("container_cpu_usage_seconds_total",): 5,
    ("container_cpu_user_seconds_total",): 3,
    ("container_cpu_system_seconds_total",): 2,
    ("container_cpu_cfs_periods_total",): 10,
    ("container_cpu_cfs_throttled_periods_total",): 3,
    ("container_cpu_cfs_throttled_seconds_total",): 4,
    ("container_cpu_cfs_burst_periods_total",): 1,
    ("container_cpu_cfs_burst_seconds_total",): 1,
    ("container_memory_usage_bytes",): 1000,
    ("container_memory_working_set_bytes",): 920,
    ("container_memory_max_usage_bytes",): 2000,
    ("container_memory_rss",): 300,
    ("container_memory_cache",): 400,
    ("container_memory_kernel_usage",): 77,
    ("container_memory_mapped_file",): 50,
    ("container_memory_swap",): 60,
    ("container_memory_failcnt",): 7,
    ("container_memory_total_active_file_bytes",): 70,
    ("container_memory_total_inactive_file_bytes",): 80,
    ("container_memory_failures_total", "pgfault", "hierarchy"): 6,
    ("container_memory_failures_total", "pgmajfault", "hierarchy"): 2,
    ("container_oom_events_total",): 9,
    ("container_hugetlb_usage_bytes", "2MB"): 2097152,
    ("container_fs_reads_bytes_total", "/dev/vda"): 4096,
    ("container_fs_writes_bytes_total", "/dev/vda"): 8192,
    ("container_fs_reads_total", "/dev/vda"): 1,
    ("container_fs_writes_total", "/dev/vda"): 2,
    ("container_blkio_device_usage_total", "/dev/vda", "4000", "0", "Read"): 4096,
    ("container_blkio_device_usage_total", "/dev/vda", "4000", "0", "Write"): 8192,
    ("container_blkio_device_usage_total", "/dev/vda", "4000", "0", "Discard"): 0,
    ("container_fs_usage_bytes", "/"): 4096,
    ("container_processes",): 0,
    ("container_file_descriptors",): 0,
    ("container_sockets",): 0,
    ("container_threads",): 4,
    ("container_ulimits_soft", "max_open_files"): 1024,
    ("container_spec_cpu_period",): 100000,
    ("container_spec_cpu_quota",): 20000,
    ("container_spec_cpu_shares",): 512,
    ("container_spec_memory_limit_bytes",): 1 << 26,
    ("container_spec_memory_reservation_limit_bytes",): 1 << 20,
}

OWN = {
    "v1": {
        ("container_memory_failures_total", "pgfault", "container"): 5,
        ("container_memory_failures_total", "pgmajfault", "container"): 1,
        ("container_hugetlb_max_usage_bytes", "2MB"): 4194304,
        ("container_blkio_device_usage_total", "/dev/vda", "4000", "0", "Total"): 12288,
        ("container_threads_max",): 0,
    },
    "v2": {
        ("container_memory_failures_total", "pgfault", "container"): 6,
        ("container_memory_failures_total", "pgmajfault", "container"): 2,
        ("container_pressure_cpu_waiting_seconds_total",): 6,
        ("container_pressure_cpu_stalled_seconds_total",): 7,
        ("container_pressure_memory_waiting_seconds_total",): 8,
        ("container_pressure_memory_stalled_seconds_total",): 9,
        ("container_pressure_io_waiting_seconds_total",): 10,
        ("container_pressure_io_stalled_seconds_total",): 11,
        ("container_fs_reads_bytes_total", "8:16"): 1,
        ("container_threads_max",): 100,
    },
}


async def test_every_file_of_the_cgroup_gives_its_metrics(
    tmp_path: Path, cgroups: Cgroups, version: str
) -> None:
    found = await metric_samples(stats_of(tmp_path, cgroups))
    wanted = BOTH | OWN[version]
    assert {key: found.get(key) for key in wanted} == wanted
    # "no limit" is no value, and a removed disk has no name
    assert ("container_spec_memory_swap_limit_bytes",) not in found
    now = found[("container_last_seen",)]
    assert now > 1_600_000_000, "whole seconds since the epoch"
    assert found[("container_fs_limit_bytes", "/")] > 0


async def test_what_does_not_exist_has_no_sample(tmp_path: Path, version: str) -> None:
    root = tmp_path / "cgroup"
    cgroups = cgroups_of(root, version)
    for path in root.rglob("*"):
        if path.is_file() and path.name != "cgroup.procs":
            path.unlink()
    parts = {"images": FakeImages(None), "containers": FakeContainers(Unavailable("away"))}
    found = await metric_samples(stats_of(tmp_path, cgroups, **parts))
    assert {name for name, *_ in found} == {
        *("container_processes", "container_file_descriptors", "container_sockets"),
        *("container_ulimits_soft", "container_last_seen", "container_start_time_seconds"),
    }


async def test_samples_fit_their_descriptors(tmp_path: Path, cgroups: Cgroups) -> None:
    """The kubelet fails the whole scrape for two samples of the same labels."""
    stats = stats_of(tmp_path, cgroups)
    answer = await stats.list_metric_descriptors(api_pb2.ListMetricDescriptorsRequest())
    known = {d.name: list(d.label_keys) for d in answer.descriptors}
    assert all(descriptor.help for descriptor in answer.descriptors)
    assert set(known) >= CADVISOR
    assert len(known) == len(answer.descriptors) == 60
    pod = await listed(stats)
    every = [*pod.metrics, *(m for c in pod.container_metrics for m in c.metrics)]
    for metric in every:
        assert len(metric.label_values) == len(known[metric.name]), metric.name
        assert metric.timestamp > 1_600_000_000_000_000_000
    twice = Counter((m.name, *m.label_values) for m in every).most_common(1)
    assert twice[0][1] == 1


def test_every_metric_has_a_source() -> None:
    """Each name of the descriptors gets a value somewhere, on one of the cgroup versions."""
    text = Path(metrics.__file__).read_text()
    for descriptor in metrics.DESCRIPTORS:
        assert text.count(f'"{descriptor.name}"') > 1, descriptor.name


async def test_the_layer_of_a_new_container_is_measured(tmp_path: Path, cgroups: Cgroups) -> None:
    layer = LayerUsage(timestamp=7, size=8192, inodes=3, root=str(tmp_path))
    found = await metric_samples(stats_of(tmp_path, cgroups, images=FakeImages(None, layer)))
    assert found[("container_fs_usage_bytes", "/")] == 8192


async def test_a_container_that_has_just_ended_is_left_out(
    tmp_path: Path, cgroups: Cgroups
) -> None:
    stats = stats_of(tmp_path, cgroups)
    stats._paths["runs"] = (os.getpid(), "/removed")
    assert not (await listed(stats)).container_metrics


async def test_a_cgroup_that_cannot_be_read_is_counted(
    tmp_path: Path, cgroups: Cgroups, monkeypatch: pytest.MonkeyPatch
) -> None:
    counted: list[str] = []
    stats = stats_of(tmp_path, cgroups, left_out=counted.append)

    def broken(*_: object) -> None:
        raise PermissionError(13, "x")

    monkeypatch.setattr(Cgroups, "texts", broken)
    assert not (await listed(stats)).container_metrics
    assert counted == ["cgroup"]


async def test_a_pods_interfaces_have_their_traffic(
    tmp_path: Path, cgroups: Cgroups, monkeypatch: pytest.MonkeyPatch
) -> None:
    stats = stats_of(tmp_path, cgroups)
    both = [Interface(name, 1, 2, 3, 4, 5, 6, 7, 8) for name in ("eth0", "net1")]
    monkeypatch.setattr(Stats, "_interfaces", lambda self, pod: both)
    pod = await listed(stats)
    assert len(pod.metrics) == 16
    found = {(m.name, m.label_values[5]): m.value.value for m in pod.metrics}
    assert found[("container_network_receive_bytes_total", "eth0")] == 1
    assert found[("container_network_receive_packets_dropped_total", "net1")] == 4
    assert found[("container_network_transmit_packets_total", "net1")] == 6
    assert list(pod.metrics[0].label_values) == ["app", "shop", "", "pod", "", "eth0"]


def test_processes_of_cgroups_below_count(tmp_path: Path) -> None:
    write(tmp_path, {"c/cgroup.procs": "1\n2\n", "c/init.scope/cgroup.procs": "3\n"})
    assert sorted(Cgroups(str(tmp_path), {}).processes("/c")) == [1, 2, 3]
    with pytest.raises(FileNotFoundError):
        Cgroups(str(tmp_path), {}).processes("/removed")


def test_open_sockets_are_counted() -> None:
    from runtime.stats.metrics import _processes

    before = _processes([os.getpid()], os.getpid())
    read, write_end = os.pipe()
    import socket

    with socket.socket():
        after = _processes([os.getpid(), 1 << 30], 0)
    os.close(read)
    os.close(write_end)
    assert after.descriptors == before.descriptors + 3
    assert after.sockets == before.sockets + 1
    assert before.open_files_limit
    assert after.open_files_limit is None, "a process that has exited has no limits"


def test_page_sizes_are_named_as_in_cgroup_files(tmp_path: Path) -> None:
    for name in ("hugepages-2048kB", "hugepages-1048576kB", "hugepages-64kB"):
        (tmp_path / name).mkdir()
    assert set(page_sizes(str(tmp_path))) == {"2MB", "1GB", "64KB"}
    assert page_sizes(str(tmp_path / "none")) == ()
    assert cgroups_module._page_size(16 << 20) == "16GB"


@pytest.mark.parametrize("text", ["", "\n", "max\n", "half", None])
def test_a_value_that_is_not_a_number_is_unset(text: str | None) -> None:
    assert reading.number(text) is None
    assert reading.keyed("key\nother half") == {}
    assert reading.pressure("some total=\n\nfull") == {}
    assert reading.devices("8:0\n8:1 rbytes=x\nTotal 3\n", {}) == {
        reading.Device("8:0", "8", "0"): {},
        reading.Device("8:1", "8", "1"): {},
    }
