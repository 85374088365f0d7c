"""Cgroups, devices, annotations, labels, signals and statuses."""

from __future__ import annotations

import signal
from typing import Any

import pytest

from generated.cri import api_pb2
from generated.lifecycle import ContainerState
from generated.oci import types
from runtime.errors import InvalidArgument
from runtime.transforms import annotations as passed_annotations
from runtime.transforms import cgroups, devices, labels, sandboxes, signals, status
from runtime.transforms.facts import DeviceNode


@pytest.mark.parametrize(
    ("parent", "systemd", "expected"),
    [
        ("/kubepods/pod1", False, "/kubepods/pod1/id"),
        ("kubepods/pod1", False, "/kubepods/pod1/id"),
        ("", False, "/k8s.io/id"),
        ("/", False, "/id"),
        ("/kubepods.slice/kubepods-pod1.slice", True, "kubepods-pod1.slice:cri-containerd:id"),
        ("kubepods-pod1.slice", False, "kubepods-pod1.slice:cri-containerd:id"),
        ("", True, "system.slice:cri-containerd:id"),
        ("/kubepods.slice/kubepods-pod1.slice/", True, "kubepods-pod1.slice:cri-containerd:id"),
        ("/kubepods/pod1/", False, "/kubepods/pod1/id"),
        ("/kubepods/..pod", False, "/kubepods/..pod/id"),
    ],
)
def test_cgroups_path(parent: str, systemd: bool, expected: str) -> None:
    found = cgroups.cgroups_path(cgroup_parent=parent, id="id", systemd_cgroup=systemd)
    assert found == expected


@pytest.mark.parametrize(
    "parent",
    [
        "/kubepods/" + "x" * 256,
        "/" + "pod/" * 1000,
        "x" * 250 + ".slice",
        "-".join(["x"] * 125) + ".slice",  # its directory has the total length of all its prefixes
    ],
)
@pytest.mark.parametrize("systemd", [True, False])
def test_a_cgroup_that_the_kernel_cannot_create_is_refused(parent: str, systemd: bool) -> None:
    with pytest.raises(InvalidArgument, match=r"cgroup_parent: must (be a path|have names) of"):
        cgroups.cgroups_path(cgroup_parent=parent, id="id", systemd_cgroup=systemd)


@pytest.mark.parametrize("parent", ["..", "/a/../../b", "/../a.slice", "a/.."])
def test_a_cgroup_above_the_parent_is_refused(parent: str) -> None:
    with pytest.raises(InvalidArgument, match=r"cgroup_parent: must not contain"):
        cgroups.cgroups_path(cgroup_parent=parent, id="id", systemd_cgroup=False)


def test_a_kubelet_with_the_other_cgroup_driver_is_refused() -> None:
    with pytest.raises(InvalidArgument, match=r"cgroup_parent: must end in \.slice.*SystemdCgroup"):
        cgroups.cgroups_path(cgroup_parent="/kubepods/pod1", id="id", systemd_cgroup=True)


FUSE = types.LinuxDevice(path="/dev/fuse", type="c", major=10, minor=229, uid=0, gid=0)
KVM = types.LinuxDevice(path="/dev/kvm", type="c", major=10, minor=232)
NODE = DeviceNode(FUSE)


def build_devices(**changes: Any) -> list[types.LinuxDevice]:
    given: dict[str, Any] = {
        "requested": [NODE],
        "host_devices": [KVM],
        "privileged": False,
        "privileged_without_host_devices": False,
        "device_ownership_from_security_context": False,
        "run_as_user": 1000,
        "run_as_group": None,
        "injected": (),
        "uid": 0,
        "gid": 0,
        "base": (),
        "pod_userns_mode": None,
    }
    return devices.container_devices(**(given | changes))


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, [FUSE]),
        ({"privileged": True}, [KVM, FUSE]),
        ({"privileged": True, "privileged_without_host_devices": True}, [FUSE]),
        ({"privileged": True, "requested": [DeviceNode(KVM)]}, [KVM]),
    ],
)
def test_container_devices(changes: dict[str, Any], expected: list[types.LinuxDevice]) -> None:
    assert build_devices(**changes) == expected


def test_in_a_user_namespace_a_device_of_another_path_is_mounted() -> None:
    nodes = [
        DeviceNode(FUSE, "/dev/fuse"),
        DeviceNode(KVM, "/dev/host-kvm"),
    ]
    assert build_devices(requested=nodes) == [FUSE, KVM]
    assert build_devices(requested=nodes, pod_userns_mode=api_pb2.POD) == [FUSE]
    (mount,) = devices.device_mounts(nodes, api_pb2.POD)
    assert (mount.source, mount.destination, mount.type) == ("/dev/host-kvm", "/dev/kvm", "bind")
    for mode in (None, api_pb2.NODE):
        assert devices.device_mounts(nodes, mode) == []


def test_devices_can_belong_to_the_containers_user() -> None:
    (found,) = build_devices(device_ownership_from_security_context=True)
    assert (found.uid, found.gid, FUSE.uid) == (1000, 0, 0)


@pytest.mark.parametrize(
    ("privileged", "without", "all_allowed", "everything"),
    [
        (False, False, False, False),
        (True, False, False, True),
        (True, True, False, False),
        (True, True, True, True),
    ],
)
def test_device_rules(privileged: bool, without: bool, all_allowed: bool, everything: bool) -> None:
    found = devices.device_rules(
        devices=[api_pb2.Device(permissions="rw")],
        nodes=[[NODE]],
        privileged=privileged,
        privileged_without_host_devices=without,
        privileged_without_host_devices_all_devices_allowed=all_allowed,
        injected=(),
    )
    own = types.LinuxDeviceCgroup(allow=True, type="c", major=10, minor=229, access="rw")
    every = types.LinuxDeviceCgroup(allow=True, access="rwm")
    assert found == ([every, own] if everything else [own])


@pytest.mark.parametrize("permissions", ["x", "rwx", "RW"])
def test_device_permissions_are_read_write_and_mknod(permissions: str) -> None:
    with pytest.raises(InvalidArgument, match=r"config.devices\[0\].permissions: must consist"):
        devices.device_rules(
            devices=[api_pb2.Device(permissions=permissions)],
            nodes=[[NODE]],
            privileged=False,
            privileged_without_host_devices=False,
            privileged_without_host_devices_all_devices_allowed=False,
            injected=(),
        )


@pytest.mark.parametrize(
    ("pattern", "key", "matches"),
    [
        ("io.katacontainers.*", "io.katacontainers.config.hypervisor", True),
        ("io.katacontainers.*", "io.katacontainers.x/y", False),
        ("example.com/*", "example.com/key", True),
        ("k?y", "key", True),
        ("k[a-f]y", "key", True),
        ("k[^a-f]y", "key", False),
        (r"k\*y", "k*y", True),
        (r"k\*y", "key", False),
        ("k[ey", "k[ey", False),
        ("key\\", "key\\", False),
        ("key", "keys", False),
    ],
)
def test_patterns_are_those_of_path_match(pattern: str, key: str, matches: bool) -> None:
    found = passed_annotations.passed_to_sandbox(annotations={key: "1"}, pod_annotations=[pattern])
    assert (found == {key: "1"}) is matches


def test_a_containers_annotation_wins_over_its_pods() -> None:
    found = passed_annotations.passed_to_container(
        annotations={"a": "container", "b": "container"},
        container_annotations=["a"],
        of_pod={"a": "pod", "b": "pod", "c": "pod"},
        pod_annotations=["a", "b"],
    )
    assert found == {"a": "container", "b": "pod"}


def test_labels_of_an_image_cannot_control_the_server() -> None:
    found = labels.container_labels(
        labels={"app": "x", labels.KIND: "sandbox"},
        image_labels={
            "app": "image",
            "maintainer": "me",
            "containerd.io/gc.root": "1",
            "io.cri-containerd.image": "managed",
            "long": "x" * 4093,
        },
    )
    assert found == {"maintainer": "me", "app": "x", labels.KIND: "container"}


def test_a_label_that_containerd_would_refuse_is_refused() -> None:
    with pytest.raises(InvalidArgument, match=r"config\.labels\[key\]: .*4096"):
        labels.sandbox_labels(labels={"key": "x" * 4094}, image_labels={})
    with pytest.raises(InvalidArgument, match=r"config\.labels: a label must have a key"):
        labels.container_labels(labels={"": "x"}, image_labels={})
    assert labels.sandbox_labels(labels={}, image_labels={"": "x"}) == {labels.KIND: "sandbox"}


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("SIGTERM", 15),
        ("term", 15),
        ("9", 9),
        ("SIGRTMIN", int(signal.SIGRTMIN)),
        ("RTMIN+3", int(signal.SIGRTMIN) + 3),
        ("SIGRTMAX-1", int(signal.SIGRTMAX) - 1),
    ],
)
def test_signal_numbers(name: str, expected: int) -> None:
    assert signals.number(name) == expected


@pytest.mark.parametrize("name", ["", "0", "65", "SIGNOPE", "SIGRTMIN+99", "SIG_DFL", "-1", "²"])
def test_an_invalid_signal_is_refused(name: str) -> None:
    with pytest.raises(InvalidArgument, match="is not a signal"):
        signals.number(name)


@pytest.mark.parametrize(
    ("requested", "from_image", "cri", "number"),
    [
        (api_pb2.RUNTIME_DEFAULT, "", api_pb2.SIGTERM, 15),
        (api_pb2.RUNTIME_DEFAULT, "SIGQUIT", api_pb2.SIGQUIT, 3),
        (api_pb2.RUNTIME_DEFAULT, "17", api_pb2.SIGCHLD, 17),
        (api_pb2.RUNTIME_DEFAULT, "SIGRTMIN+3", api_pb2.SIGRTMINPLUS3, 37),
        (api_pb2.RUNTIME_DEFAULT, "SIGNOPE", api_pb2.SIGTERM, 15),
        (api_pb2.RUNTIME_DEFAULT, "33", api_pb2.RUNTIME_DEFAULT, 33),
        (api_pb2.SIGUSR1, "SIGQUIT", api_pb2.SIGUSR1, 10),
        (api_pb2.SIGRTMAXMINUS1, "", api_pb2.SIGRTMAXMINUS1, 63),
    ],
)
def test_stop_signal(
    requested: api_pb2.Signal, from_image: str, cri: api_pb2.Signal, number: int
) -> None:
    assert status.stop_signal(requested=requested, from_image=from_image) == cri
    assert signals.stop_signal_number(requested=requested, from_image=from_image) == number


@pytest.mark.parametrize(
    ("state", "code", "reason", "expected"),
    [
        (ContainerState.EXITED, 0, "", "Completed"),
        (ContainerState.EXITED, 1, "", "Error"),
        (ContainerState.EXITED, 137, "OOMKilled", "OOMKilled"),
        (ContainerState.RUNNING, 0, "", ""),
        (ContainerState.REMOVING, 0, "", "Completed"),
    ],
)
def test_exit_reason(state: ContainerState, code: int, reason: str, expected: str) -> None:
    assert status.exit_reason(state=state, exit_code=code, reason=reason) == expected


def test_the_image_of_a_status() -> None:
    requested = api_pb2.ImageSpec(image="x", annotations={"a": "b"})
    tagged = api_pb2.ImageSpec(image="a:1", annotations={"a": "b"})
    assert status.image_spec(requested=requested, tags=("a:1", "b:1")) == tagged
    assert status.image_spec(requested=requested, tags=()) == requested
    assert requested.image == "x", "what was received is not changed"
    assert status.image_ref(digests=("a@sha256:2",), image_id="sha256:1") == "a@sha256:2"
    assert status.image_ref(digests=(), image_id="sha256:1") == "sha256:1"


def test_the_files_of_a_pods_names() -> None:
    assert sandboxes.etc_hostname(hostname="pod", node_hostname="node") == "pod\n"
    assert sandboxes.etc_hostname(hostname="", node_hostname="node") == "node\n"
    assert sandboxes.resolv_conf(servers=None, searches=[], options=[]) is None
    assert sandboxes.resolv_conf(servers=[], searches=[], options=[]) == ""
    assert (
        sandboxes.resolv_conf(
            servers=["10.0.0.10", "1.1.1.1"], searches=["a.svc", "b"], options=["ndots:5"]
        )
        == "search a.svc b\nnameserver 10.0.0.10\nnameserver 1.1.1.1\noptions ndots:5\n"
    )


OWN_NAMESPACES: dict[str, api_pb2.NamespaceMode] = {
    "network": api_pb2.POD,
    "pid": api_pb2.POD,
    "ipc": api_pb2.POD,
}
UNTRUSTED = {"io.kubernetes.cri.untrusted-workload": "true"}


@pytest.mark.parametrize(
    ("annotations", "requested", "expected"),
    [
        ({}, "", ""),
        ({}, "kata", "kata"),
        ({"io.kubernetes.cri.untrusted-workload": "false"}, "kata", "kata"),
        (UNTRUSTED, "", "untrusted"),
        (UNTRUSTED, "untrusted", "untrusted"),
    ],
)
def test_an_untrusted_pod_has_a_handler_of_its_own(
    annotations: dict[str, str], requested: str, expected: str
) -> None:
    found = sandboxes.handler_name(requested=requested, annotations=annotations, **OWN_NAMESPACES)
    assert found == expected


def test_an_untrusted_pod_gets_no_other_handler_and_no_namespace_of_the_node() -> None:
    with pytest.raises(
        InvalidArgument, match=r'^runtime_handler: an untrusted pod runs in .* "kata"'
    ):
        sandboxes.handler_name(requested="kata", annotations=UNTRUSTED, **OWN_NAMESPACES)
    for namespace in ("network", "pid", "ipc"):
        modes = OWN_NAMESPACES | {namespace: api_pb2.NODE}
        with pytest.raises(InvalidArgument, match="must not share a namespace of the node"):
            sandboxes.untrusted(annotations=UNTRUSTED, **modes)
