"""Security contexts and namespaces of pods, as a process inside sees them."""

from __future__ import annotations

import os
import socket
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from tests.harness.kubelet import Kubelet, Manifest, container, container_status, pod, wait_until
from tests.harness.registry import free_port

from .conftest import BUSYBOX

SLEEP = "sleep 1000"


def once(script: str, context: Manifest | None = None, **spec: Any) -> Manifest:
    """A pod that runs a script once; ``context`` is its container's security context."""
    app = container(BUSYBOX, script, securityContext=context or {})
    return pod(app, restartPolicy="Never", **spec)


def process_status(kubelet: Kubelet, context: Manifest | None = None, **spec: Any) -> Manifest:
    """The lines of /proc/self/status in such a container."""
    output = kubelet.run(once("cat /proc/self/status", context, **spec)).output()
    return {key: value.strip() for key, _, value in (x.partition(":") for x in output.split("\n"))}


def test_user_and_groups(kubelet: Kubelet) -> None:
    status = process_status(
        kubelet,
        {"runAsGroup": 2002},
        securityContext={"runAsUser": 1001, "supplementalGroups": [3003]},
    )
    assert status["Uid"].split() == ["1001"] * 4
    assert status["Gid"].split() == ["2002"] * 4
    assert set(status["Groups"].split()) >= {"3003"}


@pytest.mark.parametrize(("policy", "groups"), [("Merge", {"33", "1234"}), ("Strict", {"33"})])
def test_groups_of_the_image_are_merged_or_not(
    kubelet: Kubelet, policy: str, groups: set[str]
) -> None:
    app = kubelet.run(
        once("id -G", securityContext={"runAsUser": 33, "supplementalGroupsPolicy": policy})
    )
    assert set(app.output().split()) == groups


def test_a_volume_belongs_to_the_pods_group(kubelet: Kubelet) -> None:
    manifest = once(
        "id -G; stat -c '%g %a' /volume; touch /volume/file && stat -c %g /volume/file",
        {"runAsUser": 1001},
        securityContext={"fsGroup": 4004},
        volumes=[{"name": "v", "emptyDir": {}}],
    )
    manifest["spec"]["containers"][0]["volumeMounts"] = [{"name": "v", "mountPath": "/volume"}]
    ids, volume, file = kubelet.run(manifest).output().splitlines()
    assert "4004" in ids.split()
    assert volume == "4004 2777"
    assert file == "4004"


def test_root_is_refused_where_the_pod_must_not_be_root(kubelet: Kubelet) -> None:
    app = kubelet.run(once(SLEEP, {"runAsNonRoot": True}))
    status = app.wait(lambda s: container_status(s).get("state", {}).get("waiting"))
    app.wait(
        lambda s: container_status(s)["state"]["waiting"]["reason"] == "CreateContainerConfigError"
    )
    assert status["phase"] == "Pending"


def test_the_root_file_system_is_read_only(kubelet: Kubelet) -> None:
    app = kubelet.run(once("touch /x 2>&1; true", {"readOnlyRootFilesystem": True}))
    assert "Read-only file system" in app.output()


def test_capabilities_are_added_and_dropped(kubelet: Kubelet) -> None:
    def effective(**capabilities: list[str]) -> int:
        return int(process_status(kubelet, {"capabilities": capabilities})["CapEff"], 16)

    assert effective(drop=["ALL"]) == 0
    assert effective(drop=["ALL"], add=["NET_BIND_SERVICE"]) == 1 << 10
    assert effective(add=["SYS_TIME"]) & 1 << 25
    assert not effective() & 1 << 25


def test_privileged(kubelet: Kubelet) -> None:
    app = kubelet.run(
        once(
            "cat /proc/self/status; ls /dev/kmsg; touch /proc/sys/kernel/x 2>&1; true",
            {"privileged": True},
        )
    )
    output = app.output()
    own = int(Path("/proc/self/status").read_text().partition("CapEff:")[2].split()[0], 16)
    assert f"CapEff:\t{own:016x}" in output
    assert "/dev/kmsg" in output
    assert "Seccomp:\t0" in output


@pytest.mark.parametrize(("kind", "mode"), [("RuntimeDefault", "2"), ("Unconfined", "0")])
def test_seccomp(kubelet: Kubelet, kind: str, mode: str) -> None:
    assert process_status(kubelet, {"seccompProfile": {"type": kind}})["Seccomp"] == mode


def test_a_seccomp_profile_of_the_node(kubelet: Kubelet) -> None:
    folder = kubelet.root / "seccomp"
    folder.mkdir(exist_ok=True)
    (folder / "no-mkdir.json").write_text(
        '{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["mkdir", "mkdirat"],'
        ' "action": "SCMP_ACT_ERRNO"}]}'
    )
    profile = {"type": "Localhost", "localhostProfile": "no-mkdir.json"}
    app = kubelet.run(once("mkdir /tmp/x 2>&1; true", {"seccompProfile": profile}))
    assert "Operation not permitted" in app.output()


def test_no_new_privileges(kubelet: Kubelet) -> None:
    assert process_status(kubelet, {"allowPrivilegeEscalation": False})["NoNewPrivs"] == "1"


def test_sysctls(kubelet: Kubelet) -> None:
    sysctls = [{"name": "net.ipv4.ip_local_port_range", "value": "2000 3000"}]
    app = kubelet.run(
        once("cat /proc/sys/net/ipv4/ip_local_port_range", securityContext={"sysctls": sysctls})
    )
    assert app.output().split() == ["2000", "3000"]


# Namespaces


def test_the_hosts_network(kubelet: Kubelet) -> None:
    app = kubelet.run(once("hostname; readlink /proc/self/ns/net", hostNetwork=True))
    host, namespace = app.output().splitlines()
    assert host == socket.gethostname()
    assert namespace == os.readlink("/proc/self/ns/net")


def test_the_hosts_processes(kubelet: Kubelet) -> None:
    script = f"tr '\\0' ' ' < /proc/{kubelet.process.pid}/cmdline"
    assert "kubelet" in kubelet.run(once(script, hostPID=True)).output()


def test_the_hosts_ipc(kubelet: Kubelet) -> None:
    output = kubelet.run(once("readlink /proc/self/ns/ipc", hostIPC=True)).output()
    assert output.strip() == os.readlink("/proc/self/ns/ipc")


def test_containers_share_a_process_namespace_if_asked(kubelet: Kubelet) -> None:
    for shared in (True, False):
        app = kubelet.run(
            pod(
                container(BUSYBOX, SLEEP),
                container(BUSYBOX, "sleep 1001", "other"),
                shareProcessNamespace=shared,
            )
        )
        app.ready()
        assert ("sleep 1001" in app.run("ps")) is shared


def test_containers_share_network_and_ipc(kubelet: Kubelet) -> None:
    links = "for kind in net ipc uts; do readlink /proc/self/ns/$kind; done"
    app = kubelet.run(
        pod(
            container(BUSYBOX, links),
            container(BUSYBOX, links, "other"),
            restartPolicy="Never",
        )
    )
    first = app.output()
    assert app.logs("other") == first
    assert first.splitlines()[0] != os.readlink("/proc/self/ns/net")


def test_a_port_of_the_host(kubelet: Kubelet) -> None:
    port = free_port()
    script = "mkdir /srv; echo served > /srv/index.html; exec httpd -f -p 8080 -h /srv"
    app = kubelet.run(
        pod(container(BUSYBOX, script, ports=[{"containerPort": 8080, "hostPort": port}]))
    )
    app.ready()
    address = f"{kubelet.node.subnet.rpartition('.')[0]}.1"

    def served() -> bool:
        try:
            with urllib.request.urlopen(f"http://{address}:{port}/", timeout=2) as answer:
                return bool(answer.read() == b"served\n")
        except OSError:
            return False

    wait_until(served)


def test_the_proc_file_system_is_masked(kubelet: Kubelet) -> None:
    script = "grep ' /proc/sys ' /proc/mounts; touch /proc/sys/kernel/domainname 2>&1; true"
    output = kubelet.run(once(script)).output()
    assert output.startswith("proc /proc/sys proc ro,")
    assert "Read-only file system" in output


@pytest.mark.parametrize("unmasked", [False, True])
def test_a_user_namespace(kubelet: Kubelet, unmasked: bool) -> None:
    if not kubelet.supports("user_namespaces"):
        pytest.skip("the runtime handler has no user namespaces here")
    manifest = once(
        "cat /proc/self/uid_map; touch /file; stat -c %u /file /volume;"
        " grep -c ' /proc/' /proc/mounts; true",
        {"procMount": "Unmasked"} if unmasked else None,
        hostUsers=False,
        volumes=[{"name": "v", "emptyDir": {}}],
    )
    manifest["spec"]["containers"][0]["volumeMounts"] = [{"name": "v", "mountPath": "/volume"}]
    uid_map, file, volume, masks = kubelet.run(manifest).output().splitlines()
    inside, outside, length = map(int, uid_map.split())
    assert (inside, length) == (0, 65536)
    assert outside % 65536 == 0 and outside > 0
    assert (file, volume) == ("0", "0")
    assert (int(masks) == 0) is unmasked


def test_volumes_in_a_user_namespace_keep_their_owners(kubelet: Kubelet) -> None:
    if not kubelet.supports("user_namespaces"):
        pytest.skip("the runtime handler has no user namespaces here")
    (kubelet.share / "owned").touch()
    os.chown(kubelet.share / "owned", 1001, 1002)
    manifest = once(
        "stat -c %u:%g /host/owned /image/etc/passwd; touch /host/written /memory/x; id -G;"
        " stat -c %u:%g /memory/x",
        hostUsers=False,
        securityContext={"fsGroup": 4004},
        volumes=[
            {"name": "host", "hostPath": {"path": str(kubelet.share)}},
            {"name": "image", "image": {"reference": BUSYBOX, "pullPolicy": "IfNotPresent"}},
            {"name": "memory", "emptyDir": {"medium": "Memory"}},
        ],
    )
    names = ("host", "image", "memory")
    manifest["spec"]["containers"][0]["volumeMounts"] = [
        {"name": name, "mountPath": f"/{name}"} for name in names
    ]
    owned, of_image, groups, made = kubelet.run(manifest).output().splitlines()
    assert (owned, of_image, made) == ("1001:1002", "0:0", "0:4004")
    assert "4004" in groups.split()
    written = (kubelet.share / "written").stat()
    assert (written.st_uid, written.st_gid) == (0, 0)


def test_containers_restart_in_their_user_namespace(kubelet: Kubelet) -> None:
    if not kubelet.supports("user_namespaces"):
        pytest.skip("the runtime handler has no user namespaces here")
    script = "trap 'exit 3' TERM; cat /proc/self/uid_map; sleep 1000 & wait"
    app = kubelet.run(pod(container(BUSYBOX, script), hostUsers=False))
    app.ready()
    wait_until(lambda: app.logs())
    first = app.logs()
    assert app.run("id", "-u") == "0\n"
    kubelet.node.cri.stop(app.container_id(), 20)
    status = app.wait(lambda s: container_status(s)["restartCount"] == 1)
    assert container_status(status)["lastState"]["terminated"]["exitCode"] == 3
    wait_until(lambda: app.logs())
    assert app.logs() == first
