"""What the kubelet serves of running pods: logs, statistics and metrics."""

from __future__ import annotations

import re

import pytest

from tests.harness.kubelet import Kubelet, Manifest, container, pod, wait_until

from .conftest import BUSY, BUSYBOX, busy, until


def test_logs_by_lines_time_and_bytes(kubelet: Kubelet) -> None:
    script = "for n in 1 2 3; do echo line $n; done; sleep 0.3; echo wrong >&2; sleep 1000"
    app = kubelet.run(pod(container(BUSYBOX, script)))
    app.ready()
    wait_until(lambda: len(app.logs().splitlines()) == 4)
    assert app.logs(tailLines=2) == "line 3\nwrong\n"
    assert app.logs(limitBytes=6) == "line 1"
    assert re.match(
        r"20\d\d-\d\d-\d\dT[0-9:.]+(Z|[+-]\d\d:\d\d) line 1\n", app.logs(timestamps="true")
    )


def test_the_log_of_the_previous_run(kubelet: Kubelet) -> None:
    share: Manifest = {"volumeMounts": [{"name": "v", "mountPath": "/v"}]}
    script = "[ -e /v/x ] && { echo second; sleep 1000; }; touch /v/x; echo first; exit 1"
    app = kubelet.run(
        pod(container(BUSYBOX, script, **share), volumes=[{"name": "v", "emptyDir": {}}])
    )
    wait_until(lambda: app.status().get("phase") == "Running" and app.logs() == "second\n")
    assert app.logs(previous="true") == "first\n"


def test_a_log_is_followed(kubelet: Kubelet) -> None:
    script = f"echo first; {until('/go')}; echo last"
    app = kubelet.run(pod(container(BUSYBOX, script), restartPolicy="Never"))
    app.ready()
    with kubelet.opened(app.logs_path(), follow="true") as log:
        assert log.readline() == b"first\n"
        app.run("touch", "/go")
        assert log.read() == b"last\n"


def test_a_long_log_is_rotated(kubelet: Kubelet) -> None:
    script = "i=0; while [ $i -lt 4000 ]; do echo $i of a log that grows; i=$((i+1)); done; sleep 4"
    app = kubelet.run(pod(container(BUSYBOX, f"while :; do {script}; done")))
    app.ready()
    folder = kubelet.node.logs / f"default_{app.name}_{app.uid}" / "app"
    wait_until(lambda: list(folder.glob("0.log.*")))
    # the container writes into the new file
    wait_until(lambda: (folder / "0.log").exists() and (folder / "0.log").stat().st_size > 0)


def test_the_summary_has_usage_of_pod_and_container(kubelet: Kubelet) -> None:
    app = kubelet.run(busy())
    app.ready()

    def measured() -> bool:
        stats = kubelet.pod_stats(app)
        (usage,) = stats.get("containers") or [{}]
        return bool(
            usage.get("cpu", {}).get("usageCoreNanoSeconds", 0) > 10**8
            and usage.get("memory", {}).get("workingSetBytes")
            and usage.get("rootfs", {}).get("usedBytes", 0) >= 1 << 20
            and stats.get("memory", {}).get("workingSetBytes")
            and stats.get("network", {}).get("interfaces")
            and stats.get("process_stats", {}).get("process_count") == 1
        )

    try:
        wait_until(measured)
    except AssertionError:
        pytest.fail(f"the summary lacks something: {kubelet.pod_stats(app)}")


def test_cadvisor_metrics_name_the_pods_containers(kubelet: Kubelet) -> None:
    app = kubelet.run(
        pod(
            container(BUSYBOX, BUSY, resources={"limits": {"cpu": "100m"}}),
            terminationGracePeriodSeconds=0,
        )
    )
    app.ready()

    wait_until(lambda: kubelet.cadvisor(app, "container_cpu_usage_seconds_total", container="app"))
    memory = "container_memory_working_set_bytes"
    assert kubelet.cadvisor(app, memory, container="app", image=BUSYBOX)
    assert kubelet.cadvisor(app, "container_network_receive_bytes_total", interface="eth0")


def test_resource_metrics(kubelet: Kubelet) -> None:
    app = kubelet.run(pod(container(BUSYBOX, "sleep 1000")))
    app.ready()
    label = f'pod="{app.name}"'

    def served() -> bool:
        text = kubelet.get("/metrics/resource").decode()
        lines = [x for x in text.splitlines() if label in x]
        names = {x.partition("{")[0] for x in lines}
        return names >= {
            *("container_cpu_usage_seconds_total", "container_memory_working_set_bytes"),
            *("pod_cpu_usage_seconds_total", "pod_memory_working_set_bytes"),
            "container_start_time_seconds",
        }

    wait_until(served)


def test_no_call_that_a_kubelet_makes_all_the_time_failed(kubelet: Kubelet) -> None:
    text = kubelet.get("/metrics").decode()
    failed = set(
        re.findall(r'^kubelet_runtime_operations_errors_total\{operation_type="(\w+)"', text, re.M)
    )
    assert not failed & {"status", "list_podsandbox", "list_containers", "list_images"}
