"""Hypothesis strategies for CRI messages, derived from their descriptors.

Values are small and often equal, so that fields interact: the same path mounted twice, the same
capability added and dropped. ``valid`` draws what the generated validator accepts.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message
from hypothesis import strategies as st

from generated.cri import api_pb2
from runtime.errors import Violation

_WORDS = st.sampled_from(["a", "b", "io.example/key", "SYS_ADMIN", "chown", "x.y", "value 1", "ü"])
_PATHS = st.sampled_from(["/a", "/a/b", "/dev", "/dev/shm", "/etc/hosts", "/proc/sys", "/a/"])

_INTEGERS = {
    FieldDescriptor.CPPTYPE_INT32: (-(2**31), 2**31 - 1),
    FieldDescriptor.CPPTYPE_INT64: (-(2**63), 2**63 - 1),
    FieldDescriptor.CPPTYPE_UINT32: (0, 2**32 - 1),
    FieldDescriptor.CPPTYPE_UINT64: (0, 2**64 - 1),
}

_ID_RANGE = st.builds(
    api_pb2.IDMapping,
    container_id=st.sampled_from([0, 0, 0, 1]),
    host_id=st.just(65536),
    length=st.sampled_from([0, 1, 65536]),
)

# values that random data would never hit; of a map, its keys
_FIELDS: dict[str, st.SearchStrategy[Any]] = {
    "CDIDevice.name": st.sampled_from(["vendor.example/class=one", "vendor.example/class=two"]),
    "Capability.add_ambient_capabilities": st.sampled_from(["ALL", "kill", "CAP_SYS_TIME"]),
    "Capability.add_capabilities": st.sampled_from(["ALL", "kill", "CAP_SYS_TIME", "CHOWN"]),
    "Capability.drop_capabilities": st.sampled_from(["ALL", "KILL", "CHOWN"]),
    "ContainerConfig.working_dir": st.one_of(st.just(""), _PATHS),
    "Device.host_path": _PATHS,
    "Device.permissions": st.sampled_from(["r", "rw", "rwm"]),
    "HugepageLimit.page_size": st.sampled_from(["2MB", "1GB"]),
    "LinuxContainerResources.cpu_shares": st.integers(0, 262144),
    "LinuxContainerResources.cpuset_cpus": st.sampled_from(["", "0", "0-3,8"]),
    "LinuxContainerResources.cpuset_mems": st.sampled_from(["", "0", "0-1"]),
    "LinuxContainerResources.memory_limit_in_bytes": st.sampled_from([0, -1, 4096, 8192]),
    "LinuxContainerResources.memory_swap_limit_in_bytes": st.sampled_from([0, -1, 4096, 8192]),
    "LinuxContainerResources.oom_score_adj": st.integers(-1000, 1000),
    "LinuxContainerResources.unified": st.sampled_from(["memory.high", "memory.min", "cpu.idle"]),
    "LinuxContainerSecurityContext.apparmor_profile": st.sampled_from(
        ["", "runtime/default", "unconfined", "localhost/x"]
    ),
    "LinuxContainerSecurityContext.seccomp_profile_path": st.sampled_from(
        ["", "runtime/default", "unconfined", "localhost/x", "nonsense"]
    ),
    "LinuxPodSandboxConfig.cgroup_parent": st.sampled_from(["", "/pods/a", "a.slice"]),
    "LinuxSandboxSecurityContext.seccomp_profile_path": st.sampled_from(
        ["", "runtime/default", "unconfined"]
    ),
    "LinuxContainerSecurityContext.supplemental_groups": st.integers(0, 2**31 - 1),
    "LinuxSandboxSecurityContext.supplemental_groups": st.integers(0, 2**31 - 1),
    "Int64Value.value": st.integers(0, 2**31 - 1),
    "Mount.container_path": _PATHS,
    "Mount.host_path": _PATHS,
    "NamespaceOption.ipc": st.sampled_from([api_pb2.POD, api_pb2.NODE]),
    "NamespaceOption.network": st.sampled_from([api_pb2.POD, api_pb2.NODE]),
    "PodSandboxConfig.log_directory": st.one_of(st.just(""), _PATHS),
    "PortMapping.container_port": st.integers(0, 65535),
    "PortMapping.host_port": st.integers(0, 65535),
    "SELinuxOption.level": st.sampled_from(["s0", "s0:c1,c2", "s0-s1:c0.c3"]),
    "UserNamespace.gids": _ID_RANGE,
    "UserNamespace.mode": st.sampled_from([api_pb2.POD, api_pb2.NODE]),
    "UserNamespace.uids": _ID_RANGE,
}

# of another platform
LEFT_OUT = {"ContainerConfig.windows", "PodSandboxConfig.windows"}

Check = Callable[[Any], list[Violation]]


# without them nearly every random message would be refused
_REQUIRED = {
    "ContainerConfig": ("metadata", "image"),
    "ContainerMetadata": ("name",),
    "KeyValue": ("key",),
    "HugepageLimit": ("page_size",),
    "Mount": ("container_path",),
    "Device": ("host_path",),
    "PodSandboxConfig": ("metadata",),
    "PodSandboxMetadata": ("name", "namespace", "uid"),
}


def valid(message: type[Message], check: Check) -> st.SearchStrategy[Any]:
    """Messages that the validator accepts."""
    return messages(message).filter(lambda drawn: not check(drawn))


def messages(message: type[Message]) -> st.SearchStrategy[Any]:
    """Messages with any of their fields set."""
    described: list[Any] = list(message.DESCRIPTOR.fields)  # the stubs name two classes of it
    fields = {
        field.name: values(field)
        for field in described
        if field.full_name.removeprefix("runtime.v1.") not in LEFT_OUT
    }
    required = {name: fields.pop(name) for name in _REQUIRED.get(message.DESCRIPTOR.name, ())}
    return st.fixed_dictionaries(required, optional=fields).map(lambda given: message(**given))


def values(field: FieldDescriptor) -> st.SearchStrategy[Any]:
    """Values of one field, as its message's constructor takes them."""
    name = field.full_name.removeprefix("runtime.v1.")
    if field.message_type is not None and field.message_type.GetOptions().map_entry:
        value = field.message_type.fields_by_name["value"]
        return st.dictionaries(_FIELDS.get(name, _WORDS), _one(value), max_size=2)
    one = _FIELDS[name] if name in _FIELDS else _one(field)
    return st.lists(one, max_size=2) if field.is_repeated else one


def _one(field: FieldDescriptor) -> st.SearchStrategy[Any]:
    kind = field.message_type
    if kind is not None:
        return st.deferred(lambda: messages(getattr(api_pb2, kind.name)))
    if field.enum_type is not None:
        return st.sampled_from([value.number for value in field.enum_type.values])
    if field.cpp_type == FieldDescriptor.CPPTYPE_BOOL:
        return st.booleans()
    if field.type == FieldDescriptor.TYPE_BYTES:
        return st.sampled_from([b"", b"1", b"\xff"])
    if field.cpp_type == FieldDescriptor.CPPTYPE_STRING:
        return _WORDS
    low, high = _INTEGERS[field.cpp_type]
    return st.one_of(st.integers(max(low, 0), 3), st.integers(max(low, -(2**20)), min(high, 2**20)))
