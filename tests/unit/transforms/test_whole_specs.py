"""A whole pod and a whole container, as the kubelet asks for them, against the expected OCI specs.

``whole/request.json`` holds the request in protobuf's JSON, ``whole/pod.json`` and
``whole/container.json`` what is expected of it; the seccomp rules have tests of their own. After a
wanted change, write the two anew and read the difference:

    UPDATE_EXPECTED=1 pytest tests/unit/transforms/test_whole_specs.py; git diff
"""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from google.protobuf import json_format

from generated.cri import api_pb2
from generated.oci import types
from generated.statuses import container_resources, container_user
from runtime.transforms import facts
from tests import oci_specs

WHOLE = Path(__file__).parent / "whole"
REQUEST = json.loads((WHOLE / "request.json").read_text())
POD = json_format.ParseDict(REQUEST["pod"], api_pb2.PodSandboxConfig())
CONTAINER = json_format.ParseDict(REQUEST["container"], api_pb2.ContainerConfig())
HANDLER = replace(oci_specs.HANDLER, systemd_cgroup=True, pod_annotations=("io.example/*",))


def pod() -> oci_specs.Built:
    return oci_specs.build_pod(POD, handler=HANDLER, user=facts.User(additional_gids=(0, 2000)))


def container() -> oci_specs.Built:
    fuse = oci_specs.HOST.devices[0]
    return oci_specs.build_container(
        CONTAINER,
        POD,
        handler=HANDLER,
        user=facts.User(uid=1000, gid=1000, additional_gids=(1000, 2000)),
        devices=((facts.DeviceNode(fuse),),),
        volumes=(facts.Volume("/cache", "/root-dir/volumes/1"),),
    )


@pytest.mark.parametrize("build", [pod, container])
def test_the_whole_spec(build: Any) -> None:
    built = build()
    oci_specs.check_schema(built.spec)
    found = built.spec.to_dict()
    if found["linux"]["seccomp"].get("syscalls"):
        found["linux"]["seccomp"]["syscalls"] = "the default rules"
    whole = {"spec": found, "labels": dict(built.record.labels)}
    expected = WHOLE / f"{build.__name__}.json"
    if os.environ.get("UPDATE_EXPECTED"):
        expected.write_text(json.dumps(whole, indent=2) + "\n")
    assert whole == json.loads(expected.read_text())


def with_ids(context: Any) -> None:
    """Give a security context the pod's user namespace."""
    uids = [api_pb2.IDMapping(host_id=100000, length=65536)]
    gids = [api_pb2.IDMapping(host_id=200000, length=65536)]
    users = api_pb2.UserNamespace(mode=api_pb2.POD, uids=uids, gids=gids)
    context.namespace_options.userns_options.CopyFrom(users)


def changed(before: oci_specs.Built, after: oci_specs.Built) -> dict[str, Any]:
    """The targets that differ, with the new values; of lists what was added."""
    old, new = before.flat(), after.flat()
    found: dict[str, Any] = {}
    for target in sorted(old.keys() | new.keys()):
        value = new.get(target)
        if value != old.get(target):
            added = isinstance(value, list) and target in old
            found[target] = (
                [one for one in value or () if one not in old[target]] if added else value
            )
    return found


def test_what_a_user_namespace_changes_in_the_specs() -> None:
    mapped_pod, mapped_container = api_pb2.PodSandboxConfig(), api_pb2.ContainerConfig()
    mapped_pod.CopyFrom(POD)
    mapped_container.CopyFrom(CONTAINER)
    with_ids(mapped_pod.linux.security_context)
    with_ids(mapped_container.linux.security_context)
    ids = {
        "linux.uidMappings": [{"containerID": 0, "hostID": 100000, "size": 65536}],
        "linux.gidMappings": [{"containerID": 0, "hostID": 200000, "size": 65536}],
    }
    given: dict[str, Any] = {"handler": HANDLER, "user": facts.User()}
    assert changed(
        oci_specs.build_pod(POD, **given), oci_specs.build_pod(mapped_pod, **given)
    ) == ids | {
        "linux.namespaces": [{"type": "user"}],
        "linux.sysctl[net.ipv4.ping_group_range]": None,
    }
    assert changed(
        oci_specs.build_container(CONTAINER, POD, **given),
        oci_specs.build_container(mapped_container, mapped_pod, **given),
    ) == ids | {"linux.namespaces": [{"type": "user", "path": "/proc/4711/ns/user"}]}


def test_the_spec_survives_json() -> None:
    spec = container().spec
    assert types.Spec.from_json(spec.to_json()) == spec


def test_a_container_without_capabilities_has_empty_sets() -> None:
    """runc gives a process everything it has itself where the object is missing."""
    config = api_pb2.ContainerConfig(command=["sh"])
    config.linux.security_context.capabilities.drop_capabilities.append("ALL")
    spec = oci_specs.build_container(config).spec
    assert spec.to_dict()["process"]["capabilities"] == {}
    again = types.Spec.from_json(spec.to_json())
    assert again.to_dict()["process"]["capabilities"] == {}
    assert "capabilities" not in types.Process.from_dict({"capabilities": None}).to_dict()


def test_the_status_shows_what_was_requested() -> None:
    spec = container().spec
    asked = CONTAINER.linux.resources
    shown = container_resources.read(spec=spec).linux
    # an unset swap limit is applied as the memory limit
    assert shown.memory_swap_limit_in_bytes == asked.memory_limit_in_bytes
    shown.memory_swap_limit_in_bytes = 0
    assert shown == asked
    assert container_user.read(spec=spec).linux == api_pb2.LinuxContainerUser(
        uid=1000, gid=1000, supplemental_groups=[1000, 2000]
    )
