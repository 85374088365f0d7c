"""What the kubelet removes by itself, once a minute; last, so that little of it is left to wait."""

from __future__ import annotations

from generated.cri import api_pb2
from tests.harness.kubelet import Kubelet, container, container_status, pod, wait_until

from .conftest import BUSYBOX


def test_the_kubelet_removes_what_ended(kubelet: Kubelet) -> None:
    restarting = kubelet.run(pod(container(BUSYBOX, "exit 1"), terminationGracePeriodSeconds=0))
    restarting.wait(lambda s: container_status(s).get("restartCount", 0) >= 3)
    removed = kubelet.run(pod(container(BUSYBOX, "sleep 1000")))
    removed.ready()
    removed.remove()
    removed.stopped()

    def containers(uid: str) -> int:
        labels = {"io.kubernetes.pod.uid": uid}
        request = api_pb2.ListContainersRequest(
            filter=api_pb2.ContainerFilter(label_selector=labels)
        )
        return len(kubelet.node.cri.runtime.ListContainers(request).containers)

    # the last run of a container stays for its log
    wait_until(lambda: not kubelet.sandbox_ids(removed.uid))
    wait_until(lambda: containers(restarting.uid) <= 3)
    assert containers(removed.uid) == 0


def test_the_server_and_the_kubelet_met_no_fault_of_the_server(kubelet: Kubelet) -> None:
    assert "Traceback" not in kubelet.node.log()
    assert "code = Internal" not in kubelet.log()
    assert "code = Unimplemented" not in kubelet.log()
