"""spec/project.yaml: what it may say, and every mistake at its place."""

from __future__ import annotations

from pathlib import Path

import pytest

import codegen.project
from codegen.__main__ import main
from codegen.errors import SpecError
from tests.unit.codegen.project import settings

_GOOD = """\
api: {name: Shop API, package: shop.v1, protos: spec/shop}
document: {name: parcel label, schema: spec/parcel/label.schema.json, root: Label}
objects: {order: {states: OrderState}}
code: shop_code
output: shop_made
"""
_CLIENTS = "clients: {name: n, protos: spec/shop, files: {}}\n"
_PAYLOAD = "payloads: {%s: {name: n, schema: spec/a/b.json, root: A}}\n"
_FIRST = "# yaml-language-server: $schema=../../shop_made/schemas/mapping.schema.json"


def _read(root: Path, text: str) -> codegen.project.Settings:
    (root / "spec").mkdir()
    (root / codegen.project.FILE).write_text(text)
    return codegen.project.read(root)


def test_the_least_that_a_project_says(tmp_path: Path) -> None:
    found = _read(tmp_path, _GOOD)
    assert (found.stubs, found.builders) == ("shop_made.shop", "shop_made.parcel")
    assert (found.transforms, found.facts) == (
        "shop_code.transforms",
        "shop_code/transforms/facts.py",
    )
    assert (found.record, found.clients, found.events) == (None, None, None)
    assert not any((found.payloads, found.defaults, found.singular))
    assert found.api.proto("1.2") == "spec/shop/1.2.proto"
    assert found.schema_line("spec/mapping/order.yaml", "mapping") == _FIRST


def test_this_project_names_everything() -> None:
    ours = settings()
    assert ours.record is not None
    assert ours.clients is not None
    assert ours.record.folder == ours.clients.folder
    assert (ours.record.stub, ours.record.message) == ("containers_pb2", "Container")
    assert list(ours.objects) == ["sandbox", "container"]
    assert {one.form for one in ours.defaults.values()} == {"document", "json", "text"}


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("code: shop_code", "code: Shop", "5:7: code must be written in small letters"),
        ("code: shop_code\n", "", "2:1: the file lacks the key 'code'"),
        ("output: shop_made", "output: shop_code", "6:1: output names the package shop_code"),
        ("output: shop_made", "output: class", "6:1: class is a keyword of Python"),
        ("spec/parcel/", "spec/shop/", "3:32: document.schema generates shop, the name of api"),
        ("spec/shop}", "spec/items}", "2:41: api.protos generates items, the name of what is"),
        ("code:", _CLIENTS + "code:", "clients.protos generates shop, the name of api.protos"),
        ("code:", _PAYLOAD % "parcel" + "code:", "payloads.parcel generates parcel, the name of"),
        ("code:", _PAYLOAD % "plan" + "code:", "payloads.plan generates plan, the name of other"),
        ("{order:", "{class:", "4:11: class is a keyword of Python"),
        ("{order: {states: OrderState}}", "{}", "objects: {} should be non-empty"),
        ("shop.v1", "Shop.v1", "must be a proto package"),
        ("root: Label", "root: label", "must be written like a class"),
        ("api:", "apis:", "unknown key 'apis' in the file"),
    ],
)
def test_a_mistake_has_its_place(tmp_path: Path, old: str, new: str, says: str) -> None:
    text = "# one line\n" + _GOOD
    assert old in text
    with pytest.raises(SpecError) as raised:
        _read(tmp_path, text.replace(old, new, 1))
    told = str(raised.value)
    assert says in told
    assert all(fault.place.file == codegen.project.FILE for fault in raised.value.faults)


@pytest.mark.parametrize("content", [b"", b"\xff", b"[1]\n", b"word\n", b"{}\n", b"[" * 9999])
@pytest.mark.parametrize("command", ["check", "generate", "review", "stubs", "explain tty"])
def test_without_it_every_command_says_so(
    tmp_path: Path, content: bytes, command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "spec").mkdir()
    (tmp_path / codegen.project.FILE).write_bytes(content)
    assert main(["--root", str(tmp_path), *command.split()]) == 1
    told = capsys.readouterr().err.splitlines()
    assert told
    assert all(line.startswith((codegen.project.FILE, "    hint: ")) for line in told), told
