"""A handler's own base spec: what is kept, what a request adds, and what a request decides."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from generated.cri import api_pb2
from generated.oci import types
from runtime.transforms import base_spec, facts, process
from tests import oci_specs

NOFILE = {"type": "RLIMIT_NOFILE", "hard": 4096, "soft": 1024}
DOCUMENT: dict[str, Any] = {
    "ociVersion": "1.1.0",
    "hostname": "of the base",
    "process": {
        "args": ["sh"],
        "env": ["PATH=/bin", "BASE=1", "LANG=base"],
        "cwd": "/base",
        "noNewPrivileges": True,
        "user": {"uid": 7},
        "capabilities": {"bounding": ["CAP_KILL", "CAP_CHOWN"]},
        "rlimits": [NOFILE],
        "apparmorProfile": "base-profile",
    },
    "root": {"path": "/somewhere"},
    "mounts": [
        {"destination": "/proc", "type": "proc", "source": "proc"},
        {"destination": "/run", "type": "tmpfs", "source": "tmpfs"},
        {"destination": "/own", "type": "tmpfs", "source": "tmpfs"},
    ],
    "annotations": {"example.org/base": "yes"},
    "hooks": {"poststop": [{"path": "/bin/true"}]},
    "linux": {
        "namespaces": [{"type": "time"}],
        "devices": [{"path": "/dev/base", "type": "c", "major": 1, "minor": 3}],
        "resources": {"pids": {"limit": 100}},
        "maskedPaths": ["/proc/kcore"],
        "seccomp": {"defaultAction": "SCMP_ACT_LOG"},
    },
}


def built(**context: Any) -> types.Spec:
    pod = api_pb2.PodSandboxConfig()
    pod.linux.security_context.privileged = context.get("privileged", False)
    config = api_pb2.ContainerConfig(envs=[api_pb2.KeyValue(key="LANG", value=b"C")])
    config.linux.security_context.CopyFrom(api_pb2.LinuxContainerSecurityContext(**context))
    base = base_spec.prepared(types.Spec.from_json(DOCUMENT))
    return oci_specs.build_container(
        config,
        pod=pod,
        handler=replace(oci_specs.HANDLER, base=base),
        image=replace(oci_specs.IMAGE, working_dir="", env=()),
    ).spec


def test_what_no_request_decides_survives() -> None:
    spec = built()
    assert [limit.to_dict() for limit in spec.process.rlimits] == [NOFILE]
    assert spec.annotations["example.org/base"] == "yes"
    assert [hook.path for hook in spec.hooks.poststop] == ["/bin/true"]
    assert spec.linux.resources.pids.limit == 100


def test_what_a_request_decides_does_not() -> None:
    spec = built()
    assert spec.process.args == ["/app", "--serve"]
    assert spec.process.noNewPrivileges is None
    assert spec.process.user.uid == 0
    assert spec.root.path == "rootfs"
    assert spec.hostname is None
    assert spec.ociVersion == oci_specs.HANDLER.oci_version
    assert "time" not in {namespace.type for namespace in spec.linux.namespaces}
    assert spec.linux.maskedPaths == []
    assert spec.annotations["io.kubernetes.cri.container-type"] == "container"
    assert spec.linux.resources.devices[0] == types.LinuxDeviceCgroup(allow=False, access="rwm")


def test_requests_add_to_its_defaults() -> None:
    capability = api_pb2.Capability(add_capabilities=["NET_RAW"], drop_capabilities=["CHOWN"])
    spec = built(capabilities=capability)
    assert spec.process.capabilities is not None
    assert spec.process.capabilities.bounding == ["CAP_KILL", "CAP_NET_RAW"]
    assert spec.process.env == [process.DEFAULT_PATH, "BASE=1", "LANG=C", "HOSTNAME=node"]
    assert spec.process.cwd == "/base"
    places = [mount.destination for mount in spec.mounts]
    assert places[:3] == ["/proc", "/own", "/sys/fs/cgroup"] and "/run" not in places
    assert [device.path for device in spec.linux.devices] == ["/dev/base"]


def test_its_profiles_confine_all_but_privileged_containers() -> None:
    unconfined = api_pb2.SecurityProfile(profile_type=api_pb2.SecurityProfile.Unconfined)
    spec = built(seccomp=unconfined, apparmor=unconfined)
    assert spec.process.apparmorProfile == "base-profile"
    assert spec.linux.seccomp.defaultAction == "SCMP_ACT_LOG"
    spec = built(privileged=True)
    assert spec.process.apparmorProfile is None
    assert spec.linux.seccomp.to_dict() == {}


def test_its_masked_paths_count_with_disable_proc_mount() -> None:
    base = base_spec.prepared(types.Spec.from_json(DOCUMENT))
    spec = oci_specs.build_container(
        api_pb2.ContainerConfig(),
        host=replace(oci_specs.HOST, disable_proc_mount=True),
        handler=replace(oci_specs.HANDLER, base=base),
    ).spec
    assert (spec.linux.maskedPaths, spec.linux.readonlyPaths) == (["/proc/kcore"], [])


def test_a_base_without_capabilities_has_none() -> None:
    base = base_spec.prepared(types.Spec.from_json({"process": {}}))
    assert base.capabilities == ()


def test_without_a_base_the_default_is_new_for_each_container() -> None:
    first = base_spec.first_spec(facts.BaseSpec(), privileged=False)
    first.mounts.clear()
    assert base_spec.first_spec(facts.BaseSpec(), privileged=False).mounts
