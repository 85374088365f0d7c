"""How pods and containers start, are probed, restart and end."""

from __future__ import annotations

import time

import pytest

from tests.harness.kubelet import (
    Kubelet,
    Manifest,
    condition,
    container,
    container_status,
    pod,
    wait_until,
    waiting,
)

from .conftest import BUSYBOX, UNREACHABLE, until

SLEEP = "sleep 1000"
QUICK = {"periodSeconds": 1, "failureThreshold": 1}
WEB = "mkdir -p /srv && echo fine > /srv/health; httpd -f -p 8080 -h /srv"


def last_end(status: Manifest, name: str = "app") -> Manifest:
    """How the container's previous run ended."""
    found: Manifest = container_status(status, name).get("lastState", {}).get("terminated", {})
    return found


def end(status: Manifest, name: str = "app") -> Manifest:
    """How the container ended for good."""
    found: Manifest = container_status(status, name).get("state", {}).get("terminated", {})
    return found


def restarts(status: Manifest, name: str = "app") -> int:
    return int(container_status(status, name).get("restartCount", 0))


def test_a_static_pod_is_running_and_ready(kubelet: Kubelet) -> None:
    app = kubelet.run(pod(container(BUSYBOX, f"echo hello; {SLEEP}")))
    status = app.ready()
    assert status["phase"] == "Running"
    assert condition(status, "ContainersReady") == "True"
    assert container_status(status)["image"] == BUSYBOX
    assert status["podIP"].startswith(kubelet.node.subnet.rpartition(".")[0])
    assert app.logs() == "hello\n"


def test_a_removed_manifest_ends_the_pod_with_its_disk_and_cgroup(kubelet: Kubelet) -> None:
    app = kubelet.run(pod(container(BUSYBOX, SLEEP)))
    app.ready()
    assert app.directory.exists()
    app.remove()
    app.stopped()
    wait_until(lambda: not app.status() and not app.directory.exists())
    wait_until(lambda: kubelet.pod_cgroups(app.uid) == [])


def test_a_changed_manifest_replaces_the_pod(kubelet: Kubelet) -> None:
    first = kubelet.run(pod(container(BUSYBOX, SLEEP)))
    first.ready()
    second = kubelet.replace(first, pod(container(BUSYBOX, f"echo second; {SLEEP}")))
    second.ready()
    assert second.logs() == "second\n"
    first.stopped()


# Probes


@pytest.mark.parametrize(
    "probe",
    [
        {"exec": {"command": ["cat", "/srv/health"]}},
        {"httpGet": {"path": "/health", "port": 8080}},
        {"tcpSocket": {"port": 8080}},
    ],
    ids=lambda probe: next(iter(probe)),
)
def test_readiness_follows_the_probe(kubelet: Kubelet, probe: Manifest) -> None:
    script = f"{until('/go')}; {WEB}"
    app = kubelet.run(pod(container(BUSYBOX, script, readinessProbe={**probe, **QUICK})))
    assert condition(app.wait(lambda s: s.get("phase") == "Running"), "Ready") == "False"
    app.run("touch", "/go")
    app.ready()


def test_a_pod_is_not_ready_while_its_probe_fails(kubelet: Kubelet) -> None:
    probe = {"exec": {"command": ["test", "!", "-e", "/down"]}, **QUICK}
    app = kubelet.run(pod(container(BUSYBOX, SLEEP, readinessProbe=probe)))
    app.ready()
    app.run("touch", "/down")
    app.wait(lambda status: condition(status, "Ready") == "False")
    app.run("rm", "/down")
    assert restarts(app.ready()) == 0


def test_a_failed_liveness_probe_restarts_the_container(kubelet: Kubelet) -> None:
    probe = {"exec": {"command": ["test", "-e", "/alive"]}, **QUICK}
    script = f"touch /alive; trap 'exit 7' TERM; sleep 1; rm /alive; {SLEEP} & wait"
    app = kubelet.run(pod(container(BUSYBOX, script, livenessProbe=probe)))
    status = app.wait(lambda status: restarts(status) >= 1)
    assert last_end(status)["exitCode"] == 7


def test_an_exec_probe_that_takes_too_long_fails(kubelet: Kubelet) -> None:
    probe = {"exec": {"command": ["sleep", "1000"]}, "timeoutSeconds": 1, **QUICK}
    app = kubelet.run(pod(container(BUSYBOX, SLEEP, livenessProbe=probe)))
    app.wait(lambda status: restarts(status) >= 1)


def test_the_startup_probe_holds_the_others_back(kubelet: Kubelet) -> None:
    app = kubelet.run(
        pod(
            container(
                BUSYBOX,
                f"sleep 2; touch /started; {SLEEP}",
                startupProbe={
                    "exec": {"command": ["test", "-e", "/started"]},
                    "periodSeconds": 1,
                    "failureThreshold": 30,
                },
                livenessProbe={"exec": {"command": ["test", "-e", "/started"]}, **QUICK},
            )
        )
    )
    status = app.ready()
    assert container_status(status)["started"] is True
    assert restarts(status) == 0


# Init containers and sidecars


def test_init_containers_run_one_after_the_other(kubelet: Kubelet) -> None:
    share: Manifest = {"volumeMounts": [{"name": "shared", "mountPath": "/shared"}]}
    app = kubelet.run(
        pod(
            container(BUSYBOX, f"cat /shared/order; {SLEEP}", **share),
            initContainers=[
                container(BUSYBOX, "sleep 1; echo first >> /shared/order", "one", **share),
                container(BUSYBOX, "echo second >> /shared/order", "two", **share),
            ],
            volumes=[{"name": "shared", "emptyDir": {}}],
        )
    )
    status = app.ready()
    assert app.logs() == "first\nsecond\n"
    assert condition(status, "Initialized") == "True"
    assert [end(status, name)["reason"] for name in ("one", "two")] == ["Completed"] * 2


def test_a_failed_init_container_is_tried_again(kubelet: Kubelet) -> None:
    share: Manifest = {"volumeMounts": [{"name": "shared", "mountPath": "/shared"}]}
    tried = "[ -e /shared/tried ] || { touch /shared/tried; exit 3; }"
    app = kubelet.run(
        pod(
            container(BUSYBOX, SLEEP),
            initContainers=[container(BUSYBOX, tried, "init", **share)],
            volumes=[{"name": "shared", "emptyDir": {}}],
        )
    )
    status = app.ready()
    assert restarts(status, "init") == 1
    assert end(status, "init")["exitCode"] == 0


def test_a_failed_init_container_fails_a_pod_that_never_restarts(kubelet: Kubelet) -> None:
    app = kubelet.run(
        pod(
            container(BUSYBOX, SLEEP),
            initContainers=[container(BUSYBOX, "exit 4", "init")],
            restartPolicy="Never",
        )
    )
    status = app.ended()
    assert status["phase"] == "Failed"
    assert end(status, "init")["exitCode"] == 4
    assert waiting(status) == "PodInitializing"


def test_a_sidecar_starts_first_restarts_and_ends_last(kubelet: Kubelet) -> None:
    share: Manifest = {"volumeMounts": [{"name": "shared", "mountPath": "/shared"}]}
    sidecar = (
        "echo sidecar >> /shared/order; [ -e /shared/again ] || { touch /shared/again; exit 5; };"
        f" trap 'echo sidecar ends >> /shared/order; exit 0' TERM; {SLEEP} & wait"
    )
    app = kubelet.run(
        pod(
            container(
                BUSYBOX,
                f"echo app >> /shared/order; {until('/shared/go')}; echo app ends >> /shared/order",
                **share,
            ),
            initContainers=[
                container(
                    BUSYBOX,
                    sidecar,
                    "sidecar",
                    restartPolicy="Always",
                    startupProbe={
                        "exec": {"command": ["test", "-e", "/shared/again"]},
                        "periodSeconds": 1,
                    },
                    **share,
                )
            ],
            volumes=[{"name": "shared", "emptyDir": {}}],
            restartPolicy="Never",
            terminationGracePeriodSeconds=5,
        )
    )
    order = app.directory / "volumes" / "kubernetes.io~empty-dir" / "shared" / "order"
    status = app.wait(lambda s: condition(s, "Ready") == "True" and restarts(s, "sidecar") == 1)
    assert last_end(status, "sidecar")["exitCode"] == 5
    (order.parent / "go").touch()
    status = app.ended()
    assert status["phase"] == "Succeeded"
    lines = order.read_text().splitlines()
    assert lines[0] == "sidecar"
    assert lines[-2:] == ["app ends", "sidecar ends"]
    assert lines.count("sidecar") == 2


# Restart policies


@pytest.mark.parametrize(
    ("policy", "code", "phase"),
    [
        ("Never", 0, "Succeeded"),
        ("Never", 42, "Failed"),
        ("OnFailure", 0, "Succeeded"),
    ],
)
def test_a_pod_that_ends_says_how(kubelet: Kubelet, policy: str, code: int, phase: str) -> None:
    status = kubelet.run(pod(container(BUSYBOX, f"exit {code}"), restartPolicy=policy)).ended()
    assert status["phase"] == phase
    assert end(status)["exitCode"] == code
    assert end(status)["reason"] == ("Completed" if code == 0 else "Error")


@pytest.mark.parametrize(("policy", "code"), [("Always", 0), ("OnFailure", 9)])
def test_a_container_is_restarted(kubelet: Kubelet, policy: str, code: int) -> None:
    app = kubelet.run(pod(container(BUSYBOX, f"sleep 1; exit {code}"), restartPolicy=policy))
    status = app.wait(lambda status: restarts(status) >= 2)
    assert last_end(status)["exitCode"] == code


def test_a_container_killed_by_a_signal_says_128_and_its_number(kubelet: Kubelet) -> None:
    # without a PID namespace of its own, as the kernel spares the first process of one
    crash = container(BUSYBOX, "sh -c 'kill -SEGV $PPID'; sleep 10")
    app = kubelet.run(pod(crash, restartPolicy="Never", shareProcessNamespace=True))
    assert end(app.ended())["exitCode"] == 139


def test_a_restart_rule_restarts_for_its_exit_code_only(kubelet: Kubelet) -> None:
    share: Manifest = {"volumeMounts": [{"name": "shared", "mountPath": "/shared"}]}
    rule = {"action": "Restart", "exitCodes": {"operator": "In", "values": [42]}}
    app = kubelet.run(
        pod(
            container(
                BUSYBOX,
                "[ -e /shared/tried ] && exit 1; touch /shared/tried; exit 42",
                restartPolicy="Never",
                restartPolicyRules=[rule],
                **share,
            ),
            volumes=[{"name": "shared", "emptyDir": {}}],
            restartPolicy="Never",
        )
    )
    status = app.ended()
    assert (restarts(status), end(status)["exitCode"]) == (1, 1)


def test_an_active_deadline_ends_the_pod(kubelet: Kubelet) -> None:
    app = kubelet.run(
        pod(container(BUSYBOX, SLEEP), restartPolicy="Never", activeDeadlineSeconds=2)
    )
    status = app.wait(lambda status: status.get("phase") == "Failed")
    assert status["reason"] == "DeadlineExceeded"
    app.stopped()


def test_a_command_that_does_not_exist_is_said(kubelet: Kubelet) -> None:
    missing = {"name": "app", "image": BUSYBOX, "command": ["/no/such/program"]}
    app = kubelet.run(pod(missing))
    status = app.wait(lambda s: last_end(s) or end(s))
    ended = last_end(status) or end(status)
    assert ended["exitCode"] == 128
    assert ended["reason"] in ("StartError", "ContainerCannotRun")
    assert "/no/such/program" in ended["message"]


# Messages, hooks and grace


def test_the_termination_message_is_what_the_container_wrote(kubelet: Kubelet) -> None:
    app = kubelet.run(
        pod(container(BUSYBOX, "echo -n done > /dev/termination-log"), restartPolicy="Never")
    )
    assert end(app.ended())["message"] == "done"


def test_without_a_message_the_end_of_the_log_is_taken(kubelet: Kubelet) -> None:
    app = kubelet.run(
        pod(
            container(
                BUSYBOX,
                "echo the last words; exit 1",
                terminationMessagePolicy="FallbackToLogsOnError",
            ),
            restartPolicy="Never",
        )
    )
    assert end(app.ended())["message"] == "the last words\n"


def test_sigterm_comes_first_and_sigkill_after_the_grace_period(kubelet: Kubelet) -> None:
    share: Manifest = {"volumeMounts": [{"name": "out", "mountPath": "/out"}]}
    script = "trap 'date +%s >> /out/term' TERM; echo up; while :; do sleep 0.1; done"
    app = kubelet.run(
        pod(
            container(BUSYBOX, script, **share),
            volumes=[{"name": "out", "hostPath": {"path": str(kubelet.share)}}],
            terminationGracePeriodSeconds=3,
        )
    )
    app.ready()
    wait_until(lambda: app.logs() == "up\n")
    identity = app.container_id()
    app.remove()
    app.stopped()
    terminated = [int(line) for line in (kubelet.share / "term").read_text().split()]
    status = kubelet.node.cri.status(identity)
    assert len(terminated) == 1
    assert 2 <= status.finished_at / 1e9 - terminated[0] <= 20
    assert status.exit_code == 137


def test_prestop_hooks_run_before_sigterm(kubelet: Kubelet) -> None:
    share: Manifest = {"volumeMounts": [{"name": "out", "mountPath": "/out"}]}
    file = "/out/hooks"
    order = kubelet.share / "hooks"
    app = kubelet.run(
        pod(
            container(
                BUSYBOX,
                f"trap 'echo term >> {file}; exit 0' TERM; echo up; {SLEEP} & wait",
                lifecycle={
                    "postStart": {"exec": {"command": ["sh", "-c", f"echo start >> {file}"]}},
                    "preStop": {"exec": {"command": ["sh", "-c", f"sleep 1; echo stop >> {file}"]}},
                },
                **share,
            ),
            volumes=[{"name": "out", "hostPath": {"path": str(kubelet.share)}}],
            terminationGracePeriodSeconds=10,
        )
    )
    app.ready()
    wait_until(lambda: app.logs() == "up\n")
    app.remove()
    app.stopped()
    assert order.read_text().split() == ["start", "stop", "term"]


def test_a_failed_poststart_hook_ends_the_container(kubelet: Kubelet) -> None:
    hook = {"postStart": {"exec": {"command": ["sh", "-c", "exit 6"]}}}
    app = kubelet.run(pod(container(BUSYBOX, SLEEP, lifecycle=hook)))
    app.wait(lambda status: restarts(status) >= 1 or waiting(status) == "PostStartHookError")


def test_a_prestop_sleep_delays_the_end(kubelet: Kubelet) -> None:
    app = kubelet.run(
        pod(
            container(
                BUSYBOX,
                f"trap 'exit 0' TERM; {SLEEP} & wait",
                lifecycle={"preStop": {"sleep": {"seconds": 2}}},
            ),
            terminationGracePeriodSeconds=10,
        )
    )
    app.ready()
    identity = app.container_id()
    app.remove()
    began = time.time()
    app.stopped()
    took = kubelet.node.cri.status(identity).finished_at / 1e9 - began
    assert took >= 1.5


# Images


def test_a_registry_that_is_down_is_said_as_such(kubelet: Kubelet) -> None:
    app = kubelet.run(pod(container(f"{UNREACHABLE}/app:1", SLEEP)))
    status = app.wait(lambda status: waiting(status) == "RegistryUnavailable")
    message = container_status(status)["state"]["waiting"]["message"]
    assert "because the registry is unavailable: " in message
    assert UNREACHABLE in message


def test_an_image_that_does_not_exist_is_a_failed_pull(kubelet: Kubelet) -> None:
    image = BUSYBOX.replace("busybox", "nothing")
    app = kubelet.run(pod(container(image, SLEEP)))
    status = app.wait(lambda status: waiting(status) == "ErrImagePull")
    assert image in container_status(status)["state"]["waiting"]["message"]
    app.wait(lambda status: waiting(status) == "ImagePullBackOff")


def test_an_image_that_may_not_be_pulled_is_said(kubelet: Kubelet) -> None:
    image = BUSYBOX.replace("busybox", "nothing")
    app = kubelet.run(pod(container(image, SLEEP, imagePullPolicy="Never")))
    app.wait(lambda status: waiting(status) == "ErrImageNeverPull")


def test_an_image_is_pulled_with_every_start_if_asked(kubelet: Kubelet) -> None:
    app = kubelet.run(pod(container(BUSYBOX, SLEEP, imagePullPolicy="Always")))
    digest = container_status(app.ready())["imageID"]
    assert digest.startswith(f"{BUSYBOX.rpartition(':')[0]}@sha256:")


# Many


def test_twenty_pods_at_once(kubelet: Kubelet) -> None:
    probe = {"exec": {"command": ["true"]}, **QUICK}
    pods = [
        kubelet.run(
            pod(
                container(BUSYBOX, f"echo {number}; {SLEEP}", readinessProbe=probe),
                terminationGracePeriodSeconds=0,
            )
        )
        for number in range(20)
    ]
    addresses = {one.ready()["podIP"] for one in pods}
    assert len(addresses) == 20
    assert [one.logs() for one in pods] == [f"{number}\n" for number in range(20)]
    assert all(restarts(one.status()) == 0 for one in pods)
    for one in pods:
        one.remove()
    for one in pods:
        one.stopped()
