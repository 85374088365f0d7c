"""Requests that no kubelet sends: each is refused with a field, or builds a valid spec."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from generated.cri import api_pb2
from generated.validators import container_config, pod_sandbox_config
from runtime.errors import CriError, Violation
from runtime.frame import described
from tests import oci_specs
from tests.property import messages

pytestmark = pytest.mark.property

_TEXT = st.sampled_from(
    [
        "",
        "\0",
        "a\0b",
        "../../../x",
        "/",
        "rel/ative",
        "..",
        "x" * 5000,
        "é\ud7ff",
        "a\nb",
        "-1",
        "%s",
    ]
)
_BYTES = st.sampled_from([b"", b"\0", b"\xff\xfe", b"x" * 5000])
_ENUM = st.sampled_from([-1, 0, 1, 2, 3, 99])
_BOUNDS = {
    FieldDescriptor.CPPTYPE_INT32: (-(2**31), 2**31 - 1),
    FieldDescriptor.CPPTYPE_INT64: (-(2**63), 2**63 - 1),
    FieldDescriptor.CPPTYPE_UINT32: (0, 2**32 - 1),
    FieldDescriptor.CPPTYPE_UINT64: (0, 2**64 - 1),
}


def extremes(field: FieldDescriptor) -> st.SearchStrategy[Any]:
    """Values of a field that holds no message, at the limits of its type."""
    if field.enum_type is not None:
        return _ENUM
    if field.cpp_type == FieldDescriptor.CPPTYPE_BOOL:
        return st.booleans()
    if field.type == FieldDescriptor.TYPE_BYTES:
        return _BYTES
    if field.cpp_type == FieldDescriptor.CPPTYPE_STRING:
        return _TEXT
    low, high = _BOUNDS[field.cpp_type]
    return st.sampled_from([low, max(low, -5), max(low, -1), 0, 1, high])


def leaves(message: type[Message], path: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    """The paths of all fields below a message that hold no message themselves."""
    found = []
    for field in message.DESCRIPTOR.fields:
        here = (*path, field.name)
        if field.name in ("windows", "CDI_devices"):
            continue
        if field.message_type is None or field.message_type.GetOptions().map_entry:
            found.append(here)
        else:
            found += leaves(getattr(api_pb2, field.message_type.name), here)
    return found


@st.composite
def spoilt(draw: st.DrawFn, message: type[Message], valid: st.SearchStrategy[Any]) -> Any:
    """A valid message in which one field has an extreme value."""
    made = draw(valid)
    *above, last = draw(st.sampled_from(leaves(message)))
    place = made
    for name in above:
        descriptor = place.DESCRIPTOR.fields_by_name[name]
        below = getattr(place, name)
        if descriptor.is_repeated:
            below = below[0] if below else below.add()
        place = below
    field = place.DESCRIPTOR.fields_by_name[last]
    if field.message_type is not None:
        key = draw(_TEXT)
        getattr(place, last)[key] = draw(_TEXT)
    elif field.is_repeated:
        getattr(place, last).append(draw(extremes(field)))
    else:
        setattr(place, last, draw(extremes(field)))
    return made


SETTINGS = settings(
    max_examples=300,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)
PODS = spoilt(
    api_pb2.PodSandboxConfig, messages.valid(api_pb2.PodSandboxConfig, pod_sandbox_config.check)
)
CONTAINERS = spoilt(
    api_pb2.ContainerConfig, messages.valid(api_pb2.ContainerConfig, container_config.check)
)


def judged(
    request: Any, check: Callable[[Any], list[Violation]], build: Callable[[Any], oci_specs.Built]
) -> None:
    described(request)
    violations = check(request)
    if violations:
        assert all(violation.field and violation.detail for violation in violations)
        return
    try:
        built = build(request)
    except CriError as error:
        assert error.field
        return
    oci_specs.check_schema(built.spec)
    assert "\0" not in repr(built.spec.process) + repr(built.spec.mounts)


@SETTINGS
@given(PODS)
def test_a_hostile_pod_is_refused_with_a_field_or_fits_the_schema(
    pod: api_pb2.PodSandboxConfig,
) -> None:
    judged(pod, pod_sandbox_config.check, oci_specs.build_pod)


@SETTINGS
@given(CONTAINERS)
def test_a_hostile_container_is_refused_with_a_field_or_fits_the_schema(
    container: api_pb2.ContainerConfig,
) -> None:
    judged(container, container_config.check, oci_specs.build_container)


@pytest.mark.parametrize(
    ("message", "check"),
    [
        (api_pb2.PodSandboxConfig, pod_sandbox_config.check),
        (api_pb2.ContainerConfig, container_config.check),
    ],
)
def test_no_text_of_a_request_may_hold_a_nul(
    message: type[Message], check: Callable[[Any], list[Violation]]
) -> None:
    """Every text field, one at a time, except annotations and ignored fields."""
    ignored = {"annotations", "selinux_options", "user_specified_image", "image_ref"}
    if message is api_pb2.PodSandboxConfig:
        ignored |= {"overhead", "apparmor"}
    missed = []
    for path in leaves(message):
        made: Any = message()
        place = made
        for name in path[:-1]:
            below = getattr(place, name)
            place = below.add() if place.DESCRIPTOR.fields_by_name[name].is_repeated else below
        field = place.DESCRIPTOR.fields_by_name[path[-1]]
        if field.message_type is not None:
            getattr(place, path[-1])["a\0"] = "v"
        elif field.cpp_type != FieldDescriptor.CPPTYPE_STRING:
            continue
        else:
            value: Any = b"\0" if field.type == FieldDescriptor.TYPE_BYTES else "\0"
            if field.is_repeated:
                getattr(place, path[-1]).append(value)
            else:
                setattr(place, path[-1], value)
        rules = {found.rule for found in check(made)}
        if not ignored & set(path) and not rules & {"no_nul", "unsupported"}:
            missed.append(".".join(path))
    assert missed == []
