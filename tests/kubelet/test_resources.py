"""Limits of containers and pods, and CPUs that the kubelet assigns, as the kernel has them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.harness.kubelet import Kubelet, Pod, container, container_status, pod, wait_until

from .conftest import BUSYBOX

SLEEP = "sleep 1000"
# the shell itself grows, so that the container's first process is killed
GROW = "x=aaaaaaaaaaaaaaaa; while :; do x=$x$x; done"


def numbers(cgroups: list[Path], *names: str) -> list[int]:
    """The values of a file, by its names in cgroup v1 and v2, where a cgroup has it."""
    files = [cgroup / name for cgroup in cgroups for name in names]
    return [int(file.read_text()) for file in files if file.exists()]


def memory_limits(cgroups: list[Path]) -> list[int]:
    return numbers(cgroups, "memory.max", "memory.limit_in_bytes")


def test_limits_of_a_container(kubelet: Kubelet) -> None:
    resources = {
        "requests": {"cpu": "100m", "memory": "32Mi"},
        "limits": {"cpu": "500m", "memory": "64Mi"},
    }
    app = kubelet.run(pod(container(BUSYBOX, SLEEP, resources=resources)))
    assert container_status(app.ready())["resources"]["limits"] == resources["limits"]
    named = f"*{app.container_id()}*"
    own = [path for cgroup in kubelet.pod_cgroups(app.uid) for path in cgroup.glob(named)]
    assert memory_limits(own) == [64 << 20]


def test_limits_of_a_pod(kubelet: Kubelet) -> None:
    limits = {"limits": {"cpu": "300m", "memory": "48Mi"}}
    two = (container(BUSYBOX, SLEEP), container(BUSYBOX, SLEEP, "other"))
    app = kubelet.run(pod(*two, resources=limits))
    app.ready()
    assert memory_limits(kubelet.pod_cgroups(app.uid)) == [48 << 20]


@pytest.mark.parametrize("whose", ["container", "pod"])
def test_what_exceeds_its_limit_is_oomkilled(kubelet: Kubelet, whose: str) -> None:
    limits = {"resources": {"limits": {"cpu": "500m", "memory": "16Mi"}}}
    of_container, of_pod = (limits, {}) if whose == "container" else ({}, limits)
    manifest = pod(container(BUSYBOX, GROW), restartPolicy="Never")
    manifest["spec"] |= of_pod
    manifest["spec"]["containers"][0] |= of_container
    ended = container_status(kubelet.run(manifest).ended())["state"]["terminated"]
    assert (ended["reason"], ended["exitCode"]) == ("OOMKilled", 137)


@pytest.fixture
def assigning(session_kubelet: Kubelet) -> Iterator[Kubelet]:
    """The kubelet while it assigns whole CPUs, and keeps the first for itself and all others."""
    session_kubelet.restart(
        cpuManagerPolicy="static", reservedSystemCPUs="0", cpuManagerReconcilePeriod="1s"
    )
    yield session_kubelet
    session_kubelet.remove_pods()
    session_kubelet.restart()


def test_a_pod_has_a_cpu_for_itself(assigning: Kubelet) -> None:
    """The others are taken off it by UpdateContainerResources while they run."""

    def cpus(app: Pod) -> set[int]:
        line = app.run("grep", "Cpus_allowed_list", "/proc/self/status").split(":")[1]
        ranges = [part.partition("-") for part in line.strip().split(",")]
        return {cpu for a, _, b in ranges for cpu in range(int(a), int(b or a) + 1)}

    everyone = assigning.run(pod(container(BUSYBOX, SLEEP)))
    everyone.ready()
    if len(cpus(everyone)) < 2:
        pytest.skip("the machine has one CPU")
    whole = {"limits": {"cpu": "1", "memory": "32Mi"}}
    guaranteed = assigning.run(pod(container(BUSYBOX, SLEEP, resources=whole)))
    guaranteed.ready()
    (own,) = cpus(guaranteed)
    assert own != 0
    wait_until(lambda: own not in cpus(everyone))
