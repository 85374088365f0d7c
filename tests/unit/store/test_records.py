"""The records have the built-in plugin's format, in both directions."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from hypothesis import given
from hypothesis import strategies as st

from generated.cri import api_pb2
from generated.lifecycle import ContainerState
from runtime.store import records
from runtime.transforms import facts

_SCALARS: dict[int, st.SearchStrategy[Any]] = {
    FieldDescriptor.TYPE_STRING: st.text(max_size=8),
    FieldDescriptor.TYPE_BYTES: st.binary(max_size=8),
    FieldDescriptor.TYPE_BOOL: st.booleans(),
    FieldDescriptor.TYPE_ENUM: st.integers(0, 3),
    FieldDescriptor.TYPE_INT32: st.integers(-(2**31), 2**31 - 1),
    FieldDescriptor.TYPE_INT64: st.integers(-(2**63), 2**63 - 1),
    FieldDescriptor.TYPE_UINT32: st.integers(0, 2**32 - 1),
    FieldDescriptor.TYPE_UINT64: st.integers(0, 2**64 - 1),
}


@st.composite
def messages(draw: st.DrawFn, kind: type[Message], depth: int = 4) -> Message:
    """Any message of the type, including nested ones."""
    message = kind()
    fields: st.SearchStrategy[Any] = st.sampled_from(list(kind.DESCRIPTOR.fields))
    for field in draw(st.lists(fields, max_size=3, unique_by=lambda field: field.name)):
        nested = field.message_type
        if nested is not None and nested.GetOptions().map_entry:
            getattr(message, field.name).update(
                draw(st.dictionaries(st.text(max_size=4), st.text(max_size=4), max_size=2))
            )
        elif nested is not None:
            if depth == 0:
                continue
            value = draw(messages(GetMessageClass(nested), depth - 1))
            if field.is_repeated:
                getattr(message, field.name).append(value)
            else:
                getattr(message, field.name).CopyFrom(value)
        elif field.is_repeated:
            getattr(message, field.name).extend(draw(st.lists(_SCALARS[field.type], max_size=2)))
        else:
            setattr(message, field.name, draw(_SCALARS[field.type]))
    return message


@given(messages(api_pb2.PodSandboxConfig))
def test_a_pod_config_survives_its_record(config: api_pb2.PodSandboxConfig) -> None:
    metadata = facts.SandboxMetadata(
        id="a" * 64,
        name="n",
        config=config,
        netns_path="/var/run/netns/cni-1",
        ip="10.0.0.2",
        additional_ips=("fd00::2",),
        runtime_handler="kata",
        cni_result={"Interfaces": {"eth0": {"IPConfigs": [{"IP": "10.0.0.2"}]}}},
    )
    written = records.sandbox_metadata_json(metadata)
    assert records.sandbox_metadata(written) == metadata
    encoded = replace(metadata, config_json=records.config_json(config))
    assert records.sandbox_metadata_json(encoded) == written


@given(messages(api_pb2.LinuxContainerResources), messages(api_pb2.LinuxContainerResources))
def test_resources_of_a_resized_pod_survive_its_record(
    overhead: api_pb2.LinuxContainerResources, resources: api_pb2.LinuxContainerResources
) -> None:
    metadata = facts.SandboxMetadata(
        id="p",
        name="n",
        config=api_pb2.PodSandboxConfig(),
        resized=facts.PodResources(overhead, resources),
    )
    assert records.sandbox_metadata(records.sandbox_metadata_json(metadata)) == metadata


@given(messages(api_pb2.ContainerConfig))
def test_a_container_config_survives_its_record(config: api_pb2.ContainerConfig) -> None:
    metadata = facts.ContainerMetadata(id="c", name="n", sandbox_id="s", config=config)
    assert records.container_metadata(records.container_metadata_json(metadata)) == metadata


def test_messages_are_written_as_go_does() -> None:
    config = api_pb2.ContainerConfig(
        metadata=api_pb2.ContainerMetadata(name="c", attempt=0),
        envs=[api_pb2.KeyValue(key="A", value=b"\xff")],
        mounts=[api_pb2.Mount(uidMappings=[api_pb2.IDMapping(length=1)])],
        CDI_devices=[api_pb2.CDIDevice(name="d")],
        linux=api_pb2.LinuxContainerConfig(),
    )
    config.linux.security_context.namespace_options.pid = api_pb2.CONTAINER
    config.linux.resources.memory_limit_in_bytes = 2**40
    metadata = facts.ContainerMetadata(id="c", name="n", sandbox_id="s", config=config)
    assert json.loads(records.container_metadata_json(metadata)) == {
        "Version": "v1",
        "Metadata": {
            "ID": "c",
            "Name": "n",
            "SandboxID": "s",
            "Config": {
                "metadata": {"name": "c"},
                "envs": [{"key": "A", "value": "/w=="}],
                "mounts": [{"uidMappings": [{"length": 1}]}],
                "CDI_devices": [{"name": "d"}],
                "linux": {
                    "resources": {"memory_limit_in_bytes": 2**40},
                    "security_context": {"namespace_options": {"pid": 1}},
                },
            },
            "ImageRef": "",
            "ImageDigest": "",
            "ImageName": "",
            "LogPath": "",
            "StopSignal": "",
            "ProcessLabel": "",
        },
    }


def test_a_record_of_another_plugin_version_is_read() -> None:
    config = {"metadata": {"name": "c"}, "envs": [{"key": "A", "value": "plain text"}], "new": 1}
    found = {"ID": "c", "Name": "n", "SandboxID": "s", "Config": config, "Later": {}}
    data = json.dumps({"Version": "v1", "Metadata": found}).encode()
    metadata = records.container_metadata(data)
    assert metadata.config.envs[0].value == b"plain text"


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "not JSON"),
        (b"[]", "not an object"),
        (b'{"Version":"v2","Metadata":{}}', "Version: only v1 is known"),
        (b'{"Version":"v1"}', "Metadata: the record has no such object"),
        (b'{"Version":"v1","Metadata":{"ID":"s"}}', "Name: missing from the record"),
        (b'{"Version":"v1","Metadata":{"ID":7,"Name":"n"}}', "ID: expected a string"),
        (
            b'{"Version":"v1","Metadata":{"ID":"s","Name":"n","Config":{"linux":{"cgroup_parent":1}}}}',
            "Config.linux.cgroup_parent",
        ),
    ],
)
def test_a_broken_record_says_where(data: bytes, says: str) -> None:
    with pytest.raises(records.RecordError, match=says):
        records.sandbox_metadata(data)


_STATUS: dict[str, Any] = {
    "Version": "v1",
    "Pid": 5,
    "CreatedAt": 1,
    "StartedAt": 2,
    "FinishedAt": 3,
    "ExitCode": 7,
    "Reason": "Error",
    "Resources": {"linux": {"cpu_period": 1}},
}


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        ({"CreatedAt": 10**25}, f"CreatedAt: {10**25} is out of range"),
        ({"ExitCode": 1 << 31}, "ExitCode: 2147483648 is out of range"),
        ({"StartedAt": True}, "StartedAt: expected a number, not bool"),
        ({"FinishedAt": "now"}, "FinishedAt: expected a number, not str"),
        ({"Resources": {"linux": {"cpu_period": 1 << 70}}}, "Resources.linux.cpu_period"),
    ],
)
def test_a_status_that_the_cri_cannot_represent_says_where(
    damage: dict[str, Any], says: str
) -> None:
    with pytest.raises(records.RecordError, match=says):
        records.container_status(json.dumps(_STATUS | damage).encode())


def test_damaged_text_does_not_cost_the_exit_code() -> None:
    damaged = json.dumps(_STATUS).encode().replace(b"Error", b"E\xffror")
    status = records.container_status(damaged)
    assert (status.state, status.exit_code) == (ContainerState.EXITED, 7)
    assert status.reason == "E\ufffdror"


@given(st.data())
def test_a_damaged_file_is_a_record_or_a_record_error(data: st.DataObject) -> None:
    whole = bytearray(json.dumps(_STATUS).encode())
    for _ in range(data.draw(st.integers(1, 3))):
        whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    try:
        status = records.container_status(bytes(whole[: data.draw(st.integers(0, len(whole)))]))
    except records.RecordError:
        return
    api_pb2.ContainerStatus(
        created_at=status.created_at,
        started_at=status.started_at,
        finished_at=status.finished_at,
        exit_code=status.exit_code,
        reason=status.reason,
        message=status.message,
    )


@pytest.mark.parametrize(
    ("times", "state"),
    [
        ({}, ContainerState.UNKNOWN),
        ({"created_at": 1}, ContainerState.CREATED),
        ({"created_at": 1, "started_at": 2}, ContainerState.RUNNING),
        ({"created_at": 1, "started_at": 2, "finished_at": 3}, ContainerState.EXITED),
        ({"created_at": 1, "finished_at": 3}, ContainerState.EXITED),
    ],
)
def test_the_state_follows_from_the_times(times: dict[str, int], state: ContainerState) -> None:
    resources = api_pb2.ContainerResources()
    resources.linux.cpu_shares = 512
    status = facts.ContainerStatus(
        state=state, exit_code=3, reason="Error", message="m", resources=resources, **times
    )
    assert records.container_status(records.container_status_json(status)) == status
