"""Encodings of values that containerd stores or passes on: typed JSON and bare protobuf."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, Protocol

import msgspec
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.message import Message

from generated.containerd import types_pb2

_OCI: Final = "types.containerd.io/opencontainers/runtime-spec/1"
SPEC_TYPE_URL: Final = f"{_OCI}/Spec"
PROCESS_TYPE_URL: Final = f"{_OCI}/Process"
RESOURCES_TYPE_URL: Final = f"{_OCI}/LinuxResources"


class OciSpec(Protocol):
    """`generated.oci.types.Spec`."""

    def to_json(self) -> bytes: ...


class OciResources(Protocol):
    """`generated.oci.types.LinuxResources`."""

    def to_dict(self) -> dict[str, Any]: ...


def with_options(
    mounts: Iterable[types_pb2.Mount], options: Sequence[str]
) -> list[types_pb2.Mount]:
    """Copies of the mounts with further options."""
    return [
        types_pb2.Mount(
            type=mount.type,
            source=mount.source,
            target=mount.target,
            options=[*mount.options, *options],
        )
        for mount in mounts
    ]


def oci_any(spec: OciSpec) -> AnyMessage:
    """An OCI spec encoded for ``Container.spec``."""
    return AnyMessage(type_url=SPEC_TYPE_URL, value=spec.to_json())


def process_any(process: Mapping[str, Any]) -> AnyMessage:
    """An OCI process, as a JSON object, encoded for ``ExecProcessRequest.spec``."""
    return AnyMessage(type_url=PROCESS_TYPE_URL, value=msgspec.json.encode(process))


def resources_any(resources: OciResources) -> AnyMessage:
    """OCI resources encoded for ``UpdateTaskRequest.resources``."""
    return AnyMessage(type_url=RESOURCES_TYPE_URL, value=msgspec.json.encode(resources.to_dict()))


def proto_any(message: Message) -> AnyMessage:
    """A protobuf message under its bare name: containerd does not use ``type.googleapis.com/``."""
    return AnyMessage(type_url=message.DESCRIPTOR.full_name, value=message.SerializeToString())
