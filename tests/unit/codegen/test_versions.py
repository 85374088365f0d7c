"""The pinned versions of the CRI: the wire format never changes, and every field has a fate."""

from __future__ import annotations

from collections import Counter

import pytest

from codegen import proto_api
from codegen.model import Api, snake
from tests.unit.codegen.project import ROOT, api, project, settings

_VERSIONS = proto_api.pinned(ROOT)
_APIS = {
    v: proto_api.api(proto_api.descriptor(settings().api, v, text), v)
    for v, text in _VERSIONS.items()
}
_PAIRS = list(zip(list(_APIS)[:-1], list(_APIS)[1:], strict=True))


# What Kubernetes changed on the wire despite its own rule.
_KNOWN: dict[tuple[str, str], dict[str, tuple[int, str] | None]] = {
    ("1.25", "1.26"): {"ContainerEventResponse.pod_sandbox_metadata": None},
    ("1.33", "1.34"): {"KeyValue.value": (2, "bytes")},
}


def _wire(one: Api) -> dict[str, tuple[int, str]]:
    return {
        f"{message.name}.{field.name}": (field.number, str(field.kind))
        for message in one.messages.values()
        for field in message.fields.values()
    }


@pytest.mark.parametrize(("old", "new"), _PAIRS)
def test_every_lost_renumbered_or_retyped_field_is_known(old: str, new: str) -> None:
    before, after = _wire(_APIS[old]), _wire(_APIS[new])
    changed = {name: after.get(name) for name in before if after.get(name) != before[name]}
    assert changed == _KNOWN.get((old, new), {})


@pytest.mark.parametrize(("old", "new"), _PAIRS)
def test_no_rpc_is_lost_or_changes_its_messages(old: str, new: str) -> None:
    def methods(one: Api) -> dict[str, tuple[str, str, bool]]:
        return {
            f"{service.name}.{m.name}": (m.request, m.response, m.streams)
            for service in one.services.values()
            for m in service.methods.values()
        }

    before, after = methods(_APIS[old]), methods(_APIS[new])
    assert {name: after.get(name) for name in before} == before


def test_since_is_the_first_version_that_has_the_field() -> None:
    known = {
        ("ContainerConfig", "image"): "1.25",
        ("ContainerConfig", "CDI_devices"): "1.27",
        ("ContainerConfig", "stop_signal"): "1.33",
        ("ImageSpec", "image_ref"): "1.36",
    }
    found = {key: api().messages[key[0]].fields[key[1]].since for key in known}
    assert found == known


def test_every_field_of_every_message_has_a_fate() -> None:
    for message in api().messages.values():
        entries = project().translation.files[message.name].entries
        assert list(message.fields) == [name for name in message.fields if name in entries]
        assert entries.keys() == message.fields.keys()


def test_not_yet_is_only_for_what_another_issue_covers() -> None:
    waiting = Counter(
        entry.issue
        for file in project().translation.files.values()
        for entry in file.entries.values()
        if entry.fate == "unmapped" and entry.value == "not-yet"
    )
    assert None not in waiting


@pytest.mark.parametrize(
    ("name", "module"),
    [
        ("LinuxContainerResources", "linux_container_resources"),
        ("CDIDevice", "cdi_device"),
        ("IDMapping", "id_mapping"),
        ("PodIP", "pod_ip"),
        ("UInt64Value", "uint64_value"),
        ("Mount", "mount"),
    ],
)
def test_a_message_names_its_module(name: str, module: str) -> None:
    assert snake(name) == module
