"""CDI specs: refusals with their place, which device wins, and the edits of an OCI spec."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from generated.cri import api_pb2
from generated.items import cdi_device
from generated.oci import types
from runtime.documents import DocumentError
from runtime.errors import InvalidArgument
from runtime.lookups.cdi import parse
from runtime.transforms import cdi, facts
from tests import oci_specs

SPEC: dict[str, Any] = {
    "cdiVersion": "1.1.0",
    "kind": "vendor.com/gpu",
    "containerEdits": {"env": ["VENDOR=1"], "additionalGids": [0, 44]},
    "devices": [
        {
            "name": "0",
            "annotations": {"example.org/slot": "a"},
            "containerEdits": {
                "env": ["GPU=0"],
                "deviceNodes": [{"path": "/dev/gpu0", "type": "c", "major": 195, "minor": 7}],
                "netDevices": [{"hostInterfaceName": "eth7", "name": "gpu0"}],
                "mounts": [
                    {
                        "hostPath": "/usr/lib/vendor",
                        "containerPath": "/usr/lib/vendor",
                        "options": ["ro", "bind"],
                    }
                ],
                "hooks": [
                    {
                        "hookName": "createContainer",
                        "path": "/usr/bin/vendor-hook",
                        "args": ["vendor-hook", "link"],
                        "env": ["A=1"],
                        "timeout": 5,
                    }
                ],
                "intelRdt": {"closID": "gpus", "schemata": ["L3:0=f"], "enableMonitoring": True},
            },
        },
        {"name": "1", "containerEdits": {"env": ["GPU=1"]}},
    ],
}


def changed(path: str, value: Any) -> dict[str, Any]:
    """``SPEC`` with one other value; None omits the key."""
    spec = copy.deepcopy(SPEC)
    *steps, last = [int(step) if step.isdigit() else step for step in path.split(".")]
    at: Any = spec
    for step in steps:
        at = at[step]
    if value is None:
        del at[last]
    else:
        at[last] = value
    return spec


def file(document: dict[str, Any], *, path: str = "/etc/cdi/a.json", priority: int = 0) -> cdi.File:
    return cdi.File(path, priority, parse(document))


EDITS = "devices.0.containerEdits"


@pytest.mark.parametrize(
    ("path", "value", "problem"),
    [
        ("cdiVersion", None, "missing required field `cdiVersion`"),
        ("cdiVersion", "0.2.0", "cdiVersion: must be one of 0.3.0, "),
        ("cdiVersion", "9.0.0", "cdiVersion: must be one of 0.3.0, "),
        ("cdiVersion", "1.0.0", "cdiVersion: must be 1.1.0 or later"),
        ("kind", "vendor.com", "kind: must be vendor.com/class"),
        ("kind", "1vendor.com/gpu", "kind: must be vendor.com/class"),
        ("devices", [], "devices: must have at least one device"),
        ("devices.0.name", "-a", "devices[0].name: must be letters"),
        ("devices.1.name", "0", "devices[1].name: there are two devices '0'"),
        ("devices.1.containerEdits", {}, "devices[1].containerEdits: must have at least one edit"),
        ("devices.1.nameShort", "x", "devices[1]: object contains unknown field `nameShort`"),
        (f"{EDITS}.env.0", "GPU", "devices[0].containerEdits.env[0]"),
        (f"{EDITS}.deviceNodes.0.path", "", "devices[0].containerEdits.deviceNodes[0].path"),
        (f"{EDITS}.deviceNodes.0.type", "x", "devices[0].containerEdits.deviceNodes[0].type"),
        (f"{EDITS}.deviceNodes.0.major", -1, "devices[0].containerEdits.deviceNodes[0].major"),
        (f"{EDITS}.deviceNodes.0.permissions", "rx", "deviceNodes[0].permissions"),
        (f"{EDITS}.hooks.0.hookName", "never", "devices[0].containerEdits.hooks[0].hookName"),
        (f"{EDITS}.mounts.0.hostPath", "", "devices[0].containerEdits.mounts[0].hostPath"),
        (f"{EDITS}.mounts.0.options", "ro", "devices[0].containerEdits.mounts[0].options"),
        (f"{EDITS}.intelRdt.closID", "a/b", "devices[0].containerEdits.intelRdt.closID: must be"),
        (f"{EDITS}.intelRdt.enableCMT", True, "enableCMT and enableMBM are enableMonitoring"),
        (
            f"{EDITS}.netDevices",
            [{"hostInterfaceName": "a", "name": "x"}, {"hostInterfaceName": "b", "name": "x"}],
            "devices[0].containerEdits.netDevices: two have the name 'x'",
        ),
    ],
)
def test_a_spec_that_is_wrong_is_refused_with_the_place(
    path: str, value: Any, problem: str
) -> None:
    with pytest.raises(DocumentError) as error:
        parse(changed(path, value))
    assert problem in str(error.value)


@pytest.mark.parametrize(
    ("edits", "device", "kind", "version"),
    [
        ({"env": ["A=1"]}, {}, "vendor.com/gpu", "0.3.0"),
        ({"mounts": [{"hostPath": "/a", "containerPath": "/a", "type": "bind"}]}, {}, "v.com/g",
         "0.4.0"),
        ({"deviceNodes": [{"path": "/dev/a", "hostPath": "/dev/b"}]}, {}, "v.com/g", "0.5.0"),
        ({"env": ["A=1"]}, {"name": "0"}, "v.com/g", "0.5.0"),
        ({"env": ["A=1"]}, {"annotations": {"a": "b"}}, "v.com/g", "0.6.0"),
        ({"env": ["A=1"]}, {}, "v.com/g.pu", "0.6.0"),
        ({"additionalGids": [5]}, {}, "v.com/g", "0.7.0"),
        ({"intelRdt": {"closID": "a"}}, {}, "v.com/g", "0.7.0"),
        ({"intelRdt": {"schemata": []}}, {}, "v.com/g", "1.1.0"),
        ({"netDevices": [{"hostInterfaceName": "a", "name": "b"}]}, {}, "v.com/g", "1.1.0"),
    ],
)  # fmt: skip
def test_a_spec_needs_the_version_that_has_what_it_uses(
    edits: dict[str, Any], device: dict[str, Any], kind: str, version: str
) -> None:
    document: dict[str, Any] = {
        "kind": kind,
        "devices": [{"name": "a", "containerEdits": edits, **device}],
    }
    for declared in cdi.VERSIONS:
        if cdi.VERSIONS.index(declared) < cdi.VERSIONS.index(version):
            with pytest.raises(DocumentError, match=f"cdiVersion: must be {version} or later"):
                parse({"cdiVersion": declared, **document})
        else:
            assert cdi.minimum_version(parse({"cdiVersion": declared, **document})) == version


def test_fields_come_before_annotations_and_each_device_once() -> None:
    config = api_pb2.ContainerConfig(
        CDI_devices=[api_pb2.CDIDevice(name="v.com/g=1"), api_pb2.CDIDevice(name="v.com/g=0")],
        annotations={
            "cdi.k8s.io/b": "v.com/g=2,v.com/g=1",
            "cdi.k8s.io/a": "v.com/g=3",
            "example.org/cdi": "ignored",
        },
    )
    devices = cdi_device.items(config.CDI_devices)
    found = cdi.requested(devices=devices, annotations=config.annotations)
    assert found == ["v.com/g=1", "v.com/g=0", "v.com/g=3", "v.com/g=2"]


@pytest.mark.parametrize("name", ["", "gpu", "v.com/g", "v.com/g=", "v.com=0", "v.com/g=a=b"])
def test_a_name_that_is_not_qualified_is_refused_with_its_field(name: str) -> None:
    with pytest.raises(InvalidArgument, match=r"config.CDI_devices\[0\].name: must be a CDI dev"):
        cdi.requested(devices=[name], annotations={})
    with pytest.raises(InvalidArgument, match=r"config.annotations\[cdi.k8s.io/x\]: must be"):
        cdi.requested(devices=[], annotations={"cdi.k8s.io/x": f"v.com/g=0,{name}"})


def test_a_later_directory_wins() -> None:
    other = changed("devices.1.containerEdits.env", ["GPU=other"])
    files = [file(SPEC), file(other, path="/run/cdi/b.json", priority=1)]
    edits, unresolved = cdi.edits_of(["vendor.com/gpu=1"], files)
    assert not unresolved
    assert edits.env == ("VENDOR=1", "GPU=other")


def test_two_specs_of_one_directory_are_a_conflict_only_for_the_device_they_share() -> None:
    other = {**SPEC, "devices": [SPEC["devices"][1]]}
    files = [file(SPEC), file(other, path="/etc/cdi/b.json")]
    edits, unresolved = cdi.edits_of(["vendor.com/gpu=0", "vendor.com/gpu=1"], files)
    assert edits.env == ("VENDOR=1", "GPU=0")
    assert unresolved == {
        "vendor.com/gpu=1": "/etc/cdi/a.json and /etc/cdi/b.json both define it; remove one of them"
    }


def test_an_unresolved_device_is_explained_by_its_kind_and_by_broken_files() -> None:
    files = [file(SPEC), cdi.File("/etc/cdi/b.json", 0, None, "kind: is wrong")]
    _, unresolved = cdi.edits_of(["vendor.com/gpu=7", "other.com/nic=0"], files)
    broken = "not readable: /etc/cdi/b.json: kind: is wrong"
    assert unresolved == {
        "vendor.com/gpu=7": f"vendor.com/gpu has 0, 1; {broken}",
        "other.com/nic=0": f"no file defines it; {broken}",
    }


def test_the_edits_of_a_spec_come_once_before_those_of_its_devices() -> None:
    edits, _ = cdi.edits_of(["vendor.com/gpu=1", "vendor.com/gpu=0"], [file(SPEC)])
    assert edits.env == ("VENDOR=1", "GPU=1", "GPU=0")


def test_the_whole_oci_edit() -> None:
    edits, _ = cdi.edits_of(["vendor.com/gpu=0"], [file(SPEC)])
    node = facts.DeviceNode(types.LinuxDevice(path="/dev/gpu0", type="c", major=195, minor=7))
    config = api_pb2.ContainerConfig(
        metadata=api_pb2.ContainerMetadata(name="app"),
        envs=[api_pb2.KeyValue(key="GPU", value=b"none")],
        mounts=[api_pb2.Mount(container_path="/usr/lib/vendor", host_path="/elsewhere")],
    )
    spec = oci_specs.build_container(
        config,
        mounts=(facts.MountSource("/elsewhere"),),
        user=facts.User(uid=1000, gid=50, additional_gids=(50,)),
        cdi=cdi.injected(edits, [(node, "rw")]),
    ).spec
    assert spec.process.env[-2:] == ["GPU=0", "VENDOR=1"]
    assert spec.process.user.additionalGids == [50, 44]
    (device,) = spec.linux.devices
    assert (device.path, device.uid, device.gid) == ("/dev/gpu0", 1000, 50)
    assert spec.linux.resources.devices[-1] == types.LinuxDeviceCgroup(
        allow=True, type="c", major=195, minor=7, access="rw"
    )
    assert spec.linux.netDevices == {"eth7": types.LinuxNetDevice(name="gpu0")}
    assert spec.linux.intelRdt.to_dict() == {
        "closID": "gpus", "schemata": ["L3:0=f"], "enableMonitoring": True
    }  # fmt: skip
    assert spec.hooks.to_dict() == {
        "createContainer": [
            {
                "path": "/usr/bin/vendor-hook",
                "args": ["vendor-hook", "link"],
                "env": ["A=1"],
                "timeout": 5,
            }
        ]
    }
    found = [mount for mount in spec.mounts if mount.destination == "/usr/lib/vendor"]
    assert [mount.to_dict() for mount in found] == [
        {"destination": "/usr/lib/vendor", "source": "/usr/lib/vendor", "options": ["ro", "bind"]}
    ]
    depths = [mount.destination.count("/") for mount in spec.mounts]
    assert depths == sorted(depths)


def test_bind_mounts_of_devices_are_mapped_as_the_pods_ids_are() -> None:
    mapping = api_pb2.IDMapping(host_id=65536, container_id=0, length=65536)
    options = api_pb2.NamespaceOption(
        userns_options=api_pb2.UserNamespace(mode=api_pb2.POD, uids=[mapping], gids=[mapping])
    )
    edits = cdi.Edits(
        mounts=(
            cdi.MountEdit(host_path="/a", container_path="/a", options=("rbind",)),
            cdi.MountEdit(host_path="tmpfs", container_path="/b", type="tmpfs"),
        )
    )
    pod = api_pb2.PodSandboxConfig()
    pod.linux.security_context.namespace_options.CopyFrom(options)
    config = api_pb2.ContainerConfig()
    config.linux.security_context.namespace_options.CopyFrom(options)
    spec = oci_specs.build_container(config, pod=pod, cdi=cdi.injected(edits, [])).spec
    mapped = {mount.destination: bool(mount.uidMappings) for mount in spec.mounts}
    assert mapped["/a"] and not mapped["/b"]


def test_a_node_without_permissions_exists_but_is_not_allowed() -> None:
    node = facts.DeviceNode(types.LinuxDevice(path="/dev/x", type="c", major=1, minor=3))
    edits = cdi.injected(cdi.Edits(), [(node, "")])
    assert (edits.devices, edits.device_rules) == ((node,), ())
