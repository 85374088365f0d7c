"""The generated OCI types: what was read is written back, and absent values are not written."""

from __future__ import annotations

import json

import pytest

from generated.oci import defaults, types
from runtime.transforms import lists
from tests.unit.codegen.project import ROOT

_FOREIGN = {
    "ociVersion": "1.0.2",
    "process": {"user": {"uid": 0, "gid": 0}, "args": ["sh"], "cwd": "/", "future": [1]},
    "mounts": [{"destination": "/proc", "type": "proc", "options": ["ro"], "future": True}],
    "annotations": {"k": "v"},
    "linux": {"resources": {"cpu": {"quota": -1, "shares": 0}}, "rdmaNext": {"a": {}}},
    "windows": {"layerFolders": []},
}


@pytest.mark.parametrize("name", ["default_sandbox", "default_container"])
def test_the_default_specs_are_what_their_files_say(name: str) -> None:
    data = json.loads((ROOT / f"spec/oci/{name}.json").read_text())
    made = getattr(defaults, f"{name.removeprefix('default_')}_spec")
    assert made().to_dict() == data
    assert made() is not made()
    made().mounts.clear()
    assert made().to_dict() == data, "each call gives a fresh spec"


def test_a_foreign_spec_keeps_every_key() -> None:
    spec = types.Spec.from_json(json.dumps(_FOREIGN).encode())
    assert json.loads(spec.to_json()) == _FOREIGN
    assert types.Spec.from_json(spec.to_json()) == spec


def test_null_is_absence() -> None:
    nulls = {"process": None, "mounts": None, "annotations": None, "hostname": None}
    assert types.Spec.from_json(nulls).to_dict() == {}


def test_empty_values_are_omitted_and_zeros_kept() -> None:
    spec = types.Spec()
    assert spec.to_json() == b"{}"
    spec.linux.resources.cpu.quota = 0
    spec.root.readonly = False
    assert spec.to_dict() == {
        "root": {"readonly": False},
        "linux": {"resources": {"cpu": {"quota": 0}}},
    }


def test_an_empty_object_with_a_meaning_is_kept() -> None:
    spec = types.Spec.from_json({"process": {"capabilities": {}}})
    assert spec.to_dict() == {"process": {"capabilities": {}}}
    assert types.Spec().process.capabilities is None


@pytest.mark.parametrize("document", [b"[]", b"1", b'"text"', b"{", b""])
def test_a_value_that_is_not_an_object_is_refused(document: bytes) -> None:
    with pytest.raises(ValueError):
        types.Spec.from_json(document)


def test_merge_replaces_in_place_and_adds_at_the_end() -> None:
    mounts = [types.Mount(destination="/a"), types.Mount(destination="/b")]
    new = [types.Mount(destination="/c"), types.Mount(destination="/a", source="new")]
    lists.merge(mounts, [*new, types.Mount(destination="/c", source="last")])
    assert [(m.destination, m.source) for m in mounts] == [
        ("/a", "new"),
        ("/b", None),
        ("/c", "last"),
    ]
