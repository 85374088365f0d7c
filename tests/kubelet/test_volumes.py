"""What the kubelet mounts into pods, and what the pods see of it."""

from __future__ import annotations

import socket
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.harness.kubelet import (
    Kubelet,
    Manifest,
    container,
    container_status,
    pod,
    wait_until,
    waiting,
)

from .conftest import BUSYBOX, UNREACHABLE

SLEEP = "sleep 1000"


def one_volume(
    script: str, source: Manifest, *, spec: Manifest | None = None, **mount: Any
) -> Manifest:
    """A pod that runs a script once, with one volume at /volume."""
    mounts = [{"name": "volume", "mountPath": "/volume", **mount}]
    return pod(
        container(BUSYBOX, script, volumeMounts=mounts),
        volumes=[{"name": "volume", **source}],
        restartPolicy="Never",
        **(spec or {}),
    )


def host(path: Path, kind: str = "") -> Manifest:
    return {"hostPath": {"path": str(path), "type": kind}}


def test_containers_share_an_empty_directory(kubelet: Kubelet) -> None:
    share: Manifest = {"volumeMounts": [{"name": "volume", "mountPath": "/volume"}]}
    app = kubelet.run(
        pod(
            container(BUSYBOX, "until cat /volume/word; do sleep 0.1; done", **share),
            container(
                BUSYBOX, "echo shared > /volume/.w && mv /volume/.w /volume/word", "writer", **share
            ),
            volumes=[{"name": "volume", "emptyDir": {}}],
            restartPolicy="Never",
        )
    )
    assert app.output().endswith("shared\n")


def test_an_empty_directory_in_memory_has_its_size(kubelet: Kubelet) -> None:
    source = {"emptyDir": {"medium": "Memory", "sizeLimit": "3Mi"}}
    script = (
        "grep ' /volume ' /proc/mounts; head -c 2097152 /dev/zero > /volume/fits && echo fits;"
        " head -c 4194304 /dev/zero 2>/dev/null > /volume/big || echo full"
    )
    output = kubelet.run(one_volume(script, source)).output()
    assert "tmpfs /volume tmpfs rw" in output
    assert "size=3072k" in output
    assert output.endswith("fits\nfull\n")


def test_an_empty_directory_survives_its_container(kubelet: Kubelet) -> None:
    script = "cat /volume/before && exit 0; echo kept > /volume/before; exit 1"
    manifest = one_volume(script, {"emptyDir": {}})
    manifest["spec"]["restartPolicy"] = "OnFailure"
    assert kubelet.run(manifest).output().endswith("kept\n")


def test_a_directory_of_the_host(kubelet: Kubelet) -> None:
    (kubelet.share / "read").write_text("from the host\n")
    script = "cat /volume/read; echo from the pod > /volume/written"
    app = kubelet.run(one_volume(script, host(kubelet.share, "Directory")))
    assert app.output() == "from the host\n"
    assert (kubelet.share / "written").read_text() == "from the pod\n"


def test_a_file_of_the_host(kubelet: Kubelet) -> None:
    (kubelet.share / "one-file").write_text("a file\n")
    app = kubelet.run(one_volume("cat /volume", host(kubelet.share / "one-file", "File")))
    assert app.output() == "a file\n"


@pytest.mark.parametrize(
    ("kind", "script"),
    [
        ("DirectoryOrCreate", "echo made > /volume/file"),
        ("FileOrCreate", "[ ! -s /volume ] && echo made > /volume"),
        ("CharDevice", "[ -c /volume ] && echo lost > /volume && cat /volume"),
        ("Socket", "[ -S /volume ]"),
    ],
)
def test_other_kinds_of_host_paths(kubelet: Kubelet, kind: str, script: str) -> None:
    path = Path("/dev/null") if kind == "CharDevice" else kubelet.share / kind
    with socket.socket(socket.AF_UNIX) as listening:
        if kind == "Socket":
            listening.bind(str(path))
        assert kubelet.run(one_volume(script, host(path, kind))).output() == ""
    if kind.endswith("OrCreate"):
        assert (path if path.is_file() else path / "file").read_text() == "made\n"


def test_a_read_only_volume_cannot_be_written(kubelet: Kubelet) -> None:
    script = "touch /volume/x 2>&1; true"
    app = kubelet.run(one_volume(script, host(kubelet.share), readOnly=True))
    assert "Read-only file system" in app.output()


@pytest.fixture
def mounted(kubelet: Kubelet) -> Path:
    """A directory of the host, below the shared one, that a tmpfs will be mounted on."""
    path = kubelet.share / "mounted"
    path.mkdir(exist_ok=True)
    return path


def test_read_only_alone_does_not_reach_mounts_below(kubelet: Kubelet, mounted: Path) -> None:
    """A kubelet without an API server knows no runtime class, so none with recursive read-only."""
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", mounted], check=True)
    try:
        script = "touch /volume/x 2>&1; touch /volume/mounted/x && echo written"
        app = kubelet.run(one_volume(script, host(kubelet.share), readOnly=True))
        output = app.output()
        assert "Read-only file system" in output
        assert output.endswith("written\n")
    finally:
        subprocess.run(["umount", mounted], check=True)


@pytest.mark.parametrize("propagation", ["None", "HostToContainer", "Bidirectional"])
def test_mounts_of_the_host_reach_the_container(
    kubelet: Kubelet, mounted: Path, propagation: str
) -> None:
    mounts = [{"name": "v", "mountPath": "/volume", "mountPropagation": propagation}]
    context = {"privileged": propagation == "Bidirectional"}
    app = kubelet.run(
        pod(
            container(BUSYBOX, SLEEP, volumeMounts=mounts, securityContext=context),
            volumes=[{"name": "v", **host(kubelet.share)}],
        )
    )
    app.ready()
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", mounted], check=True)
    try:
        (mounted / "late").touch()
        assert ("late" in app.run("ls", "/volume/mounted")) == (propagation != "None")
    finally:
        subprocess.run(["umount", mounted], check=True)


def test_a_container_mounts_on_the_host(kubelet: Kubelet, mounted: Path) -> None:
    mounts = [{"name": "v", "mountPath": "/volume", "mountPropagation": "Bidirectional"}]
    script = f"mount -t tmpfs tmpfs /volume/mounted && touch /volume/mounted/by-pod; {SLEEP}"
    app = kubelet.run(
        pod(
            container(BUSYBOX, script, volumeMounts=mounts, securityContext={"privileged": True}),
            volumes=[{"name": "v", **host(kubelet.share)}],
        )
    )
    app.ready()
    try:
        wait_until(lambda: (mounted / "by-pod").exists())
    finally:
        subprocess.run(["umount", mounted], check=True)


def test_a_sub_path_is_only_that_part(kubelet: Kubelet) -> None:
    (kubelet.share / "part").mkdir(exist_ok=True)
    (kubelet.share / "part" / "inside").touch()
    app = kubelet.run(one_volume("ls /volume", host(kubelet.share), subPath="part"))
    assert app.output() == "inside\n"


def test_a_sub_path_that_is_a_file(kubelet: Kubelet) -> None:
    (kubelet.share / "settings").write_text("from a file\n")
    app = kubelet.run(one_volume("cat /volume", host(kubelet.share), subPath="settings"))
    assert app.output() == "from a file\n"


def test_a_sub_path_survives_its_container(kubelet: Kubelet) -> None:
    script = "cat /volume/before && exit 0; echo kept > /volume/before; exit 1"
    manifest = one_volume(script, {"emptyDir": {}}, subPath="made/by/the/kubelet")
    manifest["spec"]["restartPolicy"] = "OnFailure"
    assert kubelet.run(manifest).output() == "kept\n"


def test_a_sub_path_with_a_variable_of_the_environment(kubelet: Kubelet) -> None:
    mounts = [{"name": "volume", "mountPath": "/volume", "subPathExpr": "of-$(WHO)"}]
    name = {"fieldRef": {"fieldPath": "metadata.namespace"}}
    manifest = pod(
        container(
            BUSYBOX,
            "echo mine > /volume/file",
            volumeMounts=mounts,
            env=[{"name": "WHO", "valueFrom": name}],
        ),
        volumes=[{"name": "volume", **host(kubelet.share)}],
        restartPolicy="Never",
    )
    kubelet.run(manifest).output()
    assert (kubelet.share / "of-default" / "file").read_text() == "mine\n"


def test_the_downward_api_as_a_volume_and_in_the_environment(kubelet: Kubelet) -> None:
    items = [
        {"path": "labels", "fieldRef": {"fieldPath": "metadata.labels"}},
        {
            "path": "memory",
            "resourceFieldRef": {"containerName": "app", "resource": "limits.memory"},
        },
    ]
    manifest = one_volume(
        "cat /volume/labels; echo; cat /volume/memory; echo; echo $POD_IP $CPU",
        {"downwardAPI": {"items": items}},
        spec={"labels": {"colour": "blue"}},
    )
    app = manifest["spec"]["containers"][0]
    app["resources"] = {"limits": {"memory": "32Mi", "cpu": "250m"}}
    app["env"] = [
        {"name": "POD_IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}},
        {
            "name": "CPU",
            "valueFrom": {"resourceFieldRef": {"resource": "limits.cpu", "divisor": "1m"}},
        },
    ]
    running = kubelet.run(manifest)
    lines = running.output().splitlines()
    assert lines == ['colour="blue"', str(32 << 20), f"{running.status()['podIP']} 250"]


def test_what_the_kubelet_writes_for_the_pod(kubelet: Kubelet) -> None:
    app = kubelet.run(
        pod(
            container(BUSYBOX, "cat /etc/hosts /etc/resolv.conf; hostname; hostname -f"),
            hostAliases=[{"ip": "192.0.2.7", "hostnames": ["alias.example"]}],
            hostname="web",
            subdomain="sub",
            dnsPolicy="None",
            dnsConfig={
                "nameservers": ["192.0.2.53"],
                "searches": ["svc.example"],
                "options": [{"name": "ndots", "value": "3"}],
            },
            restartPolicy="Never",
        )
    )
    output = app.output()
    assert "192.0.2.7\talias.example" in output
    assert "nameserver 192.0.2.53\n" in output
    assert "search svc.example\n" in output
    assert "options ndots:3\n" in output
    assert "\nweb\n" in output


def image(reference: str) -> Manifest:
    return {"image": {"reference": reference, "pullPolicy": "IfNotPresent"}}


def test_an_image_as_a_volume(kubelet: Kubelet) -> None:
    app = kubelet.run(one_volume("ls /volume/etc; touch /volume/x 2>&1; true", image(BUSYBOX)))
    output = app.output()
    assert "group\npasswd\n" in output
    assert "Read-only file system" in output


def test_a_sub_path_of_an_image(kubelet: Kubelet) -> None:
    app = kubelet.run(one_volume("ls /volume", image(BUSYBOX), subPath="etc"))
    assert app.output() == "group\npasswd\n"


def test_an_image_volume_that_cannot_be_mounted_says_why(kubelet: Kubelet) -> None:
    """The kubelet counts what begins with a word that it knows."""
    errors = "kubelet_image_volume_mounted_errors_total"
    before = kubelet.metric(errors)
    app = kubelet.run(one_volume("true", image(BUSYBOX), subPath="no/such/directory"))
    status = app.wait(lambda status: waiting(status) == "CreateContainerError")
    message = container_status(status)["state"]["waiting"]["message"]
    assert message.startswith("ImageVolumeMountFailed: ")
    assert "'no/such/directory'" in message
    assert kubelet.metric(errors) > before


def test_an_image_volume_whose_registry_is_down_says_so(kubelet: Kubelet) -> None:
    app = kubelet.run(one_volume("true", image(f"{UNREACHABLE}/data:1")))
    app.wait(lambda status: waiting(status) == "RegistryUnavailable")
