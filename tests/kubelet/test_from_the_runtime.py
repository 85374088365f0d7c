"""What newer kubelets ask of a runtime once feature gates say so: events, statistics, metrics."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from generated.cri import api_pb2
from tests.harness.kubelet import Kubelet, container, container_status, pod, wait_until

from .conftest import BUSY, BUSYBOX, busy, until

GATES = {
    "EventedPLEG": True,
    "PodAndContainerStatsFromCRI": True,
    "ContainerStopSignals": True,
    "CRIListStreaming": True,
    "UserNamespacesHostNetworkSupport": True,
    "NodeDeclaredFeatures": True,  # which it depends on
}


@pytest.fixture(scope="module", autouse=True)
def gates(session_kubelet: Kubelet) -> Iterator[None]:
    session_kubelet.restart(featureGates=GATES)
    yield
    session_kubelet.restart()


def connections(kubelet: Kubelet) -> float:
    return kubelet.metric("kubelet_evented_pleg_connection_success_count")


def test_pods_change_by_events(kubelet: Kubelet) -> None:
    """With events, the kubelet itself looks every five minutes only."""
    wait_until(lambda: connections(kubelet) >= 1)
    # a kubelet lists once when it starts; with pods of earlier tests that takes a while
    wait_until(lambda: kubelet.metric("kubelet_pleg_relist_duration_seconds_count") >= 1)
    listed = kubelet.metric("kubelet_pleg_relist_duration_seconds_count")
    app = kubelet.run(
        pod(
            container(BUSYBOX, f"{until('/go')}; exit 3", "ends"),
            container(BUSYBOX, "sleep 1000", "stays"),
            restartPolicy="Never",
        )
    )
    app.ready()
    app.run("touch", "/go", container="ends")
    status = app.wait(lambda s: container_status(s, "ends")["state"].get("terminated", {}))
    assert container_status(status, "ends")["state"]["terminated"]["exitCode"] == 3
    app.remove()
    app.stopped()
    wait_until(lambda: not app.status())
    assert kubelet.metric("kubelet_evented_pleg_connection_error_count") == 0
    assert "Fall back to Generic PLEG" not in kubelet.log()
    assert kubelet.metric("kubelet_pleg_relist_duration_seconds_count") == listed


def test_a_container_gets_its_own_stop_signal(kubelet: Kubelet) -> None:
    app = kubelet.run(
        pod(
            container(
                BUSYBOX,
                "trap 'exit 5' USR1; echo up; sleep 1000 & wait",
                lifecycle={"stopSignal": "SIGUSR1"},
            ),
            terminationGracePeriodSeconds=20,
            os={"name": "linux"},
        )
    )
    assert container_status(app.ready())["stopSignal"] == "SIGUSR1"
    wait_until(lambda: app.logs() == "up\n")
    identity = app.container_id()
    app.remove()
    app.stopped()
    assert kubelet.node.cri.status(identity).exit_code == 5


def test_the_summary_is_the_runtimes(kubelet: Kubelet) -> None:
    app = kubelet.run(busy())
    app.ready()
    wait_until(lambda: lacking(kubelet.pod_stats(app)) == [])


def lacking(stats: dict[str, object]) -> list[str]:
    """What the summary of a busy pod with one container does not say."""
    found = json_paths(stats)
    expected = (
        *("cpu.usageNanoCores", "cpu.usageCoreNanoSeconds"),
        *("memory.workingSetBytes", "memory.usageBytes", "memory.rssBytes", "memory.pageFaults"),
        *("network.rxBytes", "network.txBytes", "process_stats.process_count"),
        *("containers.0.cpu.usageNanoCores", "containers.0.cpu.usageCoreNanoSeconds"),
        *("containers.0.memory.workingSetBytes", "containers.0.memory.availableBytes"),
        *("containers.0.rootfs.usedBytes", "containers.0.rootfs.inodesUsed"),
        *("containers.0.logs.capacityBytes", "ephemeral-storage.usedBytes"),
    )
    return [path for path in expected if not found.get(path)]


def json_paths(value: object, prefix: str = "") -> dict[str, object]:
    """Every scalar in a JSON value, by its path."""
    if isinstance(value, dict):
        items: list[tuple[object, object]] = list(value.items())
    elif isinstance(value, list):
        items = list(enumerate(value))
    else:
        return {prefix.rstrip("."): value}
    return {k: v for key, one in items for k, v in json_paths(one, f"{prefix}{key}.").items()}


def test_cadvisor_metrics_are_the_runtimes(kubelet: Kubelet) -> None:
    app = kubelet.run(
        pod(
            container(BUSYBOX, BUSY, resources={"limits": {"cpu": "500m", "memory": "32Mi"}}),
            terminationGracePeriodSeconds=0,
        )
    )
    app.ready()
    wait_until(lambda: kubelet.cadvisor(app, "container_cpu_usage_seconds_total", container="app"))
    for metric in (
        *("container_memory_working_set_bytes", "container_memory_usage_bytes"),
        *("container_spec_memory_limit_bytes", "container_spec_cpu_shares"),
        *("container_cpu_cfs_throttled_periods_total", "container_processes"),
        *("container_oom_events_total", "container_start_time_seconds"),
    ):
        assert kubelet.cadvisor(app, metric, container="app"), metric
    assert kubelet.cadvisor(app, "container_network_receive_bytes_total", interface="eth0")
    limit = kubelet.cadvisor(app, "container_spec_memory_limit_bytes", container="app")
    assert float(limit.split("} ")[1].split()[0]) == 32 << 20
    # all that the runtime described could be served
    assert "Error getting CRI prometheus metric" not in kubelet.log()
    assert "Failed to get pod metrics" not in kubelet.log()


def test_a_user_namespace_on_the_hosts_network(kubelet: Kubelet) -> None:
    if not kubelet.node.cri.runtime.Status(
        api_pb2.StatusRequest()
    ).features.user_namespaces_host_network:
        pytest.skip("the runtime has no user namespaces on the node's network here")
    script = "readlink /proc/self/ns/net; cat /proc/self/uid_map"
    app = kubelet.run(
        pod(container(BUSYBOX, script), restartPolicy="Never", hostNetwork=True, hostUsers=False)
    )
    network, uid_map = app.output().splitlines()
    inside, outside, length = map(int, uid_map.split())
    assert network == os.readlink("/proc/self/ns/net")
    assert (inside, length) == (0, 65536) and outside > 0


def test_a_kubelet_whose_server_restarted_lists_again(kubelet: Kubelet) -> None:
    """It gives events up, as its five attempts to subscribe again take a few milliseconds."""
    wait_until(lambda: connections(kubelet) >= 1)
    kubelet.node.stop()
    wait_until(lambda: "Fall back to Generic PLEG" in kubelet.log())
    kubelet.node.start()
    app = kubelet.run(pod(container(BUSYBOX, "sleep 1; exit 4"), restartPolicy="Never"))
    assert container_status(app.ended())["state"]["terminated"]["exitCode"] == 4
