"""Strategies for cases: requests made from the CRI's descriptors, the mapping's rules and
``values.yaml``.

Most requests are valid, with a few fields set on top of what a kubelet always sends, so that each
field is seen alone and beside others. A part of them is spoilt in one field: by a value that breaks
a rule of its entry, or at the limits of its type.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import yaml
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message
from hypothesis import strategies as st

from generated.cri import api_pb2
from tests.harness.cri import container_config, pod_config

from .pair import CONFIGURED, PLAIN, PROBE

_HERE = Path(__file__).parent
_MAPPING = _HERE.parents[1] / "spec" / "mapping"
VALUES: dict[str, list[Any]] = yaml.safe_load((_HERE / "values.yaml").read_text())
Steps = tuple[Message, ...]
_PLATFORM = {"windows"}

_BOUNDS = {
    FieldDescriptor.CPPTYPE_INT32: (-(2**31), 2**31 - 1),
    FieldDescriptor.CPPTYPE_INT64: (-(2**63), 2**63 - 1),
    FieldDescriptor.CPPTYPE_UINT32: (0, 2**32 - 1),
    FieldDescriptor.CPPTYPE_UINT64: (0, 2**64 - 1),
}
_WORDS = st.sampled_from(["a", "b", "x.y", "value 1", "ü"])
_ODD_TEXT = ["", "a\nb", "../x", "rel/ative", "x" * 5000, "%s", "-1", "/", "a;b=c"]


@cache
def rules(message: str) -> dict[str, dict[str, Any]]:
    """Field → the rules of its entry, by name; a rule without arguments has the value True."""
    (path,) = [
        path for path in _MAPPING.glob("*.yaml") if path.stem.replace("_", "") == message.lower()
    ]
    entries = yaml.safe_load(path.read_text())["fields"]
    found: dict[str, dict[str, Any]] = {}
    for name, entry in entries.items():
        listed = entry.get("rules", [])
        found[name] = {}
        for rule in listed:
            found[name] |= rule if isinstance(rule, dict) else {rule: True}
    return found


def _rules_of(field: FieldDescriptor) -> dict[str, Any]:
    return rules(_message(field))[field.name]


def _message(field: FieldDescriptor) -> str:
    assert field.containing_type is not None
    return field.containing_type.name


def values(field: FieldDescriptor) -> st.SearchStrategy[Any]:
    """Valid values of a field, as a message's constructor takes them."""
    listed = VALUES.get(f"{_message(field)}.{field.name}")
    if listed is not None:
        if field.type == FieldDescriptor.TYPE_BYTES:
            listed = [value.encode() for value in listed]
        whole = field.is_repeated == isinstance(listed[0], list | dict)
        one = st.sampled_from(listed)
        return one if whole else st.lists(one, min_size=1, max_size=2)
    if _is_map(field):
        return st.dictionaries(_WORDS, _WORDS, max_size=2)
    one = _one(field)
    return st.lists(one, min_size=1, max_size=2) if field.is_repeated else one


def _one(field: FieldDescriptor) -> st.SearchStrategy[Any]:
    if field.message_type is not None:
        kind = field.message_type.name
        return st.deferred(lambda: messages(getattr(api_pb2, kind)))
    allowed = _rules_of(field)
    if field.enum_type is not None:
        names = allowed.get("allowed_enum", field.enum_type.values_by_name)
        return st.sampled_from([field.enum_type.values_by_name[name].number for name in names])
    if field.cpp_type == FieldDescriptor.CPPTYPE_BOOL:
        return st.booleans()
    if field.type == FieldDescriptor.TYPE_BYTES:
        return st.sampled_from([b"", b"1", b"\xff"])
    if field.cpp_type == FieldDescriptor.CPPTYPE_STRING:
        return st.sampled_from(["/a", "/a/b"]) if "absolute_path" in allowed else _WORDS
    low, high = allowed.get("range", (0, 3))
    return st.sampled_from([low, min(low + 1, high), min(max(low, 0) + 3, high)])


def _is_map(field: FieldDescriptor) -> bool:
    return field.message_type is not None and field.message_type.GetOptions().map_entry


@st.composite
def messages(draw: st.DrawFn, kind: type[Message], most: int = 4) -> Any:
    """Messages with their required fields and at most ``most`` others."""
    fields: dict[str, Any] = {
        field.name: field for field in kind.DESCRIPTOR.fields if field.name not in _PLATFORM
    }
    required = {name for name in fields if "required" in rules(kind.DESCRIPTOR.name)[name]}
    chosen = draw(st.sets(st.sampled_from(sorted(fields)), max_size=most)) if fields else set()
    drawn = {name: draw(values(fields[name])) for name in sorted(chosen | required)}
    return kind(**drawn)


@st.composite
def spoilt(draw: st.DrawFn, valid: st.SearchStrategy[Any], kind: type[Message]) -> Any:
    """A valid message in which one field has a value outside of its rules or at a limit."""
    made = draw(valid)
    place = made
    descriptor: Any = kind.DESCRIPTOR
    while True:
        fields = [field for field in descriptor.fields if field.name not in _PLATFORM]
        if not fields:
            return made
        field = draw(st.sampled_from(fields))
        if field.message_type is None or _is_map(field):
            break
        below = getattr(place, field.name)
        if field.is_repeated:
            below = below[0] if below else below.add()
        place, descriptor = below, field.message_type
        place.SetInParent()
    if _is_map(field):
        key, value = draw(st.sampled_from([("", ""), ("a", "x" * 5000), ("a\nb", "ü")]))
        getattr(place, field.name)[key] = value
    elif field.is_repeated:
        getattr(place, field.name).append(draw(_odd(field)))
    else:
        setattr(place, field.name, draw(_odd(field)))
    return made


def _odd(field: FieldDescriptor) -> st.SearchStrategy[Any]:
    allowed = _rules_of(field)
    if field.enum_type is not None:
        numbers = [value.number for value in field.enum_type.values]
        return st.sampled_from([*numbers, max(numbers) + 1, -1])
    if field.cpp_type == FieldDescriptor.CPPTYPE_BOOL:
        return st.booleans()
    if field.type == FieldDescriptor.TYPE_BYTES:
        return st.sampled_from([b"", b"\xff\xfe", b"x" * 5000])
    if field.cpp_type == FieldDescriptor.CPPTYPE_STRING:
        longer = ["x" * (allowed["max_length"] + 1)] if "max_length" in allowed else []
        return st.sampled_from([*_ODD_TEXT, *longer])
    low, high = _BOUNDS[field.cpp_type]
    inside, outside = allowed.get("range", (low, high)), []
    outside = [value for value in (inside[0] - 1, inside[1] + 1) if low <= value <= high]
    return st.sampled_from([low, max(low, -5), max(low, -1), 0, 1, high, *outside])


def _mostly_valid(kind: type[Message]) -> st.SearchStrategy[Any]:
    valid = messages(kind)
    return st.one_of(valid, valid, valid, spoilt(valid, kind))


# What a kubelet always sends, under what is drawn.


def _container(drawn: api_pb2.ContainerConfig) -> api_pb2.ContainerConfig:
    config = container_config(PLAIN, "sleep", "2147483647", name="new")
    if drawn.command or drawn.args:
        del config.command[:]
    config.MergeFrom(drawn)
    return config


def _pod(drawn: api_pb2.PodSandboxConfig) -> api_pb2.PodSandboxConfig:
    config = pod_config("new")
    config.metadata.uid = "uid"
    config.hostname = ""
    config.linux.cgroup_parent = "<cgroup>"
    config.linux.security_context.namespace_options.network = api_pb2.NODE
    config.MergeFrom(drawn)
    return config


_PODS = st.sampled_from(["plain", "plain", "plain", "own", "privileged", "privileged", "based"])


def _focused(kind: type[Message], parts: dict[str, type[Message]]) -> st.SearchStrategy[Any]:
    """Messages of a kind, or with only one part drawn, so that deep fields are set as often."""

    def inside(path: str, part: Any) -> Any:
        made: Any = kind()
        *above, last = path.split(".")
        place = made
        for name in above:
            place = getattr(place, name)
        value = getattr(place, last)
        if hasattr(value, "add"):
            value.append(part)
        else:
            value.CopyFrom(part)
            value.SetInParent()
        return made

    drawn = [_mostly_valid(kind), _mostly_valid(kind)]
    drawn += [st.builds(inside, st.just(path), _mostly_valid(parts[path])) for path in parts]
    return st.one_of(drawn)


_CONTAINERS = _focused(
    api_pb2.ContainerConfig,
    {
        "linux.security_context": api_pb2.LinuxContainerSecurityContext,
        "linux.security_context.capabilities": api_pb2.Capability,
        "linux.security_context.namespace_options": api_pb2.NamespaceOption,
        "linux.security_context.seccomp": api_pb2.SecurityProfile,
        "linux.resources": api_pb2.LinuxContainerResources,
        "mounts": api_pb2.Mount,
        "devices": api_pb2.Device,
        "envs": api_pb2.KeyValue,
    },
)
_POD_CONFIGS = _focused(
    api_pb2.PodSandboxConfig,
    {
        "linux": api_pb2.LinuxPodSandboxConfig,
        "linux.security_context": api_pb2.LinuxSandboxSecurityContext,
        "linux.security_context.namespace_options": api_pb2.NamespaceOption,
        "linux.security_context.seccomp": api_pb2.SecurityProfile,
        "linux.resources": api_pb2.LinuxContainerResources,
        "dns_config": api_pb2.DNSConfig,
        "metadata": api_pb2.PodSandboxMetadata,
    },
)


@st.composite
def create_container(draw: st.DrawFn) -> Steps:
    config = _container(draw(_CONTAINERS))
    pod = f"<pod:{draw(_PODS)}>"
    return (api_pb2.CreateContainerRequest(pod_sandbox_id=pod, config=config),)


@st.composite
def run_pod(draw: st.DrawFn) -> Steps:
    handler = draw(st.sampled_from(VALUES["RunPodSandboxRequest.runtime_handler"]))
    config = _pod(draw(_POD_CONFIGS))
    return (api_pb2.RunPodSandboxRequest(config=config, runtime_handler=handler),)


def _new(name: str = "<container:new>") -> dict[str, Any]:
    return {"container_id": name}


@st.composite
def run_probe(draw: st.DrawFn) -> Steps:
    """A container whose process prints what it sees."""
    (request,) = draw(create_container())
    made: Any = request
    made.config.log_path = "probe.log"
    if draw(st.booleans()):
        made.config.image.image = CONFIGURED
        del made.config.command[:]
    else:
        made.config.command[:] = [PROBE]
    return (made, api_pb2.StartContainerRequest(**_new()))


def _plain_container() -> Any:
    return api_pb2.CreateContainerRequest(
        pod_sandbox_id="<pod:plain>", config=_container(api_pb2.ContainerConfig())
    )


@st.composite
def update(draw: st.DrawFn) -> Steps:
    """Changed resources of a container that was only created, or that runs."""
    first = _plain_container()
    before = draw(messages(api_pb2.LinuxContainerResources))
    first.config.linux.resources.CopyFrom(before)
    steps: list[Message] = [first]
    if draw(st.integers(0, 5)) == 0:
        steps.append(api_pb2.StartContainerRequest(**_new()))
    for _ in range(draw(st.integers(1, 2))):
        request = api_pb2.UpdateContainerResourcesRequest(
            linux=draw(_mostly_valid(api_pb2.LinuxContainerResources)), **_new()
        )
        if draw(st.booleans()):
            request.annotations["a"] = "b"
        steps.append(request)
    return tuple(steps)


@st.composite
def life(draw: st.DrawFn) -> Steps:
    """Calls on one new container in any order, repeats included."""
    calls: list[Message] = [
        api_pb2.StartContainerRequest(**_new()),
        api_pb2.StopContainerRequest(**_new()),
        api_pb2.StopContainerRequest(timeout=-1, **_new()),
        api_pb2.RemoveContainerRequest(**_new()),
        api_pb2.ContainerStatusRequest(verbose=True, **_new()),
        api_pb2.ExecSyncRequest(cmd=["true"], timeout=5, **_new()),
        api_pb2.ExecRequest(cmd=["true"], stdout=True, **_new()),
        api_pb2.AttachRequest(stdout=True, **_new()),
        api_pb2.ReopenContainerLogRequest(**_new()),
        api_pb2.ContainerStatsRequest(**_new()),
        api_pb2.UpdateContainerResourcesRequest(
            linux=api_pb2.LinuxContainerResources(cpu_shares=99), **_new()
        ),
        _plain_container(),
    ]
    order = draw(st.lists(st.sampled_from(calls), min_size=1, max_size=5))
    return (_plain_container(), *order)


@st.composite
def life_of_a_pod(draw: st.DrawFn) -> Steps:
    """Calls on one new pod in any order, repeats included."""
    named: dict[str, Any] = {"pod_sandbox_id": "<pod:new>"}
    first = api_pb2.RunPodSandboxRequest(config=_pod(api_pb2.PodSandboxConfig()))
    inside = _plain_container()
    inside.pod_sandbox_id = "<pod:new>"
    calls: list[Message] = [
        api_pb2.StopPodSandboxRequest(**named),
        api_pb2.RemovePodSandboxRequest(**named),
        api_pb2.PodSandboxStatusRequest(verbose=True, **named),
        api_pb2.PortForwardRequest(port=[80], **named),
        api_pb2.PodSandboxStatsRequest(**named),
        api_pb2.UpdatePodSandboxResourcesRequest(**named),
        inside,
        first,
    ]
    order = draw(st.lists(st.sampled_from(calls), min_size=1, max_size=4))
    return (first, *order)


@st.composite
def events(draw: st.DrawFn) -> Steps:
    """What GetContainerEvents says of a pod and its container, whose calls come in any order."""
    config = _pod(draw(messages(api_pb2.PodSandboxConfig, most=2)))
    if draw(st.booleans()):
        config.linux.security_context.namespace_options.network = api_pb2.POD
    pod: dict[str, Any] = {"pod_sandbox_id": "<pod:new>"}
    made = _plain_container()
    made.pod_sandbox_id = draw(st.sampled_from(["<pod:new>", "<pod:new>", "<pod:plain>"]))
    made.config.MergeFrom(draw(messages(api_pb2.ContainerConfig, most=2)))
    made.config.command[:] = draw(
        st.sampled_from(
            [["sleep", "2147483647"], ["sh", "-c", "sleep 0.3; exit 3"], ["/missing"], ["/data"]]
        )
    )
    del made.config.args[:]
    calls: list[Message] = [
        api_pb2.StartContainerRequest(**_new()),
        api_pb2.StartContainerRequest(**_new()),
        # waits for the exit of a process that ends by itself
        api_pb2.StopContainerRequest(timeout=2, **_new()),
        api_pb2.StopContainerRequest(**_new()),
        api_pb2.RemoveContainerRequest(**_new()),
        api_pb2.StopPodSandboxRequest(**pod),
        api_pb2.RemovePodSandboxRequest(**pod),
        api_pb2.UpdateContainerResourcesRequest(
            linux=api_pb2.LinuxContainerResources(cpu_shares=99), **_new()
        ),
    ]
    order = draw(st.lists(st.sampled_from(calls), max_size=4))
    run = api_pb2.RunPodSandboxRequest(config=config)
    return (run, made, *order, api_pb2.GetEventsRequest())


_SHARED = {
    "pod": ("plain", "own"),
    "container": ("running", "exited", "created"),
}


@st.composite
def by_id(draw: st.DrawFn) -> Steps:
    """Calls that change nothing, with whole ids, prefixes and what names no object."""
    kind = draw(st.sampled_from(["pod", "container"]))
    name = draw(st.sampled_from(_SHARED[kind]))
    id = draw(
        st.sampled_from(
            [
                *(f"<{kind}:{name}>", f"<{kind}:{name}|63>", f"<{kind}:{name}|13>"),
                *("", "missing", "0" * 64, f"<{kind}:{name}>0", f" <{kind}:{name}>", "../x"),
                *(f"<{kind}:{name}>\n", "<pod:plain>" if kind == "container" else ""),
            ]
        )
    )
    key: dict[str, Any] = {f"{kind}_id" if kind == "container" else "pod_sandbox_id": id}
    unknown = id in ("", "missing", "0" * 64, "../x")
    requests = draw(_of_a_pod(key, unknown) if kind == "pod" else _of_a_container(key, unknown))
    return (draw(st.sampled_from(requests)),)


@st.composite
def _of_a_pod(draw: st.DrawFn, key: dict[str, Any], unknown: bool) -> list[Message]:
    """Calls on a pod; those that change it only if there is none."""
    requests: list[Message] = [
        api_pb2.PodSandboxStatusRequest(verbose=draw(st.booleans()), **key),
        api_pb2.PodSandboxStatsRequest(**key),
        api_pb2.PortForwardRequest(port=draw(_PORTS), **key),
        api_pb2.CreateContainerRequest(config=_container(api_pb2.ContainerConfig()), **key),
    ]
    if unknown:
        requests += [
            api_pb2.StopPodSandboxRequest(**key),
            api_pb2.RemovePodSandboxRequest(**key),
            api_pb2.UpdatePodSandboxResourcesRequest(**key),
        ]
    return requests


@st.composite
def _of_a_container(draw: st.DrawFn, key: dict[str, Any], unknown: bool) -> list[Message]:
    """Calls on a container; those that change it only if there is none."""
    requests: list[Message] = [
        api_pb2.ContainerStatusRequest(verbose=draw(st.booleans()), **key),
        api_pb2.ContainerStatsRequest(**key),
        api_pb2.ReopenContainerLogRequest(**key),
        draw(_exec_sync(key)),
        draw(_streams(api_pb2.ExecRequest, key)),
        draw(_streams(api_pb2.AttachRequest, key)),
    ]
    if unknown:
        requests += [
            api_pb2.StartContainerRequest(**key),
            api_pb2.StopContainerRequest(**key),
            api_pb2.RemoveContainerRequest(**key),
            api_pb2.UpdateContainerResourcesRequest(**key),
        ]
    return requests


_PORTS = st.lists(st.sampled_from([80, 0, -1, 65535, 65536]), max_size=2)


@st.composite
def _exec_sync(draw: st.DrawFn, key: dict[str, Any]) -> Message:
    commands = [
        *(["true"], ["false"], ["sh", "-c", "echo out; echo err >&2; exit 3"], ["missing"]),
        *([], [""], ["cat", "/etc/passwd"], ["env"], ["/etc/passwd"]),
    ]
    return api_pb2.ExecSyncRequest(
        cmd=draw(st.sampled_from(commands)), timeout=draw(st.sampled_from([0, 5, -1])), **key
    )


@st.composite
def _streams(draw: st.DrawFn, kind: Any, key: dict[str, Any]) -> Message:
    flags = draw(st.sets(st.sampled_from(["tty", "stdin", "stdout", "stderr"])))
    request = kind(**dict.fromkeys(flags, True), **key)
    if kind is api_pb2.ExecRequest:
        request.cmd.extend(draw(st.sampled_from([["true"], [], [""]])))
    made: Message = request
    return made


@st.composite
def exec_sync(draw: st.DrawFn) -> Steps:
    return (draw(_exec_sync(_new("<container:running>"))),)


_IDS = st.sampled_from(["", "<{0}:{1}>", "<{0}:{1}|13>", "missing"])


@st.composite
def lists(draw: st.DrawFn) -> Steps:
    """List calls and their filters."""
    pod_id = draw(_IDS).format("pod", "plain")
    id = draw(_IDS).format("container", "running")
    labels = draw(st.sampled_from([{}, {"app": "a"}, {"app": "a", "tier": "x"}, {"app": ""}]))
    pods: dict[str, Any] = {"id": pod_id, "label_selector": labels}
    containers: dict[str, Any] = {"id": id, "pod_sandbox_id": pod_id, "label_selector": labels}
    statistics = dict(containers)
    pod_state = draw(st.sampled_from([None, 0, 1, 7]))
    state = draw(st.sampled_from([None, 0, 1, 2, 3, 7]))
    pod_filter = api_pb2.PodSandboxFilter(**pods)
    filter = api_pb2.ContainerFilter(**containers)
    if pod_state is not None:
        pod_filter.state.state = pod_state  # type: ignore[assignment]
    if state is not None:
        filter.state.state = state  # type: ignore[assignment]
    return (
        draw(
            st.sampled_from(
                [
                    api_pb2.ListPodSandboxRequest(filter=pod_filter),
                    api_pb2.ListContainersRequest(filter=filter),
                    api_pb2.ListContainerStatsRequest(
                        filter=api_pb2.ContainerStatsFilter(**statistics)
                    ),
                    api_pb2.ListPodSandboxStatsRequest(
                        filter=api_pb2.PodSandboxStatsFilter(**pods)
                    ),
                ]
            )
        ),
    )


_ABSENT = [
    *("diff.example/missing:1", "diff.example/UPPER:1", "diff.example/plain:bad tag"),
    *("diff.example/plain:1@sha256:" + "0" * 64, "diff.example/plain@sha256:12"),
    *("diff.example/" + "x" * 300, "", " ", "sha256:", "@", ":1", "-", "UPPER:1", "http://x/y"),
]
_LOCAL = ["missing", "plain:1", "diff.example/plain", "sha256:" + "0" * 64, "0" * 64, "a" * 12]
_PRESENT = [PLAIN, CONFIGURED, "<image:plain>", "<image:plain|19>", "<image:plain|8>"]


@st.composite
def image_references(draw: st.DrawFn) -> Steps:
    """References of ImageStatus, PullImage and RemoveImage.

    Only what is absent is removed, and nothing is pulled from a registry of the internet.
    """
    reference = draw(st.sampled_from([*_ABSENT, *_LOCAL, *_PRESENT]))
    spec = api_pb2.ImageSpec(image=reference)
    if draw(st.booleans()):
        spec.MergeFrom(api_pb2.ImageSpec(annotations={"a": "b"}, runtime_handler="runc"))
    requests: list[Message] = [
        api_pb2.ImageStatusRequest(image=spec, verbose=draw(st.booleans())),
        api_pb2.ListImagesRequest(),
    ]
    if reference not in _PRESENT:
        requests.append(api_pb2.RemoveImageRequest(image=spec))
    if reference in (*_ABSENT, PLAIN, CONFIGURED):
        requests.append(api_pb2.PullImageRequest(image=spec))
    return (draw(st.sampled_from(requests)),)


@st.composite
def node(draw: st.DrawFn) -> Steps:
    requests: list[Message] = [
        api_pb2.VersionRequest(version=draw(st.sampled_from(["", "v1", "x"]))),
        api_pb2.StatusRequest(verbose=False),
        api_pb2.RuntimeConfigRequest(),
        api_pb2.ImageFsInfoRequest(),
        api_pb2.ListMetricDescriptorsRequest(),
        api_pb2.UpdateRuntimeConfigRequest(),
        api_pb2.UpdateRuntimeConfigRequest(
            runtime_config=api_pb2.RuntimeConfig(
                network_config=api_pb2.NetworkConfig(
                    pod_cidr=draw(st.sampled_from(["", "10.0.0.0/24", "10.0.0.0/24,fd00::/64"]))
                )
            )
        ),
        api_pb2.StreamPodSandboxesRequest(),
        api_pb2.StreamContainersRequest(),
        api_pb2.StreamImagesRequest(),
        api_pb2.StreamContainerStatsRequest(),
        api_pb2.StreamPodSandboxStatsRequest(),
    ]
    return (draw(st.sampled_from(requests)),)


# Name → the strategy, and its share of all cases in percent.
KINDS: dict[str, tuple[st.SearchStrategy[Steps], int]] = {
    "CreateContainer": (create_container(), 46),
    "what a process sees": (run_probe(), 7),
    "RunPodSandbox": (run_pod(), 9),
    "UpdateContainerResources": (update(), 10),
    "the life of a container": (life(), 5),
    "the life of a pod": (life_of_a_pod(), 2),
    "events": (events(), 2),
    "ids": (by_id(), 6),
    "ExecSync": (exec_sync(), 2),
    "filters": (lists(), 5),
    "image references": (image_references(), 6),
    "the node": (node(), 1),
}
