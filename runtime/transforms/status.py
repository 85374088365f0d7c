"""Values in a container's status that differ from its record."""

from __future__ import annotations

from typing import cast

from generated import lifecycle
from generated.cri import api_pb2
from runtime.transforms import signals


def event_type(*, kind: str) -> api_pb2.ContainerEventType:
    """The event by its name in spec/lifecycle.yaml."""
    return cast("api_pb2.ContainerEventType", api_pb2.ContainerEventType.Value(kind))


def container_state(*, state: lifecycle.ContainerState) -> api_pb2.ContainerState:
    """One of the CRI's four states, by spec/lifecycle.yaml."""
    return lifecycle.CRI_CONTAINER_STATE[state]


def exit_reason(*, state: lifecycle.ContainerState, exit_code: int, reason: str) -> str:
    """Why a container exited: the recorded reason, else Completed or Error by its exit code.

    The kubelet shows this word to users and counts restarts by it.
    """
    if reason or lifecycle.CRI_CONTAINER_STATE[state] != api_pb2.CONTAINER_EXITED:
        return reason
    return "Completed" if exit_code == 0 else "Error"


def stop_signal(*, requested: api_pb2.Signal, from_image: str) -> api_pb2.Signal:
    """The configured stop signal; the default signal is not reported."""
    return signals.stop_signal(requested=requested, from_image=from_image)


def image_spec(*, requested: api_pb2.ImageSpec, tags: tuple[str, ...]) -> api_pb2.ImageSpec:
    """The image under a readable name: its first tag, else as requested.

    There are no tags if the image was removed while the container exists.
    """
    if not tags:
        return requested
    shown = api_pb2.ImageSpec()
    shown.CopyFrom(requested)
    shown.image = tags[0]
    return shown


def image_ref(*, digests: tuple[str, ...], image_id: str) -> str:
    """The image as known to a registry: its first digest, else the ID that the container was
    created from."""
    return digests[0] if digests else image_id


def supplemental_groups(*, additionalGids: list[int]) -> list[int]:
    """The supplemental groups of the process; the CRI's list only has a wider type."""
    return list(additionalGids)


def value_or_zero(*, value: int | None) -> int:
    """The CRI has no unset numbers: 0 means "not set"."""
    return value or 0
