"""What can be told of a pod or container whose record is damaged, from the rest of containerd's
record: labels, image and OCI spec.

Without it the object would be in no list: nobody could stop or remove it, and removing its pod
would leave its process, its root file system and its network namespace. The config of the request
is lost, so such an object is only listed, stopped and removed; a kubelet replaces it.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from generated.containerd import containers_pb2
from generated.cri import api_pb2
from runtime.documents import DocumentError, decode
from runtime.store.records import RecordError
from runtime.transforms import facts
from runtime.transforms.annotations import (
    CONTAINER_NAME,
    SANDBOX_ID,
    SANDBOX_NAME,
    SANDBOX_NAMESPACE,
    SANDBOX_UID,
)

_INTERNAL_LABELS = ("containerd.io/", "io.cri-containerd")


class _Namespace(msgspec.Struct):
    type: str
    path: str = ""


class _Linux(msgspec.Struct):
    namespaces: list[_Namespace] | None = None


class _Spec(msgspec.Struct):
    annotations: dict[str, str] | None = None
    linux: _Linux | None = None


def sandbox(record: containers_pb2.Container, damage: RecordError) -> facts.SandboxMetadata:
    """A pod from the record of its pause container; raises ``damage`` if it is no such record."""
    spec, annotations = _spec(record, damage)
    if annotations.get(SANDBOX_ID) != record.id:
        raise damage
    namespaces = (spec.linux and spec.linux.namespaces) or []
    netns_path = next((one.path for one in namespaces if one.type == "network"), "")
    config = api_pb2.PodSandboxConfig(
        metadata=api_pb2.PodSandboxMetadata(
            name=annotations.get(SANDBOX_NAME, ""),
            namespace=annotations.get(SANDBOX_NAMESPACE, ""),
            uid=annotations.get(SANDBOX_UID, ""),
        ),
        labels=_labels(record),
    )
    if not netns_path:
        config.linux.security_context.namespace_options.network = api_pb2.NODE
    # its reserved name is lost, and no other object has this one
    return facts.SandboxMetadata(record.id, record.id, config, netns_path=netns_path)


def container(record: containers_pb2.Container, damage: RecordError) -> facts.ContainerMetadata:
    """A container from its record; raises ``damage`` if the record does not name its pod."""
    _, annotations = _spec(record, damage)
    sandbox_id = annotations.get(SANDBOX_ID, "")
    if not sandbox_id:
        raise damage
    name = annotations.get(CONTAINER_NAME, "")
    config = api_pb2.ContainerConfig(
        metadata=api_pb2.ContainerMetadata(name=name),
        image=api_pb2.ImageSpec(image=record.image),
        labels=_labels(record),
    )
    return facts.ContainerMetadata(
        record.id, record.id, sandbox_id, config, image_name=record.image
    )


def _spec(record: containers_pb2.Container, damage: RecordError) -> tuple[_Spec, Mapping[str, str]]:
    try:
        spec = decode(record.spec.value, _Spec)
    except DocumentError:
        raise damage from None
    return spec, spec.annotations or {}


def _labels(record: containers_pb2.Container) -> dict[str, str]:
    return {
        key: value for key, value in record.labels.items() if not key.startswith(_INTERNAL_LABELS)
    }
