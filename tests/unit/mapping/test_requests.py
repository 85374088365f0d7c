"""What becomes of every field of a request, made so that each value says where it is: the plans,
what CNI plugins are told, and the OCI specs with containerd's record. ``requests.yaml`` shows, for
each value that is written, the fields that it comes from."""

from __future__ import annotations

import dataclasses
import functools
import importlib
import inspect
import json
import typing
import zlib
from typing import Any

import pytest
from google.protobuf import json_format
from google.protobuf.message import Message

from generated import cni, plans
from generated.containerd import containers_pb2
from generated.cri import api_pb2
from generated.lifecycle import ContainerState, SandboxState
from generated.oci import types
from runtime.errors import CriError
from runtime.transforms import facts

from .expected import expect
from .filled import Made

_IDS = [api_pb2.IDMapping(host_id=65536, container_id=0, length=65536)]
_GROUPS = [api_pb2.IDMapping(host_id=131072, container_id=0, length=65536)]
_POD = api_pb2.NamespaceOption(
    network=api_pb2.POD,
    pid=api_pb2.CONTAINER,
    ipc=api_pb2.POD,
    userns_options=api_pb2.UserNamespace(mode=api_pb2.POD, uids=_IDS, gids=_GROUPS),
)
_NODE = api_pb2.NamespaceOption(
    network=api_pb2.NODE, pid=api_pb2.TARGET, ipc=api_pb2.NODE, target_id="target"
)
_NODE_USERS = api_pb2.NamespaceOption(userns_options=api_pb2.UserNamespace(mode=api_pb2.NODE))
_VALUES: dict[str, Any] = {
    "AuthConfig.auth": "dXNlcjpwYXNz",
    "CDIDevice.name": "vendor.com/class=one",
    "Capability.add_ambient_capabilities": ["SYS_TIME"],
    "Capability.add_capabilities": ["SYS_ADMIN", "SYS_TIME"],
    "Capability.drop_capabilities": ["CHOWN"],
    "ContainerMetadata.process_label": "system_u:system_r:container_t:s0:c1,c2",
    "ContainerStatus.state": ContainerState.CREATED,
    "Device.container_path": "/dev/in",
    "Device.host_path": "/dev/out",
    "Device.permissions": "rw",
    "DeviceNode.permissions": "rw",
    "HugepageLimit.page_size": "2MB",
    "Host.hugetlb_controller": True,
    "KeyValue.value": b"value",
    "LinuxContainerResources.memory_limit_in_bytes": 4096,
    "LinuxContainerResources.memory_swap_limit_in_bytes": 8192,
    "LinuxContainerResources.cpuset_cpus": "0-3",
    "LinuxContainerResources.cpuset_mems": "0-1",
    "LinuxContainerSecurityContext.apparmor_profile": "localhost/profile",
    "LinuxContainerSecurityContext.seccomp_profile_path": "localhost/profile",
    "LinuxDevice.type": "c",
    "LinuxPodSandboxConfig.sysctls": {"net.ipv4.ip_forward": "1"},
    "LinuxSandboxSecurityContext.seccomp_profile_path": "localhost/profile",
    "LinuxSeccomp.defaultAction": "SCMP_ACT_LOG",
    "MountSource.idmap_problem": "",
    "Handler.user_namespaces_problem": "",
    "Handler.container_annotations": ("*",),
    "Handler.pod_annotations": ("*",),
    "Handler.oci_version": "1.2.0",
    "Host.capabilities": ("CAP_CHOWN", "CAP_SYS_ADMIN", "CAP_SYS_TIME", "CAP_KILL"),
    "Mount.container_path": "/volume",
    "Mount.host_path": "/source",
    "Mount.propagation": api_pb2.PROPAGATION_PRIVATE,
    "NetworkConfig.pod_cidr": "10.1.0.0/16",
    "PodSandboxConfig.log_directory": "/logs",
    "SELinuxOption.level": "s0:c1,c2",
    "SandboxMetadata.process_label": "system_u:system_r:container_t:s0:c3,c4",
    "SandboxStatus.state": SandboxState.READY,
    "SecurityProfile.localhost_ref": "localhost/profile",
    "SecurityProfile.profile_type": api_pb2.SecurityProfile.Localhost,
    "BaseSpec.document": b"",
    "Security.localhost_seccomp": types.LinuxSeccomp(defaultAction="SCMP_ACT_LOG"),
}
_VARIANTS: dict[str, dict[str, Any]] = {
    "full": {
        "LinuxPodSandboxConfig.cgroup_parent": "pod.slice",
        "Handler.systemd_cgroup": True,
        "LinuxContainerSecurityContext.namespace_options": _POD,
        "LinuxSandboxSecurityContext.namespace_options": _POD,
    },
    "half": {
        "AuthConfig.registry_token": "",
        "AuthConfig.identity_token": "",
        "AuthConfig.auth": "",
        "LinuxPodSandboxConfig.cgroup_parent": "/pods/pod",
        "Handler.systemd_cgroup": False,
        "Host.cgroup_unified": True,
        "Mount.recursive_read_only": False,
        "LinuxContainerSecurityContext.namespace_options": _NODE,
        "LinuxSandboxSecurityContext.namespace_options": _NODE,
        "LinuxContainerSecurityContext.privileged": False,
        "LinuxSandboxSecurityContext.privileged": False,
    },
    "unset": {"Image.entrypoint": ("/entrypoint",)},
}
_SC = "LinuxContainerSecurityContext"
_POD_SC = "LinuxSandboxSecurityContext"
_PLAIN = {
    f"{_SC}.privileged": False,
    f"{_POD_SC}.privileged": False,
    "Host.seccomp": True,
    "Host.apparmor": True,
}
_HOST_NETWORK = {f"{_SC}.namespace_options": _NODE, f"{_POD_SC}.namespace_options": _NODE}
_OWN_NETWORK = {
    f"{_POD_SC}.namespace_options": api_pb2.NamespaceOption(),
    f"{_SC}.namespace_options": api_pb2.NamespaceOption(),
    "Host.kernel": (6, 1),
    "Host.in_user_namespace": False,
}
_DEFAULT = api_pb2.SecurityProfile(profile_type=api_pb2.SecurityProfile.RuntimeDefault)
_NO_PROFILE = {
    f"{sc}.{name}": value
    for sc in (_SC, _POD_SC)
    for name, value in (
        ("seccomp", None),
        ("apparmor", None),
        ("seccomp_profile_path", ""),
        ("apparmor_profile", ""),
    )
}
_RDT = {"io.kubernetes.cri.rdt-class": "gold"}
_RDT_OF_POD = {"rdt.resources.beta.kubernetes.io/container.metadata.name": "of the pod"}
_BLOCKIO = {"io.kubernetes.cri.blockio-class": "slow"}
_BLOCKIO_OF_POD = {"blockio.resources.beta.kubernetes.io/container.metadata.name": "of the pod"}
_DEFAULT_BY_MESSAGE: dict[str, Any] = {
    **_PLAIN,
    f"{_SC}.seccomp": _DEFAULT,
    f"{_SC}.apparmor": _DEFAULT,
    f"{_POD_SC}.seccomp": _DEFAULT,
    "BaseSpec.capabilities": None,
    "Host.architecture": "amd64",
    "Host.kernel": (6, 1),
}
_CLASSES: dict[str, Any] = {
    "ContainerConfig.CDI_devices": [],
    "CdiEdits.intel_rdt": None,
    "Host.ignore_rdt_not_enabled_errors": False,
    "Host.ignore_blockio_not_enabled_errors": False,
}
_MAPPED = {"MountSource.is_mapped": False}
_OWNED: dict[str, Any] = {
    f"{_SC}.namespace_options": _NODE_USERS,
    f"{_POD_SC}.namespace_options": _NODE_USERS,
    "Host.device_ownership_from_security_context": True,
}
_SHARED = {
    "Mount.propagation": api_pb2.PROPAGATION_BIDIRECTIONAL,
    "Mount.recursive_read_only": False,
}
_RECEIVING = {**_SHARED, "Mount.propagation": api_pb2.PROPAGATION_HOST_TO_CONTAINER}
_KVM = {
    "Handler.runtime_type": "io.containerd.kata.v2",
    "SelinuxPolicy.kvm_process": "system_u:system_r:container_kvm_t:s0",
    **_PLAIN,
}
_EXAMPLES: dict[str, dict[str, Any]] = {
    "privileged with the node's devices": {
        "Handler.privileged_without_host_devices": False,
        "Handler.privileged_without_host_devices_all_devices_allowed": False,
        f"{_SC}.readonly_rootfs": False,
    },
    "privileged, with the default mounts": {
        "BaseSpec.mounts": None,
        "Handler.cgroup_writable": False,
        "Host.cgroup_unified": True,
    },
    "privileged without the node's devices": {
        "Handler.privileged_without_host_devices_all_devices_allowed": False,
    },
    "not privileged": {**_PLAIN, "Handler.privileged_without_host_devices": False},
    "default profiles that name a file": {
        **_PLAIN,
        "SecurityProfile.profile_type": api_pb2.SecurityProfile.RuntimeDefault,
    },
    "default profiles by message, with profiles by path": {
        **_DEFAULT_BY_MESSAGE,
        f"{_SC}.seccomp_profile_path": "localhost/old",
        f"{_SC}.apparmor_profile": "localhost/old",
    },
    "the default filter for some capabilities": {
        **_DEFAULT_BY_MESSAGE,
        "Capability.add_capabilities": ["SYS_PTRACE", "SYS_TIME"],
        "Capability.drop_capabilities": ["SYS_TIME"],
        "Capability.add_ambient_capabilities": ["SYS_NICE"],
    },
    "the default filter for all capabilities of the node": {
        **_DEFAULT_BY_MESSAGE,
        "Capability.add_capabilities": ["ALL"],
        "Capability.drop_capabilities": [],
        "Capability.add_ambient_capabilities": [],
    },
    "no profiles": {**_PLAIN, **_NO_PROFILE, "Host.unset_seccomp_profile": "localhost/unset"},
    "no profiles, privileged": {**_NO_PROFILE, f"{_SC}.privileged": True},
    "default profiles by path": {
        **_PLAIN,
        **_NO_PROFILE,
        f"{_SC}.seccomp_profile_path": "runtime/default",
        f"{_SC}.apparmor_profile": "runtime/default",
        f"{_POD_SC}.seccomp_profile_path": "runtime/default",
    },
    "profiles by path": {
        **_PLAIN,
        **_NO_PROFILE,
        f"{_SC}.seccomp_profile_path": "localhost/old",
        f"{_SC}.apparmor_profile": "localhost/old",
        f"{_POD_SC}.seccomp_profile_path": "localhost/old",
    },
    "an AppArmor profile that is not loaded": {
        **_PLAIN,
        "Security.localhost_apparmor_loaded": False,
    },
    "AppArmor off": {**_PLAIN, "Host.apparmor": False},
    "default paths in /proc": {
        **_PLAIN,
        f"{_SC}.masked_paths": [],
        f"{_SC}.readonly_paths": [],
        "Host.disable_proc_mount": False,
        "BaseSpec.masked_paths": None,
        "BaseSpec.readonly_paths": None,
    },
    "paths in /proc, not of the request": {**_PLAIN, "Host.disable_proc_mount": True},
    "the server's own paths in /proc": {
        **_PLAIN,
        "Host.disable_proc_mount": True,
        "BaseSpec.masked_paths": None,
        "BaseSpec.readonly_paths": None,
    },
    "paths in /proc, privileged": {"Host.disable_proc_mount": False},
    "an RDT class": {**_CLASSES, "ContainerConfig.annotations": _RDT},
    "an RDT class of the pod": {**_CLASSES, "PodSandboxConfig.annotations": _RDT_OF_POD},
    "an RDT class, ignored": {
        **_CLASSES,
        "ContainerConfig.annotations": _RDT,
        "Host.ignore_rdt_not_enabled_errors": True,
    },
    "a block I/O class": {**_CLASSES, "ContainerConfig.annotations": _BLOCKIO},
    "a block I/O class of the pod": {**_CLASSES, "PodSandboxConfig.annotations": _BLOCKIO_OF_POD},
    "a block I/O class, ignored": {
        **_CLASSES,
        "ContainerConfig.annotations": _BLOCKIO,
        "Host.ignore_blockio_not_enabled_errors": True,
    },
    "CDI devices by annotation": {
        "ContainerConfig.CDI_devices": [],
        "ContainerConfig.annotations": {"cdi.k8s.io/a": "vendor.com/class=two"},
    },
    "bind mounts of CDI devices": {
        "CdiEdits.mounts": (types.Mount("/driver", type="bind", source="/usr/lib/driver"),)
    },
    "a virtual machine": _KVM,
    "a virtual machine, privileged": {
        **_KVM,
        f"{_SC}.privileged": True,
        f"{_POD_SC}.privileged": True,
    },
    "a privileged container in a pod that is not": {**_PLAIN, f"{_SC}.privileged": True},
    "an untrusted pod": {
        **_PLAIN,
        **_OWN_NETWORK,
        "PodSandboxConfig.annotations": {"io.kubernetes.cri.untrusted-workload": "true"},
    },
    "an untrusted pod on the node's network": {
        **_PLAIN,
        **_HOST_NETWORK,
        "PodSandboxConfig.annotations": {"io.kubernetes.cri.untrusted-workload": "true"},
    },
    "a sysctl of a network interface": {
        "LinuxPodSandboxConfig.sysctls": {"net.ipv4.conf.eth0.rp_filter": "0"}
    },
    "labels for snapshotters": {
        "PodSandboxConfig.annotations": {"containerd.io/snapshot/lazy": "yes"}
    },
    "a pod on the node's network": {**_HOST_NETWORK, "PodSandboxConfig.hostname": ""},
    **{
        f"an untrusted pod that shares only the node's {name} namespace": {
            **_PLAIN,
            **_OWN_NETWORK,
            f"{_POD_SC}.namespace_options": shared,
            "PodSandboxConfig.annotations": {"io.kubernetes.cri.untrusted-workload": "true"},
        }
        for name, shared in (
            ("network", api_pb2.NamespaceOption(network=api_pb2.NODE)),
            ("pid", api_pb2.NamespaceOption(pid=api_pb2.NODE)),
            ("ipc", api_pb2.NamespaceOption(ipc=api_pb2.NODE)),
        )
    },
    "a pod with user ids of its own on the node's network": {
        f"{_POD_SC}.namespace_options": api_pb2.NamespaceOption(
            network=api_pb2.NODE, userns_options=_POD.userns_options
        ),
        "BaseSpec.mounts": None,
    },
    "an ephemeral container whose target has exited": {
        f"{_SC}.namespace_options": _NODE,
        "Container.target_pid": 0,
    },
    "an OOM score below the server's": {
        "LinuxContainerResources.oom_score_adj": -997,
        "Host.oom_score_adj_floor": -100,
    },
    "a pod that names the node's user namespace": {
        f"{_POD_SC}.namespace_options": _NODE_USERS,
        f"{_SC}.namespace_options": _NODE_USERS,
    },
    "ports without a host port": {"PortMapping.host_port": 0},
    "ports on all addresses": {"PortMapping.host_ip": ""},
    "ports without a capability": {
        **_OWN_NETWORK,
        "Host.unprivileged_ports": True,
        "Host.unprivileged_icmp": False,
    },
    "ping without a capability": {
        **_OWN_NETWORK,
        "Host.unprivileged_ports": False,
        "Host.unprivileged_icmp": True,
    },
    "a pod with user ids and a network of its own": {
        **_OWN_NETWORK,
        f"{_POD_SC}.namespace_options": api_pb2.NamespaceOption(userns_options=_POD.userns_options),
    },
    **{
        f"a pod with user ids of its own that shares the node's {name} namespace": {
            f"{_POD_SC}.namespace_options": api_pb2.NamespaceOption(
                pid=pid, ipc=ipc, userns_options=_POD.userns_options
            )
        }
        for name, pid, ipc in (
            ("pid", api_pb2.NODE, api_pb2.POD),
            ("ipc", api_pb2.POD, api_pb2.NODE),
        )
    },
    "a pod whose traffic is limited": {
        "PodSandboxConfig.annotations": {
            "kubernetes.io/ingress-bandwidth": "1M",
            "kubernetes.io/egress-bandwidth": "2M",
        }
    },
    "volumes of the node": {"Mount.image": None, "Mount.image_sub_path": ""},
    "a server in a user namespace": {**_OWN_NETWORK, "Host.in_user_namespace": True},
    "volumes that show mapped ids already": {"MountSource.idmap_problem": "the problem"},
    "volumes that cannot be mapped": {**_MAPPED, "MountSource.idmap_problem": "of the volume"},
    "volumes whose groups cannot be mapped": {
        **_MAPPED,
        "Mount.uidMappings": [],
        "MountSource.idmap_problem": "of the volume",
    },
    "volumes whose users cannot be mapped": {
        **_MAPPED,
        "Mount.gidMappings": [],
        "MountSource.idmap_problem": "of the volume",
    },
    "volumes that the handler cannot map": {
        **_MAPPED,
        "Handler.user_namespaces_problem": "of the handler",
        "MountSource.idmap_problem": "of the volume",
    },
    "volumes whose groups the handler cannot map": {
        **_MAPPED,
        "Mount.uidMappings": [],
        "Handler.user_namespaces_problem": "of the handler",
        "MountSource.idmap_problem": "of the volume",
    },
    "a handler without user namespaces": {"Handler.user_namespaces_problem": "the problem"},
    "a volume that is not shared": {
        "Mount.propagation": api_pb2.PROPAGATION_BIDIRECTIONAL,
        "Mount.recursive_read_only": False,
        "MountSource.shared": False,
        "MountSource.slave": False,
    },
    "no hugetlb controller": {
        "Host.hugetlb_controller": False,
        "Host.disable_hugetlb_controller": False,
        "Host.tolerate_missing_hugetlb_controller": False,
    },
    "no hugetlb controller, tolerated": {
        "Host.hugetlb_controller": False,
        "Host.disable_hugetlb_controller": False,
        "Host.tolerate_missing_hugetlb_controller": True,
    },
    "cgroup v1": {
        **_PLAIN,
        "Host.cgroup_unified": False,
        "BaseSpec.mounts": None,
        "Handler.cgroup_writable": False,
        "LinuxContainerResources.unified": {},
    },
    "privileged, with cgroup v1": {
        "Host.cgroup_unified": False,
        "BaseSpec.mounts": None,
        "LinuxContainerResources.unified": {},
    },
    "cgroup v2": {
        **_PLAIN,
        "Host.cgroup_unified": True,
        "BaseSpec.mounts": None,
        "Handler.cgroup_writable": False,
        "Host.cgroup_mount_options": ("nsdelegate",),
    },
    "the image's command": {"ContainerConfig.command": [], "ContainerConfig.args": []},
    "a command for the image's program": {"ContainerConfig.command": []},
    "variables of all sources": {
        "BaseSpec.env": ("OF_BASE=1", "OF_IMAGE=of base", "OF_DEVICE=of base"),
        "Image.env": ("OF_IMAGE=1", "OF_REQUEST=of image"),
        "ContainerConfig.envs": [
            api_pb2.KeyValue(key="OF_REQUEST", value=b"1"),
            api_pb2.KeyValue(key="OF_DEVICE", value=b"of request"),
        ],
        "CdiEdits.env": ("OF_DEVICE=1",),
    },
    "devices of the container's user": _OWNED,
    "devices of a user without a group": {**_OWNED, f"{_SC}.run_as_group": None},
    "devices with an owner of their own": {
        **_OWNED,
        "Host.device_ownership_from_security_context": False,
    },
    "the image's stop signal": {
        "ContainerConfig.stop_signal": api_pb2.RUNTIME_DEFAULT,
        "ContainerMetadata.stop_signal": "SIGUSR1",
    },
    "the archive of a checkpoint": {"ImageSpec.image": "/archive.tar"},
    "volumes that are shared": {**_SHARED, "MountSource.shared": True, "MountSource.slave": False},
    "volumes that get the node's mounts": {**_RECEIVING, "MountSource.shared": False},
    "volumes that cannot get the node's mounts": {
        **_RECEIVING,
        "MountSource.shared": False,
        "MountSource.slave": False,
    },
    "volumes with writable mounts below": {"Mount.recursive_read_only": False},
    "writable volumes that are to be recursively read-only": {"Mount.readonly": False},
    "volumes that the handler cannot make recursively read-only": {
        "Handler.recursive_read_only": False
    },
    "a memory limit without a swap limit": {
        "LinuxContainerResources.memory_swap_limit_in_bytes": 0
    },
    "a privileged container without profiles": {
        **_NO_PROFILE,
        f"{_SC}.privileged": True,
        "Host.apparmor": True,
        "Host.unset_seccomp_profile": "localhost/unset",
    },
    "the image's working directory": {"ContainerConfig.working_dir": ""},
    "no working directory": {"ContainerConfig.working_dir": "", "Image.working_dir": ""},
    "the image's user": {
        f"{_SC}.run_as_user": None,
        f"{_SC}.run_as_group": None,
        f"{_SC}.run_as_username": "",
        f"{_POD_SC}.run_as_user": None,
        f"{_POD_SC}.run_as_group": None,
    },
    "the image's variables": {"Image.env": ("NAME=value",)},
    "the image by its reference": {
        "ImageSpec.user_specified_image": "",
        "ImageSpec.runtime_handler": "",
        "ImageSpec.annotations": {"io.containerd.cri.runtime-handler": "of an annotation"},
    },
    "a cgroup for systemd": {"LinuxPodSandboxConfig.cgroup_parent": "a.slice"},
    "no cgroup for systemd": {"LinuxPodSandboxConfig.cgroup_parent": ""},
    "a user and an identity token": {"AuthConfig.registry_token": "", "AuthConfig.auth": ""},
    "an identity token and the auth of a user": {
        "AuthConfig.registry_token": "",
        "AuthConfig.username": "",
    },
}
"""What is different from ``full``."""
_LEFT_OUT = frozenset({"ContainerConfig.windows", "PodSandboxConfig.windows"})
_BEGUN: dict[str, Any] = {
    "hooks": {
        name: [{"path": "/first"}]
        for name in (
            "prestart",
            "createRuntime",
            "createContainer",
            "startContainer",
            "poststart",
            "poststop",
        )
    },
    "linux": {
        "netDevices": {"first": {"name": "first"}},
        "resources": {"unified": {"first": "1"}, "devices": [{"allow": False}]},
    },
}
"""What a spec has before: lists and maps are added to."""
_PLANS = sorted(
    name for name, _ in inspect.getmembers(plans, inspect.isfunction) if name.startswith("plan_")
)
_REFUSED = "refused"
_BUILDERS = ("pod_sandbox_config", "container_config", "update_container_resources_request")


def _made(variant: str) -> Made:
    values = _VARIANTS[variant] if variant == "unset" else _VALUES | _VARIANTS[variant]
    return Made(variant, values, _LEFT_OUT)


def _given(function: Any, made: Made) -> tuple[Any, dict[str, Any]]:
    """The message and the roots that a generated function takes."""
    hints = typing.get_type_hints(
        function,
        localns={
            "facts": facts,
            "types": types,
            "api_pb2": api_pb2,
            "containers_pb2": containers_pb2,
        },
    )
    roots = {
        name: made.record(kind, name)
        for name, kind in hints.items()
        if name not in ("return", "src", "out", "record")
    }
    return made.message(hints["src"]), roots


def _plain(value: Any) -> Any:
    """As YAML holds it."""
    if isinstance(value, Message):
        return json_format.MessageToDict(value, preserving_proto_field_name=True)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        if hasattr(value, "to_dict"):
            return value.to_dict()
        return {one.name: _plain(getattr(value, one.name)) for one in dataclasses.fields(value)}
    if isinstance(value, dict):
        return {name: _plain(one) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    return value


def _built(name: str) -> Any:
    """A function that answers what the builder writes."""
    apply = importlib.import_module(f"generated.oci.{name}").apply

    @functools.wraps(apply)
    def build(message: Any, **roots: Any) -> Any:
        spec, record = types.Spec.from_dict(_BEGUN), containers_pb2.Container()
        if "record" in inspect.signature(apply).parameters:
            roots["record"] = record
        apply(message, spec, **roots)
        found = json.loads(spec.to_json())
        seccomp = found.get("linux", {}).get("seccomp", {})
        if len(rules := seccomp.get("syscalls", ())) > 2:  # the default ones
            digest = zlib.crc32(json.dumps(rules).encode())
            seccomp["syscalls"] = f"{len(rules)} rules, {digest:08x}"
        return {"spec": found, "record": _plain(record)}

    return build


_FUNCTIONS: dict[str, Any] = {
    **{name: getattr(plans, name) for name in _PLANS},
    "cni.runtime_config": cni.runtime_config,
    "cni.arguments": cni.arguments,
    **{name: _built(name) for name in _BUILDERS},
}


@pytest.mark.parametrize("variant", _VARIANTS)
@pytest.mark.parametrize("name", _FUNCTIONS)
def test_a_request(name: str, variant: str) -> None:
    function = _FUNCTIONS[name]
    message, roots = _given(function, _made(variant))
    expect("requests", f"{name}, {variant}", _result(function, message, roots))


@pytest.mark.parametrize("example", _EXAMPLES)
def test_an_example(example: str) -> None:
    """What is different from the full request, by function."""
    differences = {name: _difference(name, _EXAMPLES[example]) for name in _FUNCTIONS}
    changed = {name: one for name, one in differences.items() if one != "changes nothing"}
    expect("examples", example, changed)


def _difference(name: str, values: dict[str, Any]) -> Any:
    function = _FUNCTIONS[name]
    made = Made("full", _VALUES | _VARIANTS["full"] | values, _LEFT_OUT)
    message, roots = _given(function, made)
    return _changed(_full(name), _flat(_result(function, message, roots, received=False)))


@functools.cache
def _full(name: str) -> dict[str, Any]:
    """What becomes of the full request, by target."""
    function = _FUNCTIONS[name]
    message, roots = _given(function, _made("full"))
    return _flat(_result(function, message, roots, received=False))


def _result(function: Any, message: Any, roots: dict[str, Any], *, received: bool = True) -> Any:
    """What the function answers; a refusal is the only value of its answer. Unless messages are
    shown as ``received``, those that a plan keeps are left out."""
    try:
        found = function(message, **roots)
    except CriError as error:
        return {_REFUSED: str(error)}
    fields = dataclasses.fields(found) if dataclasses.is_dataclass(found) and not received else ()
    left_out = {one.name for one in fields if isinstance(getattr(found, one.name), Message)}
    plain = _plain(found)
    return {name: one for name, one in plain.items() if name not in left_out}


def _changed(before: dict[str, Any], after: dict[str, Any]) -> Any:
    """{target: its new value}, or a refusal; of a list, what is new and what is gone."""
    if _REFUSED in after:
        return after[_REFUSED]
    return {
        target: _difference_of(before.get(target), after.get(target, "absent"))
        for target in {**before, **after}
        if after.get(target) != before.get(target)
    } or "changes nothing"


def _difference_of(before: Any, after: Any) -> Any:
    if not isinstance(before, list) or not isinstance(after, list):
        return after
    new = [one for one in after if one not in before]
    gone = [one for one in before if one not in after]
    return {"new": new, "gone": gone} if new or gone else after


@pytest.mark.parametrize("name", _FUNCTIONS)
def test_each_field_alone(name: str) -> None:
    """What differs from an empty request, by field."""
    function = _FUNCTIONS[name]
    empty, roots = _given(function, _made("unset"))
    before = _flat(_result(function, empty, roots))
    found: dict[str, Any] = {}
    for path, message in _made("full").alone(type(empty)):
        if "container" in roots:
            sources = tuple(facts.MountSource(mount.host_path) for mount in message.mounts)
            nodes = tuple(
                (facts.DeviceNode(types.LinuxDevice(path=one.container_path, type="c")),)
                for one in message.devices
            )
            container = dataclasses.replace(roots["container"], mounts=sources, devices=nodes)
            roots["container"] = container
        found[path] = _changed(before, _flat(_result(function, message, roots)))
    expect("alone", name, found)


def _flat(value: Any, path: str = "") -> dict[str, Any]:
    """{path: value}, lists as a whole."""
    if not isinstance(value, dict):
        return {path: value}
    found: dict[str, Any] = {}
    for name, one in value.items():
        found |= _flat(one, f"{path}.{name}" if path else name)
    return found
