"""Restarts of the kubelet and of our server, under running pods."""

from __future__ import annotations

import signal

import pytest

from tests.harness.kubelet import (
    Kubelet,
    Pod,
    condition,
    container,
    container_status,
    pod,
    wait_until,
)

from .conftest import BUSYBOX, until

TICK = "n=0; while :; do n=$((n+1)); echo $n; sleep 0.2; done"


def running(kubelet: Kubelet) -> Pod:
    """A pod that counts, with a probe."""
    probe = {"exec": {"command": ["true"]}, "periodSeconds": 1}
    app = kubelet.run(
        pod(container(BUSYBOX, TICK, readinessProbe=probe), terminationGracePeriodSeconds=0)
    )
    app.ready()
    return app


def untouched(app: Pod, identity: str) -> None:
    """The same container still runs, and none of what it wrote is missing."""
    status = app.ready()
    assert app.container_id() == identity
    assert container_status(status)["restartCount"] == 0
    seen = len(app.logs().splitlines())
    wait_until(lambda: len(app.logs().splitlines()) > seen + 2)
    written = [int(line) for line in app.logs().splitlines()]
    assert written == list(range(1, len(written) + 1))


def test_a_restart_of_the_kubelet_leaves_pods_alone(kubelet: Kubelet) -> None:
    app = running(kubelet)
    identity = app.container_id()
    kubelet.stop()
    kubelet.start()
    untouched(app, identity)


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL], ids=lambda how: how.name)
def test_a_restart_of_the_server_leaves_pods_alone(kubelet: Kubelet, how: signal.Signals) -> None:
    app = running(kubelet)
    identity = app.container_id()
    kubelet.node.stop(how)
    kubelet.node.start()
    untouched(app, identity)


def test_a_restarted_server_restarts_and_ends_the_containers_of_running_pods(
    kubelet: Kubelet,
) -> None:
    """In the namespaces of the pod, and with the grace period that its container needs."""
    links = "for kind in net ipc uts pid; do readlink /proc/self/ns/$kind; done"
    script = f"trap 'sleep 1; exit 3' TERM; {links}; sleep 1000 & wait"
    other = container(BUSYBOX, "sleep 1000", "other")
    app = kubelet.run(
        pod(
            container(BUSYBOX, script),
            other,
            shareProcessNamespace=True,
            terminationGracePeriodSeconds=20,
        )
    )
    app.ready()
    wait_until(lambda: len(app.logs().splitlines()) == 4)
    before, identity = app.logs(), app.container_id()
    kubelet.node.stop()
    kubelet.node.start()
    kubelet.node.cri.stop(identity, 20)
    app.wait(lambda s: container_status(s).get("restartCount") == 1)
    assert kubelet.node.cri.status(identity).exit_code == 3
    wait_until(lambda: app.logs() == before)
    again = app.container_id()
    app.remove()
    app.stopped()
    assert kubelet.node.cri.status(again).exit_code == 3


def test_what_ended_while_the_kubelet_was_away_is_seen(kubelet: Kubelet) -> None:
    share = [{"name": "share", "mountPath": "/share"}]
    script = f"{until('/share/away')}; exit 7"
    app = kubelet.run(
        pod(
            container(BUSYBOX, script, volumeMounts=share),
            volumes=[{"name": "share", "hostPath": {"path": str(kubelet.share)}}],
            restartPolicy="Never",
        )
    )
    app.ready()
    identity = app.container_id()
    kubelet.stop()
    (kubelet.share / "away").touch()
    wait_until(lambda: kubelet.node.cri.status(identity).finished_at)
    kubelet.start()
    status = app.ended()
    assert container_status(status)["state"]["terminated"]["exitCode"] == 7


def test_a_pod_that_was_removed_while_the_kubelet_was_away_is_ended(kubelet: Kubelet) -> None:
    app = running(kubelet)
    kubelet.stop()
    app.remove()
    kubelet.start()
    app.stopped()


def test_a_killed_sandbox_is_replaced(kubelet: Kubelet) -> None:
    app = running(kubelet)
    (sandbox,) = kubelet.sandbox_ids(app.uid)
    kubelet.node.cri.stop_pod(sandbox)
    status = app.wait(lambda s: container_status(s).get("restartCount", 0) == 1)
    assert status["phase"] == "Running"
    app.wait(lambda s: condition(s, "Ready") == "True")
    assert len(kubelet.sandbox_ids(app.uid)) == 2
