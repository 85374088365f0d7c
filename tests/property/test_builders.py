"""The builders against the whole CRI: schema, refusals, and the mapping as its own oracle."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import pytest
from google.protobuf.message import Message
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from generated import cni, plans, provenance
from generated.cri import api_pb2
from generated.oci import (
    linux_container_resources,
    types,
    update_container_resources_request,
)
from generated.statuses import linux_container_resources as shown_resources
from generated.validators import container_config as container_validator
from generated.validators import linux_container_resources as resources_validator
from generated.validators import pod_sandbox_config as pod_validator
from runtime.errors import CriError, InvalidArgument
from tests import oci_specs
from tests.property import messages

pytestmark = pytest.mark.property

PODS = messages.valid(api_pb2.PodSandboxConfig, pod_validator.check)
CONTAINERS = messages.valid(api_pb2.ContainerConfig, container_validator.check)
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
    asked=messages.valid(api_pb2.LinuxContainerResources, resources_validator.check),
    earlier=messages.valid(api_pb2.LinuxContainerResources, resources_validator.check),
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


@settings(max_examples=100, deadline=None, suppress_health_check=QUIET)
@given(
    asked=messages.valid(api_pb2.LinuxContainerResources, resources_validator.check),
    earlier=messages.valid(api_pb2.LinuxContainerResources, resources_validator.check),
)
def test_an_update_gives_the_spec_that_a_creation_gives(
    asked: api_pb2.LinuxContainerResources, earlier: api_pb2.LinuxContainerResources
) -> None:
    """That of a container created with what was requested last of each resource."""
    last = api_pb2.LinuxContainerResources()
    last.CopyFrom(earlier)
    last.MergeFrom(asked)
    last.oom_score_adj = asked.oom_score_adj  # 0 is a value
    # without a limit for swap, that of memory limits both
    for one in (earlier, asked):
        swap = one.memory_swap_limit_in_bytes or one.memory_limit_in_bytes
        last.memory_swap_limit_in_bytes = swap or last.memory_swap_limit_in_bytes
    request = api_pb2.UpdateContainerResourcesRequest(linux=asked)
    updated, created = types.Spec(), types.Spec()
    try:
        linux_container_resources.apply(earlier, updated, host=oci_specs.HOST)
        update_container_resources_request.apply(request, updated, host=oci_specs.HOST)
        linux_container_resources.apply(last, created, host=oci_specs.HOST)
    except InvalidArgument as error:
        assert error.field
        return
    assert updated.to_dict() == created.to_dict()


def fields(message: type[Message], path: str = "") -> Iterator[str]:
    """Paths of the fields of entries: those of a message whose own entries write targets, else the
    field as a whole."""
    for field in message.DESCRIPTOR.fields:
        here = f"{path}.{field.name}" if path else field.name
        whole = f"{message.DESCRIPTOR.name}.{field.name}"
        if whole in messages.LEFT_OUT:
            continue
        nested = field.message_type
        if nested is not None and not field.is_repeated and nested.name in WITH_ENTRIES:
            yield from fields(getattr(api_pb2, nested.name), here)
        else:
            yield here


WITH_ENTRIES = {
    "ContainerMetadata",
    "LinuxContainerConfig",
    "LinuxContainerResources",
    "LinuxContainerSecurityContext",
    "LinuxPodSandboxConfig",
    "LinuxSandboxSecurityContext",
    "NamespaceOption",
    "PodSandboxMetadata",
}


def declared(root: str, field: str) -> set[str]:
    """The targets of a spec of ``root`` whose entries name ``field`` (of either config) as theirs
    or as an input."""
    return {
        target
        for target, entries in provenance.TARGETS.items()
        for entry in entries
        if entry.field.partition(".")[0] == root
        and any(_meets(field, named) for named in _named(entry))
    }


def _named(entry: provenance.Entry) -> Iterator[str]:
    """Full paths of the fields that an entry reads."""
    yield entry.field
    message = entry.field.rpartition(".")[0] or entry.field
    for path in entry.inputs:
        for context, root in (
            ("container.metadata.config.", "ContainerConfig."),
            ("sandbox.metadata.config.", "PodSandboxConfig."),
        ):
            if path.startswith(context):
                yield root + path.removeprefix(context)
        # an entry under targets carries its message as its field
        yield f"{message}.{path}"
        yield f"{entry.field}.{path}"


def _meets(field: str, named: str) -> bool:
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


def undeclared(found: set[str], targets: set[str]) -> set[str]:
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
POD_BASES = st.sampled_from(
    [
        api_pb2.PodSandboxConfig(metadata=api_pb2.PodSandboxMetadata(name="p", uid="u")),
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
    ]
)
CONTAINER_BASES = st.sampled_from(
    [
        api_pb2.ContainerConfig(
            metadata=api_pb2.ContainerMetadata(name="c"), image=api_pb2.ImageSpec(image="i")
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
    ]
)
ONE_FIELD = settings(max_examples=20, deadline=None, suppress_health_check=QUIET)
HANDLER = replace(
    oci_specs.HANDLER, pod_annotations=("*", "*/*"), container_annotations=("*", "*/*")
)


@pytest.mark.parametrize("path", [*fields(api_pb2.ContainerConfig)])
@ONE_FIELD
@given(data=st.data(), base=CONTAINER_BASES)
def test_a_container_field_changes_only_its_targets(
    path: str, data: st.DataObject, base: api_pb2.ContainerConfig
) -> None:
    def build(config: api_pb2.ContainerConfig) -> dict[str, Any]:
        built = oci_specs.build_container(config, PRIVILEGED, handler=HANDLER)
        sandbox = oci_specs.sandbox(PRIVILEGED)
        new = plans.plan_new_container(
            config, host=oci_specs.HOST, image=oci_specs.IMAGE, sandbox=sandbox
        )
        return built.flat() | planned(plans.plan_container(config), new)

    before = with_parents(base, path)
    after = with_value(before, path, data.draw(_values(api_pb2.ContainerConfig, path)))
    assume(not container_validator.check(after) and _builds(build, after))
    targets = declared("ContainerConfig", f"ContainerConfig.{path}")
    assert undeclared(changed(build(before), build(after)), targets) == set()


@pytest.mark.parametrize("path", [*fields(api_pb2.PodSandboxConfig)])
@ONE_FIELD
@given(data=st.data(), base=POD_BASES)
def test_a_pod_field_changes_only_its_targets(
    path: str, data: st.DataObject, base: api_pb2.PodSandboxConfig
) -> None:
    """In the pause container's spec and plans, in what CNI plugins are told, and in the specs and
    plans of the pod's containers."""

    def build_pod(config: api_pb2.PodSandboxConfig) -> dict[str, Any]:
        built = oci_specs.build_pod(config, handler=HANDLER)
        new = plans.plan_new_pod(config, host=oci_specs.HOST, image=oci_specs.PAUSE)
        return built.flat() | planned(plans.plan_sandbox(config), new) | told(config)

    def build_container(config: api_pb2.PodSandboxConfig) -> dict[str, Any]:
        container = api_pb2.ContainerConfig()
        options = config.linux.security_context.namespace_options
        container.linux.security_context.namespace_options.CopyFrom(options)
        built = oci_specs.build_container(container, config, handler=HANDLER)
        new = plans.plan_new_container(
            container,
            host=oci_specs.HOST,
            image=oci_specs.IMAGE,
            sandbox=oci_specs.sandbox(config),
        )
        return built.flat() | planned(plans.plan_container(container), new)

    before = with_parents(base, path)
    after = with_value(before, path, data.draw(_values(api_pb2.PodSandboxConfig, path)))
    assume(not pod_validator.check(after))
    for root, build in (("PodSandboxConfig", build_pod), ("ContainerConfig", build_container)):
        assume(_builds(build, after))
        targets = declared(root, f"PodSandboxConfig.{path}")
        if root == "ContainerConfig" and ".namespace_options." in path:
            # the container above repeats its pod's
            targets |= declared(root, f"ContainerConfig.{path}")
        assert undeclared(changed(build(before), build(after)), targets) == set()
