"""The records that outlive this process, in the format of containerd's built-in CRI plugin.

A node can switch between the built-in plugin and this server because both use the same places:

* the extension ``io.cri-containerd.sandbox.metadata`` of the pause container,
* the extension ``io.cri-containerd.container.metadata`` of a container,
* the status file ``<root>/io.containerd.grpc.v1.cri/containers/<id>/status``.

All three contain what Go's ``encoding/json`` writes for the plugin's structs: CRI messages with
their proto field names, enums and 64-bit integers as numbers, bytes in base64, zero values omitted.
That is not protobuf's own JSON mapping, hence the pair `to_go` and `from_go`. Reading accepts
``null`` and ignores keys of newer plugins; anything else that does not fit raises `RecordError`.

This module only translates values; `runtime.store.objects` decides when they are written.
"""

from __future__ import annotations

import binascii
from base64 import b64decode
from collections.abc import Iterator, Mapping
from typing import Any, TypeVar

import msgspec
from google.protobuf.any_pb2 import Any as ProtoAny
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

from generated.cri import api_pb2
from generated.lifecycle import ContainerState
from runtime.transforms import facts

SANDBOX_EXTENSION = "io.cri-containerd.sandbox.metadata"
CONTAINER_EXTENSION = "io.cri-containerd.container.metadata"

SANDBOX_METADATA_URL = "github.com/containerd/cri/pkg/store/sandbox/Metadata"
CONTAINER_METADATA_URL = "github.com/containerd/cri/pkg/store/container/Metadata"

_VERSION = "v1"

LARGEST = 64 << 20
"""Maximum bytes of a record in a file; the config in it comes from a message of at most 16 MiB."""

_INT32 = (1 << 31) - 1
_INT64 = (1 << 63) - 1

M = TypeVar("M", bound=Message)


class RecordError(ValueError):
    """A record cannot be read; the message names the invalid part."""


def to_go(message: Message) -> dict[str, Any]:
    """The message as Go's ``encoding/json`` prints the struct that cri-api generates for it.

    Bytes stay bytes: msgspec encodes them in base64, as Go does.
    """
    return {field.name: _go_value(field, value) for field, value in message.ListFields()}


def _go_value(field: FieldDescriptor, value: Any) -> Any:
    if _is_map(field):
        return dict(value)
    if field.message_type is None:
        return list(value) if field.is_repeated else value
    return [to_go(item) for item in value] if field.is_repeated else to_go(value)


def _is_map(field: FieldDescriptor) -> bool:
    return field.message_type is not None and field.message_type.GetOptions().map_entry


def from_go(kind: type[M], value: object, path: str = "") -> M:
    """The message for ``value``, which is parsed JSON in Go's format.

    Keys that this CRI version lacks are ignored: they come from a newer plugin, and rejecting them
    would lose the pod.
    """
    message = kind()
    fields: Any = kind.DESCRIPTOR.fields_by_name
    for key, item in _items(value, path):
        field: FieldDescriptor | None = fields.get(key)
        if field is None or item is None:
            continue
        try:
            _set(message, field, item, f"{path}.{key}" if path else key)
        except (TypeError, ValueError) as error:
            if isinstance(error, RecordError):
                raise
            raise RecordError(f"{path}.{key}: {error}" if path else f"{key}: {error}") from error
    return message


def _items(value: object, path: str) -> Iterator[tuple[str, Any]]:
    if not isinstance(value, Mapping):
        raise RecordError(f"{path or 'record'}: expected an object, not {type(value).__name__}")
    yield from value.items()


def _set(message: Message, field: FieldDescriptor, item: Any, path: str) -> None:
    target = getattr(message, field.name)
    if _is_map(field):
        for key, value in _items(item, path):
            target[key] = value
    elif field.message_type is not None:
        nested = GetMessageClass(field.message_type)
        if field.is_repeated:
            for index, value in enumerate(item):
                target.append(from_go(nested, value, f"{path}[{index}]"))
        else:
            target.SetInParent()
            target.CopyFrom(from_go(nested, item, path))
    elif field.is_repeated:
        target.extend(item)
    elif field.type == FieldDescriptor.TYPE_BYTES:
        setattr(message, field.name, _bytes(item))
    else:
        setattr(message, field.name, item)


def _bytes(text: str) -> bytes:
    """The bytes of a base64 string, or the text itself.

    ``KeyValue.value`` was a string until cri-api 0.36.2, so the plugins of older containerd
    releases wrote plain text.
    """
    try:
        return b64decode(text, validate=True)
    except binascii.Error:
        return text.encode()


# Extensions


def config_json(config: api_pb2.PodSandboxConfig) -> bytes:
    """The config as `sandbox_metadata_json` has it."""
    return msgspec.json.encode(to_go(config))


def sandbox_metadata_json(metadata: facts.SandboxMetadata) -> bytes:
    """The value of the pause container's extension."""
    return _versioned(
        {
            "ID": metadata.id,
            "Name": metadata.name,
            "Config": (
                msgspec.Raw(metadata.config_json)
                if metadata.config_json
                else to_go(metadata.config)
            ),
            "NetNSPath": metadata.netns_path,
            "IP": metadata.ip,
            "AdditionalIPs": list(metadata.additional_ips) or None,
            "RuntimeHandler": metadata.runtime_handler,
            "CNIResult": metadata.cni_result,
            "ProcessLabel": metadata.process_label,
            "UpdatedResources": metadata.resized and pod_resources_to_go(metadata.resized),
        }
    )


def sandbox_metadata(data: bytes) -> facts.SandboxMetadata:
    """Parse what `sandbox_metadata_json` or the built-in plugin wrote; raises `RecordError`."""
    found = _metadata(data)
    return facts.SandboxMetadata(
        id=_text(found, "ID", required=True),
        name=_text(found, "Name", required=True),
        config=from_go(api_pb2.PodSandboxConfig, found.get("Config") or {}, "Config"),
        netns_path=_text(found, "NetNSPath"),
        ip=_text(found, "IP"),
        additional_ips=_texts(found, "AdditionalIPs"),
        runtime_handler=_text(found, "RuntimeHandler"),
        cni_result=_mapping(found, "CNIResult"),
        process_label=_text(found, "ProcessLabel"),
        resized=_pod_resources(found.get("UpdatedResources")),
    )


def pod_resources_to_go(resources: facts.PodResources) -> dict[str, Any]:
    """What UpdatePodSandboxResources has changed, under the plugin's names.

    The plugin itself keeps this in its sandbox store, and ignores the key in the extension.
    """
    return {"overhead": to_go(resources.overhead), "resources": to_go(resources.resources)}


def _pod_resources(value: object) -> facts.PodResources | None:
    if value is None:
        return None
    path, kind = "UpdatedResources", api_pb2.LinuxContainerResources
    found = dict(_items(value, path))
    return facts.PodResources(
        overhead=from_go(kind, found.get("overhead") or {}, f"{path}.overhead"),
        resources=from_go(kind, found.get("resources") or {}, f"{path}.resources"),
    )


def sandbox_extension(metadata: facts.SandboxMetadata) -> ProtoAny:
    """The extension `SANDBOX_EXTENSION` of the pause container."""
    return ProtoAny(type_url=SANDBOX_METADATA_URL, value=sandbox_metadata_json(metadata))


def container_metadata_json(metadata: facts.ContainerMetadata) -> bytes:
    """The value of a container's extension."""
    return _versioned(
        {
            "ID": metadata.id,
            "Name": metadata.name,
            "SandboxID": metadata.sandbox_id,
            "Config": to_go(metadata.config),
            "ImageRef": metadata.image_ref,
            "ImageDigest": metadata.image_digest,
            "ImageName": metadata.image_name,
            "LogPath": metadata.log_path,
            "StopSignal": metadata.stop_signal,
            "ProcessLabel": metadata.process_label,
        }
    )


def container_metadata(data: bytes) -> facts.ContainerMetadata:
    """Parse what `container_metadata_json` or the built-in plugin wrote; raises `RecordError`."""
    found = _metadata(data)
    return facts.ContainerMetadata(
        id=_text(found, "ID", required=True),
        name=_text(found, "Name", required=True),
        sandbox_id=_text(found, "SandboxID", required=True),
        config=from_go(api_pb2.ContainerConfig, found.get("Config") or {}, "Config"),
        image_ref=_text(found, "ImageRef"),
        image_name=_text(found, "ImageName"),
        image_digest=_text(found, "ImageDigest"),
        log_path=_text(found, "LogPath"),
        stop_signal=_text(found, "StopSignal"),
        process_label=_text(found, "ProcessLabel"),
    )


def container_extension(metadata: facts.ContainerMetadata) -> ProtoAny:
    """The extension `CONTAINER_EXTENSION` of a container."""
    return ProtoAny(type_url=CONTAINER_METADATA_URL, value=container_metadata_json(metadata))


def _versioned(metadata: Mapping[str, object]) -> bytes:
    return msgspec.json.encode({"Version": _VERSION, "Metadata": metadata})


def _metadata(data: bytes) -> Mapping[str, Any]:
    record = _object(data)
    found = record.get("Metadata")
    if not isinstance(found, dict):
        raise RecordError("Metadata: the record has no such object")
    return found


def _object(data: bytes) -> Mapping[str, Any]:
    """A record's JSON object; checks its version.

    Bytes that are not UTF-8 are replaced, as Go's decoder does: a damaged text must not cost the
    exit code beside it.
    """
    try:
        try:
            record = msgspec.json.decode(data)
        except UnicodeDecodeError:
            record = msgspec.json.decode(data.decode(errors="replace"))
    except (msgspec.DecodeError, RecursionError) as error:
        raise RecordError(f"the record is not JSON: {error}") from error
    if not isinstance(record, dict):
        raise RecordError(f"the record is {type(record).__name__}, not an object")
    if record.get("Version") != _VERSION:
        raise RecordError(f"Version: only {_VERSION} is known, not {record.get('Version')!r}")
    return record


def _text(found: Mapping[str, Any], key: str, *, required: bool = False) -> str:
    value = found.get(key) or ""
    if not isinstance(value, str):
        raise RecordError(f"{key}: expected a string, not {type(value).__name__}")
    if required and not value:
        raise RecordError(f"{key}: missing from the record")
    return value


def _texts(found: Mapping[str, Any], key: str) -> tuple[str, ...]:
    values = found.get(key) or ()
    if not isinstance(values, list | tuple) or not all(isinstance(one, str) for one in values):
        raise RecordError(f"{key}: expected a list of strings")
    return tuple(values)


def _mapping(found: Mapping[str, Any], key: str) -> dict[str, Any] | None:
    value = found.get(key)
    if value is not None and not isinstance(value, dict):
        raise RecordError(f"{key}: expected an object, not {type(value).__name__}")
    return value


# The status file of a container


def container_status_json(status: facts.ContainerStatus) -> bytes:
    """The content of the status file.

    The state itself is not written because it follows from the times; STARTING, REMOVING and
    UNKNOWN do not outlive this process.
    """
    return msgspec.json.encode(
        {
            "Version": _VERSION,
            "Pid": status.pid,
            "CreatedAt": status.created_at,
            "StartedAt": status.started_at,
            "FinishedAt": status.finished_at,
            "ExitCode": status.exit_code,
            "Reason": status.reason,
            "Message": status.message,
            "Resources": None if status.resources is None else to_go(status.resources),
        }
    )


def container_status(data: bytes) -> facts.ContainerStatus:
    """Parse what `container_status_json` or the built-in plugin wrote; raises `RecordError`.

    The state follows the built-in plugin's rule: the latest time that is set determines it; if none
    is set, it is UNKNOWN.
    """
    record = _object(data)
    resources = record.get("Resources")
    created, started, finished = (
        _number(record, key, _INT64) for key in ("CreatedAt", "StartedAt", "FinishedAt")
    )
    return facts.ContainerStatus(
        state=_state(created=created, started=started, finished=finished),
        pid=_number(record, "Pid", _INT32),
        created_at=created,
        started_at=started,
        finished_at=finished,
        exit_code=_number(record, "ExitCode", _INT32),
        reason=_text(record, "Reason"),
        message=_text(record, "Message"),
        resources=(
            None
            if resources is None
            else from_go(api_pb2.ContainerResources, resources, "Resources")
        ),
    )


def _state(*, created: int, started: int, finished: int) -> ContainerState:
    if finished:
        return ContainerState.EXITED
    if started:
        return ContainerState.RUNNING
    return ContainerState.CREATED if created else ContainerState.UNKNOWN


def _number(record: Mapping[str, Any], key: str, largest: int) -> int:
    value = record.get(key) or 0
    if not isinstance(value, int) or isinstance(value, bool):
        raise RecordError(f"{key}: expected a number, not {type(value).__name__}")
    if abs(value) > largest:
        raise RecordError(f"{key}: {value} is out of range")
    return value
