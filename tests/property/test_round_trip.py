"""What a status shows is what was requested, after the way through the OCI spec and the records.

Which field is shown by which is read from the mapping, so a new entry of a status is tested when it
is written, or must be listed here.
"""

from __future__ import annotations

import asyncio
import os.path
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, cast

import pytest
import yaml
from google.protobuf.message import Message
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from generated import plans
from generated.cri import api_pb2
from generated.lifecycle import ContainerState, SandboxState
from generated.oci import types
from generated.statuses import container as listed_container
from generated.statuses import container_status, pod_sandbox_status
from generated.statuses import pod_sandbox as listed_pod
from generated.validators import container_config as container_validator
from generated.validators import linux_container_resources as resources_validator
from generated.validators import pod_sandbox_config as pod_validator
from runtime.containers.specs import Specs
from runtime.errors import CriError
from runtime.store import records
from runtime.transforms import facts
from tests import oci_specs
from tests.property import messages

pytestmark = pytest.mark.property

MAPPING = Path(__file__).parents[2] / "spec" / "mapping"
CONFIG = ("container.metadata.config.", "sandbox.metadata.config.")
PODS = messages.valid(api_pb2.PodSandboxConfig, pod_validator.check)
CONTAINERS = messages.valid(api_pb2.ContainerConfig, container_validator.check)
RESOURCES = messages.valid(api_pb2.LinuxContainerResources, resources_validator.check)
QUIET = [HealthCheck.too_slow, HealthCheck.filter_too_much, HealthCheck.data_too_large]


@dataclass(frozen=True)
class Trip:
    """A request, and what was looked up for it."""

    config: Any
    pod: api_pb2.PodSandboxConfig
    handler: str
    user: facts.User


def _swap(trip: Trip) -> int:
    resources = trip.config.linux.resources
    return int(resources.memory_swap_limit_in_bytes or resources.memory_limit_in_bytes)


def _log_path(trip: Trip) -> str:
    directory, path = trip.pod.log_directory, trip.config.log_path
    return os.path.normpath(f"{directory}/{path}") if directory and path else ""


def _hugepage_limits(trip: Trip) -> list[tuple[str, int]]:
    """The last limit of each page size, in the order of the first."""
    limits = trip.config.linux.resources.hugepage_limits
    return list({limit.page_size: limit.limit for limit in limits}.items())


REQUESTED: dict[str, Callable[[Trip], Any]] = {
    "ContainerStatus.image": lambda trip: trip.config.image,
    "ContainerStatus.log_path": _log_path,
    "ContainerStatus.stop_signal": lambda trip: trip.config.stop_signal or api_pb2.SIGTERM,
    "LinuxContainerResources.hugepage_limits": _hugepage_limits,
    "LinuxContainerResources.memory_swap_limit_in_bytes": _swap,
    "LinuxContainerUser.gid": lambda trip: trip.user.gid,
    "LinuxContainerUser.supplemental_groups": lambda trip: list(trip.user.additional_gids),
    "LinuxContainerUser.uid": lambda trip: trip.user.uid,
    "PodSandbox.runtime_handler": lambda trip: trip.handler,
    "PodSandboxStatus.runtime_handler": lambda trip: trip.handler,
}
"""What a field shows that is not a copy: of the request, or of what was looked up for it."""

NOT_REQUESTED = {
    *(
        f"{kind}.{name}"
        for kind in ("ContainerStatus", "Container", "PodSandboxStatus", "PodSandbox")
        for name in ("id", "state", "created_at", "image_ref", "image_id")
    ),
    *(f"ContainerStatus.{name}" for name in ("started_at", "finished_at", "exit_code")),
    *("ContainerStatus.reason", "ContainerStatus.message", "Container.pod_sandbox_id"),
    *("PodSandboxNetworkStatus.ip", "PodSandboxNetworkStatus.additional_ips"),
}
"""What happened, and names that the server gives."""


@dataclass(frozen=True)
class Shown:
    """A field of a status."""

    name: str
    """``Message.field``."""
    path: str
    """From the status to the field."""
    source: str
    """The path in the config that it shows; "" if ``REQUESTED`` says what it shows."""


@cache
def _file(message: str) -> dict[str, Any]:
    (found,) = [
        path for path in MAPPING.glob("*.yaml") if path.stem.replace("_", "") == message.lower()
    ]
    read: dict[str, Any] = yaml.safe_load(found.read_text())
    return read


def shown_fields(message: str, path: str = "") -> Iterator[Shown]:
    """The fields of a status that have a counterpart in its request."""
    file = _file(message)
    for name, entry in file["fields"].items():
        here, whole = f"{path}{name}", f"{message}.{name}"
        copied = str(entry.get("copy", ""))
        if whole in NOT_REQUESTED or "unmapped" in entry:
            continue
        if whole in REQUESTED:
            yield Shown(whole, here, "")
        elif copied.startswith(CONFIG):
            yield Shown(whole, here, copied.partition(".config.")[2])
        elif copied == "fields":
            kind = getattr(api_pb2, message).DESCRIPTOR.fields_by_name[name].message_type
            yield from shown_fields(kind.name, f"{here}.")
        elif file["flow"] == "both":
            # read back from where the field of the same name was written
            yield Shown(whole, here, f"linux.resources.{name}")
        else:
            pytest.fail(f"{whole}: say in REQUESTED what of a request it shows, or NOT_REQUESTED")


def of_container(trip: Trip) -> tuple[facts.Container, types.Spec]:
    """The container and its spec, as read after a restart."""
    built = oci_specs.build_container(trip.config, trip.pod, user=trip.user)
    plan = plans.plan_new_container(
        trip.config,
        host=oci_specs.HOST,
        image=oci_specs.IMAGE,
        sandbox=oci_specs.sandbox(trip.pod),
    )
    metadata = facts.ContainerMetadata(
        id=oci_specs.CONTAINER_ID,
        name="reserved",
        sandbox_id=oci_specs.SANDBOX_ID,
        config=trip.config,
        image_ref=oci_specs.IMAGE.id,
        image_name=oci_specs.IMAGE.reference,
        log_path=plan.log_path,
    )
    read = records.container_metadata(records.container_metadata_json(metadata))
    specs = Specs(cast(Any, None))
    specs.remember(read.id, types.Spec.from_json(built.spec.to_json()))
    spec = asyncio.run(specs.shown(read.id))
    return facts.Container(read, facts.ContainerStatus(ContainerState.CREATED)), spec


def of_pod(trip: Trip) -> facts.Sandbox:
    """The pod, as read after a restart."""
    metadata = facts.SandboxMetadata(
        id=oci_specs.SANDBOX_ID,
        name="reserved",
        config=trip.config,
        runtime_handler=trip.handler,
        config_json=records.config_json(trip.config),
    )
    read = records.sandbox_metadata(records.sandbox_metadata_json(metadata))
    return facts.Sandbox(read, facts.SandboxStatus(SandboxState.READY))


def _value(message: Any, path: str) -> Any:
    for name in path.split("."):
        message = getattr(message, name)
    return message


def _plain(value: Any) -> Any:
    """A value that can be compared; unset messages are empty ones."""
    if isinstance(value, Message):
        return value.SerializeToString(deterministic=True)
    if hasattr(value, "items"):
        return dict(value)
    if hasattr(value, "add"):
        return [_plain(item) for item in value]
    return list(value) if hasattr(value, "append") else value


def _differing(status: Any, trip: Trip) -> Iterator[str]:
    for field in shown_fields(type(status).__name__):
        shown = _value(status, field.path)
        expected = (
            _value(trip.config, field.source) if field.source else REQUESTED[field.name](trip)
        )
        if field.name == "LinuxContainerResources.hugepage_limits":
            shown = [(limit.page_size, limit.limit) for limit in shown]
        if _plain(shown) != _plain(expected):
            yield f"{field.name}: {shown!r} instead of {expected!r}"


USERS = st.builds(
    facts.User,
    uid=st.integers(0, 2**31 - 1),
    gid=st.integers(0, 2**31 - 1),
    additional_gids=st.sets(st.integers(0, 2**31 - 1), max_size=2).map(
        lambda gids: tuple(sorted(gids))
    ),
)


@settings(max_examples=100, deadline=None, suppress_health_check=QUIET)
@given(config=CONTAINERS, resources=RESOURCES, pod=PODS, user=USERS)
def test_the_status_of_a_container_shows_its_request(
    config: api_pb2.ContainerConfig,
    resources: api_pb2.LinuxContainerResources,
    pod: api_pb2.PodSandboxConfig,
    user: facts.User,
) -> None:
    config.linux.resources.CopyFrom(resources)  # else each would seldom be set
    trip = Trip(config, pod, "", user)
    try:
        container, spec = of_container(trip)
    except CriError:
        assume(False)
    shown = container_status.read(container=container, image=facts.Image(), spec=spec)
    assert list(_differing(shown, trip)) == []
    assert list(_differing(listed_container.read(container=container), trip)) == []


@settings(max_examples=100, deadline=None, suppress_health_check=QUIET)
@given(config=PODS, handler=st.sampled_from(["", "runc", "ü"]))
def test_the_status_of_a_pod_shows_its_request(
    config: api_pb2.PodSandboxConfig, handler: str
) -> None:
    trip = Trip(config, config, handler, facts.User())
    sandbox = of_pod(trip)
    assert list(_differing(pod_sandbox_status.read(sandbox=sandbox), trip)) == []
    assert list(_differing(listed_pod.read(sandbox=sandbox), trip)) == []


TIMES = st.integers(1, 2**63 - 1)


@settings(max_examples=100, deadline=None, suppress_health_check=QUIET)
@given(
    times=st.lists(TIMES, min_size=1, max_size=3),
    pid=st.integers(0, 2**31 - 1),
    exit_code=st.integers(0, 2**31 - 1),
    texts=st.tuples(st.text(max_size=20), st.text(max_size=20)),
    resources=st.none() | RESOURCES,
)
def test_the_status_of_a_container_shows_what_happened_before_a_restart(
    times: list[int],
    pid: int,
    exit_code: int,
    texts: tuple[str, str],
    resources: api_pb2.LinuxContainerResources | None,
) -> None:
    states = (ContainerState.CREATED, ContainerState.RUNNING, ContainerState.EXITED)
    limits = None if resources is None else api_pb2.ContainerResources(linux=resources)
    before = facts.ContainerStatus(
        states[len(times) - 1],
        pid=pid,
        exit_code=exit_code,
        reason=texts[0],
        message=texts[1],
        resources=limits,
        **dict(zip(("created_at", "started_at", "finished_at"), times, strict=False)),
    )
    after = records.container_status(records.container_status_json(before))
    assert after == before
    metadata = facts.ContainerMetadata(
        id="c", name="reserved", sandbox_id="s", config=api_pb2.ContainerConfig()
    )
    shown = container_status.read(
        container=facts.Container(metadata, after), image=facts.Image(), spec=types.Spec()
    )
    happened = (shown.created_at, shown.started_at, shown.finished_at)
    assert happened == (*times, 0, 0)[:3]
    assert (shown.state, shown.exit_code, shown.message) == (len(times) - 1, exit_code, texts[1])
    if texts[0]:
        assert shown.reason == texts[0]


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        (
            "ContainerStatus",
            {
                *("metadata", "image", "labels", "annotations", "mounts", "log_path"),
                *("stop_signal", "user.linux.uid", "user.linux.gid"),
                *("resources.linux.cpu_shares", "resources.linux.unified"),
            },
        ),
        ("Container", {"metadata", "image", "labels", "annotations"}),
        ("PodSandboxStatus", {"metadata", "labels", "linux.namespaces.options", "runtime_handler"}),
        ("PodSandbox", {"metadata", "labels", "annotations", "runtime_handler"}),
    ],
)
def test_the_mapping_says_which_fields_show_a_request(message: str, expected: set[str]) -> None:
    """Above, no field is left out because the mapping was misread."""
    assert expected <= {field.path for field in shown_fields(message)}
