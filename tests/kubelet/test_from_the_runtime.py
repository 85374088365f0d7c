"""What a kubelet takes from the runtime if its feature gates say so: events instead of lists."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.harness.kubelet import Kubelet, container, container_status, pod, wait_until

from .conftest import BUSYBOX

GATES = {"EventedPLEG": True}


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
    listed = kubelet.log().count("GenericPLEG: Relisting")
    app = kubelet.run(
        pod(
            container(BUSYBOX, "sleep 2; exit 3", "ends"),
            container(BUSYBOX, "sleep 1000", "stays"),
            restartPolicy="Never",
        )
    )
    app.ready()
    status = app.wait(
        lambda s: container_status(s, "ends")["state"].get("terminated", {}), seconds=8
    )
    assert container_status(status, "ends")["state"]["terminated"]["exitCode"] == 3
    app.remove()
    app.stopped()
    wait_until(lambda: not app.status())
    assert kubelet.metric("kubelet_evented_pleg_connection_error_count") == 0
    assert "Fall back to Generic PLEG" not in kubelet.log()
    assert kubelet.log().count("GenericPLEG: Relisting") <= listed + 1


def test_a_kubelet_whose_server_restarted_lists_again(kubelet: Kubelet) -> None:
    """It gives events up, as its five attempts to subscribe again take no time."""
    wait_until(lambda: connections(kubelet) >= 1)
    kubelet.node.stop()
    wait_until(lambda: "Fall back to Generic PLEG" in kubelet.log())
    kubelet.node.start()
    app = kubelet.run(pod(container(BUSYBOX, "sleep 1; exit 4"), restartPolicy="Never"))
    assert container_status(app.ended(20))["state"]["terminated"]["exitCode"] == 4
