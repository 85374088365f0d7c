"""The mounts of a container: place, order and options."""

from __future__ import annotations

from typing import Any

import grpc
import pytest

from generated.cri import api_pb2
from generated.items import mount as mount_items
from generated.oci import types
from runtime.errors import CriError, InvalidArgument
from runtime.transforms import mounts
from runtime.transforms.facts import Handler, MountSource, SandboxFiles, Volume
from tests.oci_specs import FILES

PRIVATE = api_pb2.PROPAGATION_PRIVATE
FROM_HOST = api_pb2.PROPAGATION_HOST_TO_CONTAINER
BOTH_WAYS = api_pb2.PROPAGATION_BIDIRECTIONAL


def mount(path: str = "/data", **fields: Any) -> api_pb2.Mount:
    return api_pb2.Mount(container_path=path, host_path="/host" + path, **fields)


def build(
    *requested: api_pb2.Mount,
    source: MountSource | None = None,
    volumes: tuple[Volume, ...] = (),
    files: SandboxFiles = SandboxFiles(),  # noqa: B008 (a frozen value)
    **changes: Any,
) -> list[types.Mount]:
    given: dict[str, Any] = {
        "readonly_rootfs": False,
        "privileged": False,
        "pod_network": api_pb2.POD,
        "pod_userns_mode": None,
        "pod_uids": (),
        "pod_gids": (),
        "cgroup_unified": True,
        "cgroup_mount_options": ("nsdelegate",),
        "injected": (),
        "devices": (),
        "injected_devices": (),
        "base": None,
    }
    of_handler: dict[str, Any] = {
        "recursive_read_only": True,
        "user_namespaces_problem": "",
        "cgroup_writable": False,
    }
    of_handler |= {name: changes.pop(name) for name in list(changes) if name in of_handler}
    return mounts.container_mounts(
        requested=requested,
        sources=[source or MountSource(one.host_path) for one in requested],
        volumes=volumes,
        files=files,
        handler=Handler("h", **of_handler),
        **(given | changes),
    )


def options(found: list[types.Mount], destination: str) -> list[str]:
    return next(one.options for one in found if one.destination == destination)


def places(found: list[types.Mount]) -> list[str]:
    return [one.destination for one in found]


DEFAULTS = ["/proc", "/dev", "/dev/pts", "/dev/shm", "/dev/mqueue", "/sys", "/sys/fs/cgroup"]


@pytest.mark.parametrize(
    ("requested", "expected"),
    [
        pytest.param([], DEFAULTS, id="the default spec's"),
        pytest.param(
            [mount("/a/b/c"), mount("/a")], [*DEFAULTS, "/a", "/a/b/c"], id="deeper comes later"
        ),
        pytest.param([mount("/b"), mount("/a")], [*DEFAULTS, "/b", "/a"], id="else as asked for"),
        pytest.param(
            [mount("/dev/shm/")],
            [p for p in DEFAULTS if p != "/dev/shm"] + ["/dev/shm/"],
            id="a default replaced",
        ),
        pytest.param(
            [mount("/dev")], ["/proc", "/sys", "/sys/fs/cgroup", "/dev"], id="all of /dev replaced"
        ),
    ],
)
def test_order(requested: list[api_pb2.Mount], expected: list[str]) -> None:
    assert places(build(*requested)) == expected


def test_requested_mounts_replace_the_pods_files_and_volumes() -> None:
    found = build(mount("/etc/hosts"), files=FILES, volumes=(Volume("/var/lib/x", "/volumes/1"),))
    ours = found[len(DEFAULTS) - 1 :]
    assert [(one.destination, one.source) for one in ours] == [
        ("/etc/hosts", "/host/etc/hosts"),
        ("/etc/hostname", "/root-dir/hostname"),
        ("/etc/resolv.conf", "/root-dir/resolv.conf"),
        ("/dev/shm", "/state-dir/shm"),
        ("/var/lib/x", "/volumes/1"),
    ]


def test_a_readonly_root_makes_the_pods_files_readonly() -> None:
    found = build(files=FILES, readonly_rootfs=True)
    assert options(found, "/etc/hosts") == ["rbind", "rprivate", "ro"]
    assert options(found, "/dev/shm") == ["rbind", "rprivate", "rw"]


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, ["rbind", "rprivate", "rw"]),
        ({"readonly": True}, ["rbind", "rprivate", "ro"]),
        ({"readonly": True, "recursive_read_only": True}, ["rbind", "rprivate", "rro"]),
        ({"propagation": FROM_HOST}, ["rbind", "rslave", "rw"]),
        ({"propagation": BOTH_WAYS, "readonly": True}, ["rbind", "rshared", "ro"]),
    ],
)
def test_options(fields: dict[str, Any], expected: list[str]) -> None:
    found = build(mount(**fields), source=MountSource("/real", shared=True))
    assert options(found, "/data") == expected
    assert found[-1].source == "/real"


@pytest.mark.parametrize(
    ("fields", "source", "changes", "message"),
    [
        ({"propagation": BOTH_WAYS}, MountSource("/x", slave=True), {}, "make-rshared"),
        ({"propagation": FROM_HOST}, MountSource("/x"), {}, "make-rshared"),
        ({"recursive_read_only": True}, MountSource("/x"), {}, "RROUnsupported: requires readonly"),
        (
            {"recursive_read_only": True, "readonly": True, "propagation": BOTH_WAYS},
            MountSource("/x", shared=True),
            {},
            "RROUnsupported: requires PROPAGATION_PRIVATE",
        ),
        (
            {"uidMappings": [api_pb2.IDMapping(length=1)]},
            MountSource("/x"),
            {"user_namespaces_problem": "old runc"},
            "uidMappings: cannot map the IDs of a mount of /x: old runc",
        ),
        (
            {"uidMappings": [api_pb2.IDMapping(length=1)]},
            MountSource("/x", idmap_problem="NFS cannot"),
            {},
            "uidMappings: cannot map the IDs of a mount of /x: NFS cannot",
        ),
    ],
)
def test_mounts_that_are_refused(
    fields: dict[str, Any], source: MountSource, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(InvalidArgument, match=rf"config\.mounts\[0\]\..*{message}"):
        build(mount(**fields), source=source, **changes)


def test_the_kubelet_finds_its_word_first_where_recursive_read_only_is_not_supported() -> None:
    """It looks at the beginning of the text, and only of an UNKNOWN error."""
    asked = mount(recursive_read_only=True, readonly=True)
    with pytest.raises(CriError) as refused:
        build(asked, source=MountSource("/x"), recursive_read_only=False)
    assert refused.value.code is grpc.StatusCode.UNKNOWN
    assert str(refused.value).startswith(
        "RROUnsupported: config.mounts[0].recursive_read_only: the kernel"
    )


def test_a_slave_source_can_propagate_to_the_container() -> None:
    found = build(mount(propagation=FROM_HOST), source=MountSource("/x", slave=True))
    assert "rslave" in options(found, "/data")


def test_ids_of_a_mount_are_mapped() -> None:
    ranges = [api_pb2.IDMapping(container_id=0, host_id=1000, length=10)]
    found = build(mount(uidMappings=ranges, gidMappings=ranges))[-1]
    assert found.uidMappings == found.gidMappings == [types.LinuxIDMapping(0, 1000, 10)]


@pytest.mark.parametrize(
    ("changes", "sys", "cgroup"),
    [
        pytest.param({}, "ro", ["ro"], id="plain"),
        pytest.param({"privileged": True}, "rw", ["rw", "nsdelegate"], id="privileged, v2"),
        pytest.param(
            {"privileged": True, "cgroup_unified": False}, "rw", ["rw"], id="privileged, v1"
        ),
        pytest.param({"cgroup_writable": True}, "ro", ["rw"], id="the handler's key"),
    ],
)
def test_system_mounts(changes: dict[str, Any], sys: str, cgroup: list[str]) -> None:
    found = build(**changes)
    assert options(found, "/sys")[-1] == sys
    assert options(found, "/sys/fs/cgroup")[4:] == cgroup


def sandbox_mounts(**changes: Any) -> list[types.Mount]:
    given: dict[str, Any] = {"privileged": False, "network": api_pb2.POD, "userns_mode": None}
    return mounts.sandbox_mounts(files=FILES, **(given | changes))


def test_a_user_namespace_on_the_nodes_network_sees_the_nodes_sys() -> None:
    for found in (
        build(pod_network=api_pb2.NODE, pod_userns_mode=api_pb2.POD),
        sandbox_mounts(network=api_pb2.NODE, userns_mode=api_pb2.POD),
    ):
        sys = next(one for one in found if one.destination == "/sys")
        assert (sys.type, sys.source, sys.options[-1]) == ("bind", "/sys", "rro")


def test_sandbox_mounts_are_readonly() -> None:
    found = sandbox_mounts()
    assert places(found)[-2:] == ["/dev/shm", "/etc/resolv.conf"]
    assert options(found, "/dev/shm") == ["rbind", "ro", "nosuid", "nodev", "noexec"]
    assert options(found, "/sys")[-1] == "ro"


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        ([], None),
        ([PRIVATE], None),
        ([PRIVATE, FROM_HOST], "rslave"),
        ([BOTH_WAYS, FROM_HOST], "rshared"),
    ],
)
def test_rootfs_propagation(wanted: list[api_pb2.MountPropagation], expected: str | None) -> None:
    requested = mount_items.plan_mounts_items(mount(propagation=one) for one in wanted)
    assert mounts.rootfs_propagation(mounts=requested) == expected
