"""The builders against the whole CRI: schema, refusals, and the mapping as its own oracle."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import replace
from functools import cache
from typing import Any, TypeVar

import pytest
from google.protobuf.message import Message
from hypothesis import HealthCheck, assume, example, given, reject, settings
from hypothesis import strategies as st

from generated import cni, plans, provenance
from generated.cri import api_pb2
from generated.oci import linux_container_resources, types
from generated.statuses import linux_container_resources as shown_resources
from generated.validators import container_config as container_validator
from generated.validators import linux_container_resources as resources_validator
from generated.validators import pod_sandbox_config as pod_validator
from runtime.containers import update
from runtime.errors import CriError, InvalidArgument
from runtime.transforms import facts
from tests import oci_specs
from tests.property import messages

T = TypeVar("T")
pytestmark = pytest.mark.property

PODS = messages.valid(api_pb2.PodSandboxConfig, pod_validator.check)
CONTAINERS = messages.valid(api_pb2.ContainerConfig, container_validator.check)
RESOURCES = messages.valid(api_pb2.LinuxContainerResources, resources_validator.check)
QUIET = [HealthCheck.too_slow, HealthCheck.filter_too_much, HealthCheck.data_too_large]


@settings(max_examples=60, deadline=None, suppress_health_check=QUIET)
@given(pod=PODS)
def test_a_valid_pod_is_refused_with_a_field_or_fits_the_schema(
    pod: api_pb2.PodSandboxConfig,
) -> None:
    try:
        built = oci_specs.build_pod(pod)
    except InvalidArgument as error:
        assert error.field
        return
    oci_specs.check_schema(built.spec)


@settings(max_examples=80, deadline=None, suppress_health_check=QUIET)
@given(pod=PODS, container=CONTAINERS)
def test_a_valid_container_is_refused_with_a_field_or_fits_the_schema(
    pod: api_pb2.PodSandboxConfig, container: api_pb2.ContainerConfig
) -> None:
    # a config that no pod can be created from never meets a container
    assume(_builds(oci_specs.build_pod, pod))
    try:
        built = oci_specs.build_container(container, pod)
    except InvalidArgument as error:
        assert error.field
        return
    oci_specs.check_schema(built.spec)


@settings(max_examples=100, deadline=None, suppress_health_check=QUIET)
@given(
    asked=RESOURCES,
    earlier=RESOURCES,
)
def test_an_update_is_visible_in_the_status(
    asked: api_pb2.LinuxContainerResources, earlier: api_pb2.LinuxContainerResources
) -> None:
    """Requested values are shown; unset ones stay unchanged, and oom_score_adj in any case."""
    spec = types.Spec()
    spec.process.oomScoreAdj = earlier.oom_score_adj
    try:
        linux_container_resources.apply(earlier, spec, host=oci_specs.HOST)
        before = shown_resources.read(spec=spec)
        linux_container_resources.apply(asked, spec, host=oci_specs.HOST)
    except InvalidArgument as error:
        assert error.field
        return
    after = shown_resources.read(spec=spec)
    for name in ("cpu_period", "cpu_quota", "cpu_shares", "memory_limit_in_bytes"):
        assert getattr(after, name) == (getattr(asked, name) or getattr(before, name))
    assert after.oom_score_adj == earlier.oom_score_adj
    assert dict(after.unified) == {**before.unified, **asked.unified}
    limits = {limit.page_size: limit.limit for limit in before.hugepage_limits}
    limits |= {limit.page_size: limit.limit for limit in asked.hugepage_limits}
    assert {limit.page_size: limit.limit for limit in after.hugepage_limits} == limits
    swap = asked.memory_swap_limit_in_bytes or asked.memory_limit_in_bytes
    assert after.memory_swap_limit_in_bytes == (swap or before.memory_swap_limit_in_bytes)


def fields(message: type[Message], path: str = "") -> Iterator[str]:
    """Paths of all fields below a message; as a whole lists, maps, and messages of which no field
    can change alone."""
    for field in message.DESCRIPTOR.fields:
        here = f"{path}.{field.name}" if path else field.name
        whole = f"{message.DESCRIPTOR.name}.{field.name}"
        if whole in messages.LEFT_OUT:
            continue
        if _has_fields(field):
            assert field.message_type is not None
            yield from fields(getattr(api_pb2, field.message_type.name), here)
        else:
            yield here


def _has_fields(field: Any) -> bool:
    kind = field.message_type
    return kind is not None and not field.is_repeated and kind.name not in _WHOLE


_WHOLE = {"Int64Value", "UserNamespace"}


def parents(message: type[Message]) -> list[str]:
    """Paths of all messages above those fields."""
    return sorted({above for path in fields(message) for above in _above(path)})


def _above(path: str) -> Iterator[str]:
    while "." in path:
        path = path.rpartition(".")[0]
        yield path


@cache
def declared(root: str, field: str) -> frozenset[str]:
    """The targets of a spec of ``root`` whose entries name ``field`` (of either config) as theirs
    or as an input."""
    return frozenset(
        target
        for target, entries in provenance.TARGETS.items()
        for entry in entries
        if entry.field.partition(".")[0] == root
        and any(_meets(field, named) for named in _named(entry))
    )


def _named(entry: provenance.Entry) -> Iterator[str]:
    """Full paths of the fields that an entry reads, and no others: the entry of a value that no
    field decides carries its message as its field, and reads only its inputs."""
    around, _, name = entry.field.rpartition(".")
    inside = _descriptor(entry.field)
    is_list = bool(around) and _descriptor(around).fields_by_name[name].is_repeated
    own = inside is None or is_list or not entry.inputs
    for path in entry.inputs:
        for context, root in (
            ("container.metadata.config.", "ContainerConfig."),
            ("sandbox.metadata.config.", "PodSandboxConfig."),
        ):
            if path.startswith(context):
                yield root + path.removeprefix(context)
        if path in _LOOKED_UP:
            yield _LOOKED_UP[path]
        if _leads(inside, path):
            yield f"{entry.field}.{path}"
        elif around and _leads(_descriptor(around), path):
            own |= path.split(".")[0] == name
            yield f"{around}.{path}"
    if own:
        yield entry.field


_LOOKED_UP = {
    "container.devices": "ContainerConfig.devices",
    "container.mounts": "ContainerConfig.mounts",
}
"""Facts that ``oci_specs`` derives from a config, as the server does."""


def _descriptor(path: str) -> Any:
    """That of the message at a path; None for a field of another type."""
    root, *steps = path.split(".")
    descriptor: Any = getattr(api_pb2, root).DESCRIPTOR
    for step in steps:
        descriptor = descriptor.fields_by_name[step].message_type
    return descriptor


def _leads(descriptor: Any, path: str) -> bool:
    """Whether a path leads from a message to a field."""
    for step in path.split("."):
        if descriptor is None or step not in descriptor.fields_by_name:
            return False
        descriptor = descriptor.fields_by_name[step].message_type
    return True


def _meets(field: str, named: str) -> bool:
    """Whether a change of the field is one of what is named: itself, around it or below it."""
    return field == named or field.startswith(f"{named}.") or named.startswith(f"{field}.")


def changed(before: Mapping[str, Any], after: Mapping[str, Any]) -> set[str]:
    """Targets whose values differ."""
    keys = before.keys() | after.keys()
    return {key for key in keys if before.get(key) != after.get(key)}


def planned(*made: Any) -> dict[str, Any]:
    """The values of plans, by target."""
    return {
        f"plan.{one.name}": getattr(plan, one.name)
        for plan in made
        for one in dataclasses.fields(plan)
    }


def told(config: api_pb2.PodSandboxConfig) -> dict[str, Any]:
    """What CNI plugins are told, by target."""
    found = {f"cni.args.{name}": value for name, value in cni.arguments(config).items()}
    for name, value in cni.runtime_config(config).items():
        found[f"cni[{name}]" if "." in name else f"cni.{name}"] = value
    return found


def undeclared(found: set[str], targets: Collection[str]) -> set[str]:
    """Changes without a declared target at or above them."""
    return {
        key
        for key in found
        if not any(key == t or key.startswith((f"{t}.", f"{t}[")) for t in targets)
    }


def with_value(config: Any, path: str, value: Any) -> Any:
    """A copy in which one field has another value."""
    copy = type(config)()
    copy.CopyFrom(config)
    parent, name = _parent(copy, path)
    parent.ClearField(name)
    parent.MergeFrom(type(parent)(**{name: value}))
    return copy


def without(config: Any, path: str) -> Any:
    """A copy without a field."""
    copy = type(config)()
    copy.CopyFrom(config)
    parent, name = _parent(copy, path)
    parent.ClearField(name)
    return copy


def with_parents(config: Any, path: str) -> Any:
    """A copy in which every message above a field is present, as setting the field makes it."""
    copy = type(config)()
    copy.CopyFrom(config)
    _parent(copy, path)
    return copy


def _parent(config: Any, path: str) -> tuple[Any, str]:
    *above, name = path.split(".")
    for step in above:
        config = getattr(config, step)
        config.SetInParent()
    return config, name


def _values(message: type[Message], path: str) -> st.SearchStrategy[Any]:
    *above, name = path.split(".")
    descriptor: Any = message.DESCRIPTOR
    for step in above:
        descriptor = descriptor.fields_by_name[step].message_type
    return messages.values(descriptor.fields_by_name[name])


def _builds(build: Any, *configs: Any) -> bool:
    try:
        build(*configs)
    except CriError:
        return False
    return True


PRIVILEGED = api_pb2.PodSandboxConfig(
    linux=api_pb2.LinuxPodSandboxConfig(
        security_context=api_pb2.LinuxSandboxSecurityContext(privileged=True)
    )
)
USERNS = api_pb2.NamespaceOption(
    userns_options=api_pb2.UserNamespace(
        uids=[api_pb2.IDMapping(length=65536)], gids=[api_pb2.IDMapping(length=65536)]
    )
)
LOCALHOST: dict[str, Any] = {
    name: api_pb2.SecurityProfile(
        profile_type=api_pb2.SecurityProfile.Localhost, localhost_ref="/profile"
    )
    for name in ("seccomp", "apparmor")
}
LABEL = api_pb2.SELinuxOption(user="u", role="r", type="t", level="s0")
POD_BASES = (
    api_pb2.PodSandboxConfig(metadata=api_pb2.PodSandboxMetadata(name="p", uid="u")),
    api_pb2.PodSandboxConfig(
        metadata=api_pb2.PodSandboxMetadata(name="p", uid="u"),
        linux=api_pb2.LinuxPodSandboxConfig(
            cgroup_parent="/pods",
            resources=api_pb2.LinuxContainerResources(cpu_shares=2, cpu_quota=3),
            security_context=api_pb2.LinuxSandboxSecurityContext(
                privileged=True, selinux_options=LABEL, **LOCALHOST
            ),
        ),
    ),
    api_pb2.PodSandboxConfig(
        metadata=api_pb2.PodSandboxMetadata(name="p", uid="u", namespace="n"),
        hostname="h",
        log_directory="/logs",
        labels={"a": "1"},
        annotations={"b": "2"},
        linux=api_pb2.LinuxPodSandboxConfig(
            sysctls={"kernel.shm_rmid_forced": "1"},
            security_context=api_pb2.LinuxSandboxSecurityContext(
                namespace_options=USERNS,
                run_as_user=api_pb2.Int64Value(value=1),
                seccomp=api_pb2.SecurityProfile(),
            ),
        ),
    ),
)
CONTAINER_BASES = (
    api_pb2.ContainerConfig(
        metadata=api_pb2.ContainerMetadata(name="c"), image=api_pb2.ImageSpec(image="i")
    ),
    api_pb2.ContainerConfig(
        metadata=api_pb2.ContainerMetadata(name="c"),
        image=api_pb2.ImageSpec(image="i"),
        devices=[api_pb2.Device(host_path="/dev/null", permissions="r")],
        linux=api_pb2.LinuxContainerConfig(
            security_context=api_pb2.LinuxContainerSecurityContext(
                run_as_group=api_pb2.Int64Value(value=2),
                run_as_user=api_pb2.Int64Value(value=1),
                no_new_privs=True,
                selinux_options=LABEL,
                **LOCALHOST,
            ),
        ),
    ),
    api_pb2.ContainerConfig(
        metadata=api_pb2.ContainerMetadata(name="c"),
        image=api_pb2.ImageSpec(image="i"),
        linux=api_pb2.LinuxContainerConfig(
            security_context=api_pb2.LinuxContainerSecurityContext(privileged=True),
        ),
    ),
    api_pb2.ContainerConfig(
        metadata=api_pb2.ContainerMetadata(name="c"),
        image=api_pb2.ImageSpec(image="i"),
        command=["sh"],
        args=["-c"],
        working_dir="/w",
        tty=True,
        mounts=[api_pb2.Mount(container_path="/m", host_path="/h", readonly=True)],
        annotations={"b": "2"},
        linux=api_pb2.LinuxContainerConfig(
            resources=api_pb2.LinuxContainerResources(
                cpu_shares=2, memory_limit_in_bytes=4096, unified={"memory.high": "1"}
            ),
            security_context=api_pb2.LinuxContainerSecurityContext(
                capabilities=api_pb2.Capability(add_capabilities=["SYS_ADMIN"]),
                run_as_user=api_pb2.Int64Value(value=1),
                readonly_rootfs=True,
                masked_paths=["/proc/kcore"],
                seccomp=api_pb2.SecurityProfile(),
            ),
        ),
    ),
)
ONE_FIELD = settings(max_examples=20, deadline=None, suppress_health_check=QUIET)
HANDLER = replace(
    oci_specs.HANDLER, pod_annotations=("*", "*/*"), container_annotations=("*", "*/*")
)
HOSTS = st.sampled_from(
    [
        oci_specs.HOST,
        replace(
            oci_specs.HOST,
            cgroup_unified=False,
            cgroup_mount_options=(),
            seccomp=False,
            apparmor=False,
            swap_controller=False,
            tolerate_missing_hugetlb_controller=True,
            hugetlb_controller=False,
        ),
    ]
)
PLAIN = api_pb2.PodSandboxConfig(
    metadata=api_pb2.PodSandboxMetadata(name="p", uid="u", namespace="n"),
    annotations={"io.example/key": "of the pod"},
    linux=api_pb2.LinuxPodSandboxConfig(cgroup_parent="/pods"),
)


IN_PODS = st.sampled_from([PRIVILEGED, PLAIN])


def container_targets(
    config: api_pb2.ContainerConfig, pod: api_pb2.PodSandboxConfig, host: facts.Host
) -> dict[str, Any]:
    """What a container's config decides: its spec and plans."""
    built = oci_specs.build_container(config, pod, handler=HANDLER, host=host)
    sandbox = oci_specs.sandbox(pod)
    new = plans.plan_new_container(config, host=host, image=oci_specs.IMAGE, sandbox=sandbox)
    return built.flat() | planned(plans.plan_container(config), new)


def pod_targets(config: api_pb2.PodSandboxConfig, host: facts.Host) -> dict[str, Any]:
    """What a pod's config decides of itself: the pause container's spec, the plans, and what CNI
    plugins are told."""
    built = oci_specs.build_pod(config, handler=HANDLER, host=host)
    new = plans.plan_new_pod(config, host=host, image=oci_specs.PAUSE)
    return built.flat() | planned(plans.plan_sandbox(config), new) | told(config)


def targets_in_pod(config: api_pb2.PodSandboxConfig, host: facts.Host) -> dict[str, Any]:
    """What a pod's config decides of its containers; they repeat its namespace options."""
    container = api_pb2.ContainerConfig()
    options = config.linux.security_context.namespace_options
    container.linux.security_context.namespace_options.CopyFrom(options)
    return container_targets(container, config, host)


def _accepted(build: Callable[..., T], *given: Any) -> T:
    """What a request makes; one that is refused is no example."""
    try:
        return build(*given)
    except CriError:
        reject()


@settings(max_examples=150, deadline=None, suppress_health_check=QUIET)
@given(
    base=st.sampled_from(CONTAINER_BASES),
    earlier=RESOURCES,
    updates=st.lists(RESOURCES, min_size=1, max_size=3),
    host=HOSTS,
)
@example(
    base=CONTAINER_BASES[0],
    earlier=api_pb2.LinuxContainerResources(memory_limit_in_bytes=8192),
    updates=[api_pb2.LinuxContainerResources(memory_swap_limit_in_bytes=4096)],
    host=oci_specs.HOST,
)
def test_updates_give_the_spec_that_a_creation_gives(
    base: api_pb2.ContainerConfig,
    earlier: api_pb2.LinuxContainerResources,
    updates: list[api_pb2.LinuxContainerResources],
    host: facts.Host,
) -> None:
    """The whole spec of a container created with what was requested last of each resource; what
    that creation refuses, the update refuses too, and nothing else."""

    def created(resources: api_pb2.LinuxContainerResources) -> types.Spec:
        config = with_value(base, "linux.resources", resources)
        return oci_specs.build_container(config, PRIVILEGED, host=host).spec

    def updated(asked: api_pb2.LinuxContainerResources) -> types.Spec:
        spec = types.Spec.from_json(stored)
        request = api_pb2.UpdateContainerResourcesRequest(linux=asked)
        update.apply(request, spec, host=host)
        return spec

    stored, last = _accepted(created, earlier).to_json(), earlier
    for asked in updates:
        both = _requested_last(last, asked)
        expected, found = _answer(created, both), _answer(updated, asked)
        assert found == expected
        if isinstance(found, dict):
            stored, last = json.dumps(found).encode(), both


def _requested_last(
    earlier: api_pb2.LinuxContainerResources, asked: api_pb2.LinuxContainerResources
) -> api_pb2.LinuxContainerResources:
    last = api_pb2.LinuxContainerResources()
    last.CopyFrom(earlier)
    last.MergeFrom(asked)
    last.oom_score_adj = earlier.oom_score_adj  # no OCI runtime changes it of a running process
    # without a limit for swap, that of memory limits both
    for one in (earlier, asked):
        swap = one.memory_swap_limit_in_bytes or one.memory_limit_in_bytes
        last.memory_swap_limit_in_bytes = swap or last.memory_swap_limit_in_bytes
    return last


def _answer(build: Any, resources: api_pb2.LinuxContainerResources) -> Any:
    """The spec, or the name of the field for which the request is refused."""
    try:
        return build(resources).to_dict()
    except CriError as error:
        assert error.field
        return error.field.rpartition("linux.")[2].removeprefix("resources.")


def _other(data: st.DataObject, before: Any, path: str) -> Any:
    """A copy with a value of the field that it does not have yet."""
    drawn = _values(type(before), path).map(lambda value: with_value(before, path, value))
    return data.draw(drawn.filter(lambda after: after != before))


@pytest.mark.parametrize("path", [*fields(api_pb2.ContainerConfig)])
@ONE_FIELD
@given(data=st.data(), base=st.sampled_from(CONTAINER_BASES), pod=IN_PODS, host=HOSTS)
def test_a_container_field_changes_only_its_targets(
    path: str,
    data: st.DataObject,
    base: api_pb2.ContainerConfig,
    pod: api_pb2.PodSandboxConfig,
    host: facts.Host,
) -> None:
    config = with_parents(base, path)
    before = _accepted(container_targets, config, pod, host)
    other = _other(data, config, path)
    assume(not container_validator.check(other))
    after = _accepted(container_targets, other, pod, host)
    targets = declared("ContainerConfig", f"ContainerConfig.{path}")
    assert undeclared(changed(before, after), targets) == set()


@pytest.mark.parametrize("path", [*fields(api_pb2.PodSandboxConfig)])
@ONE_FIELD
@given(data=st.data(), base=st.sampled_from(POD_BASES), host=HOSTS)
def test_a_pod_field_changes_only_its_targets(
    path: str, data: st.DataObject, base: api_pb2.PodSandboxConfig, host: facts.Host
) -> None:
    """Those of the pod, and those of its containers."""
    config = with_parents(base, path)
    other = _other(data, config, path)
    assume(not pod_validator.check(other))
    for root, build in (("PodSandboxConfig", pod_targets), ("ContainerConfig", targets_in_pod)):
        before, after = (_accepted(build, one, host) for one in (config, other))
        targets = declared(root, f"PodSandboxConfig.{path}")
        if root == "ContainerConfig" and ".namespace_options." in path:
            # the container repeats its pod's
            targets |= declared(root, f"ContainerConfig.{path}")
        assert undeclared(changed(before, after), targets) == set()


def unset_and_empty(base: Any, path: str) -> tuple[Any, Any]:
    """The message without the message at ``path``, and with an empty one there."""
    unset = without(with_parents(base, path), path)
    return unset, with_parents(unset, f"{path}.any")


@pytest.mark.parametrize("path", parents(api_pb2.ContainerConfig))
def test_an_empty_message_of_a_container_changes_only_its_targets(path: str) -> None:
    """Compared with one that is not set."""
    targets = declared("ContainerConfig", f"ContainerConfig.{path}")
    for base in CONTAINER_BASES:
        before, after = (
            container_targets(config, PRIVILEGED, oci_specs.HOST)
            for config in unset_and_empty(base, path)
        )
        assert undeclared(changed(before, after), targets) == set()


@pytest.mark.parametrize("path", parents(api_pb2.PodSandboxConfig))
def test_an_empty_message_of_a_pod_changes_only_its_targets(path: str) -> None:
    """Compared with one that is not set."""
    targets = declared("PodSandboxConfig", f"PodSandboxConfig.{path}")
    for base in POD_BASES:
        before, after = (
            pod_targets(config, oci_specs.HOST) for config in unset_and_empty(base, path)
        )
        assert undeclared(changed(before, after), targets) == set()


@pytest.mark.parametrize(
    ("root", "field", "expected"),
    [
        (
            "ContainerConfig",
            "ContainerConfig.tty",
            {"plan.closes_input", "plan.terminal", "process.env", "process.terminal"},
        ),
        (
            "ContainerConfig",
            "ContainerConfig.linux.resources.cpu_shares",
            {"linux.resources.cpu.shares"},
        ),
        (
            "ContainerConfig",
            "PodSandboxConfig.metadata.uid",
            {"plan.container_name", "annotations[io.kubernetes.cri.sandbox-uid]"},
        ),
        (
            "PodSandboxConfig",
            "PodSandboxConfig.dns_config.servers",
            {"plan.resolv_conf", "cni.dns", "cni.dns.servers"},
        ),
    ],
)
def test_the_declared_targets_are_those_of_entries_that_read_the_field(
    root: str, field: str, expected: set[str]
) -> None:
    """Above, no change is allowed because the mapping was misread."""
    assert declared(root, field) == expected
