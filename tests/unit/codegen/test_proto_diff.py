"""Nothing that changes between two protos goes unnamed, and each change has its class."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import permutations

import pytest
from google.protobuf.descriptor_pb2 import (
    DescriptorProto,
    EnumDescriptorProto,
    FileDescriptorProto,
)

from codegen import proto_api, proto_diff, protoc
from tests.unit.codegen.project import ROOT, settings

_BEFORE = """\
syntax = "proto3";
package runtime.v1;
service Boxes {
    rpc Open(Ask) returns (Box) {}
    rpc Shut(Ask) returns (Ask) {}
}
message Ask { string id = 1; Color color = 2; }
message Box {
    message Inner { bytes data = 1; }
    enum Kind { Plain = 0; Fancy = 1; }
    reserved 20;
    int64 size = 1;
    repeated int32 numbers = 2;
    Inner inner = 3;
    Kind kind = 4;
    oneof either { string left = 5; string right = 6; }
    map<string, Lid> lids = 7;
    optional bool flag = 8;
    Holder holder = 9;
}
message Lid { string label = 1; }
message Holder { Held held = 1; }
message Held { string name = 1; }
enum Color { RED = 0; GREEN = 1; BLUE = 2; }
"""
_WIRE, _DECIDE = proto_diff.WIRE_BREAKING, proto_diff.TO_DECIDE
_SOURCE, _FINE = proto_diff.SOURCE_BREAKING, proto_diff.WIRE_COMPATIBLE
_CASES: list[tuple[str, str, list[tuple[str, str, str, str]]]] = [
    ("int64 size = 1;", "", [("field-lost", "Box.size", "int64 = 1", _SOURCE)]),
    (
        "int64 size = 1;",
        "int64 big = 1;",
        [("field-renamed", "Box.size", "now big", _SOURCE)],
    ),
    (
        "int64 size = 1;",
        "string big = 1;",
        [
            ("field-gained", "Box.big", "string = 1", _DECIDE),
            ("field-replaced", "Box.size", "int64 = 1 → big, string = 1", _WIRE),
        ],
    ),
    ("int64 size = 1;", "int64 size = 11;", [("field-renumbered", "Box.size", "1 → 11", _WIRE)]),
    ("int64 size", "string size", [("field-retyped", "Box.size", "int64 → string", _WIRE)]),
    ("int64 size", "sint64 size", [("field-retyped", "Box.size", "int64 → sint64", _WIRE)]),
    ("int64 size", "uint32 size", [("field-retyped", "Box.size", "int64 → uint32", _DECIDE)]),
    (
        "int64 size",
        "repeated int64 size",
        [("field-retyped", "Box.size", "int64 → repeated int64", _WIRE)],
    ),
    (
        "int64 size",
        "optional int64 size",
        [("field-optional-changed", "Box.size", "nothing → optional", _DECIDE)],
    ),
    (
        "optional bool flag",
        "bool flag",
        [("field-optional-changed", "Box.flag", "optional → nothing", _DECIDE)],
    ),
    (
        "int64 size = 1;",
        'int64 size = 1 [json_name = "s", deprecated = true];',
        [
            ("field-deprecated", "Box.size", "", _DECIDE),
            ("field-json-name-changed", "Box.size", "nothing → s", _DECIDE),
        ],
    ),
    (
        "numbers = 2;",
        "numbers = 2 [packed = false];",
        [("field-packed-changed", "Box.numbers", "nothing → packed = false", _FINE)],
    ),
    (
        "string right = 6; }",
        "} string right = 6;",
        [("field-oneof-changed", "Box.right", "either → nothing", _DECIDE)],
    ),
    (
        "optional bool flag = 8;",
        "optional bool flag = 8; optional int32 more = 10 [debug_redact = true];",
        [
            (
                "field-gained",
                "Box.more",
                "optional int32 = 10 [debug_redact = true]",
                _DECIDE,
            )
        ],
    ),
    ("reserved 20;", "", [("message-reserved-changed", "Box", "20 → nothing", _FINE)]),
    (
        "reserved 20;",
        'reserved 20, 30 to 32; reserved "old";',
        [("message-reserved-changed", "Box", '20 → "old", 20, 30 to 32', _FINE)],
    ),
    (
        "GREEN = 1; BLUE = 2;",
        "GREEN = 2; BLUE = 1;",
        [
            ("enum-value-renumbered", "Color.BLUE", "2 → 1", _WIRE),
            ("enum-value-renumbered", "Color.GREEN", "1 → 2", _WIRE),
        ],
    ),
    ("GREEN", "COLOR_GREEN", [("enum-value-renamed", "Color.GREEN", "now COLOR_GREEN", _SOURCE)]),
    ("BLUE = 2;", "", [("enum-value-lost", "Color.BLUE", "= 2", _SOURCE)]),
    (
        "BLUE = 2;",
        "BLUE = 2 [deprecated = true]; reserved 5;",
        [
            ("enum-reserved-changed", "Color", "nothing → 5", _FINE),
            ("enum-value-deprecated", "Color.BLUE", "", _DECIDE),
        ],
    ),
    ("Color", "Colour", [("enum-renamed", "Color", "now Colour", _SOURCE)]),
    ("Kind", "Sort", [("enum-renamed", "Box.Kind", "now Box.Sort", _SOURCE)]),
    ("Inner", "Core", [("message-renamed", "Box.Inner", "now Box.Core", _SOURCE)]),
    ("Lid", "Cover", [("message-renamed", "Lid", "now Cover", _SOURCE)]),
    (
        "rpc Open(Ask) returns (Box)",
        "rpc Open(Ask) returns (stream Box)",
        [("rpc-changed", "Boxes.Open", "(Ask) returns (Box) → (Ask) returns (stream Box)", _WIRE)],
    ),
    (
        "rpc Open(Ask)",
        "rpc Open(stream Ask)",
        [("rpc-changed", "Boxes.Open", "(Ask) returns (Box) → (stream Ask) returns (Box)", _WIRE)],
    ),
    (
        "rpc Open(Ask) returns (Box) {}",
        "rpc Open(Ask) returns (Box) { option deprecated = true; }",
        [("rpc-deprecated", "Boxes.Open", "", _DECIDE)],
    ),
    ("rpc Shut(", "rpc Close(", [("rpc-renamed", "Boxes.Shut", "now Close", _WIRE)]),
    (
        "rpc Shut(Ask) returns (Ask) {}",
        "",
        [("rpc-lost", "Boxes.Shut", "(Ask) returns (Ask)", _WIRE)],
    ),
    (
        "message Lid {",
        "service More { rpc Do(Ask) returns (Lid) {} }\nenum Extra { NO = 0; }\nmessage Lid {",
        [
            ("enum-gained", "Extra", "", _FINE),
            ("enum-value-gained", "Extra.NO", "= 0", _DECIDE),
            ("rpc-gained", "More.Do", "(Ask) returns (Lid)", _DECIDE),
            ("service-gained", "More", "", _DECIDE),
        ],
    ),
    (
        "message Lid {",
        "message Extra { oneof one { Lid lid = 1; } }\nmessage Lid {",
        [
            ("field-gained", "Extra.lid", "Lid = 1 in the oneof one", _DECIDE),
            ("message-gained", "Extra", "", _FINE),
            ("oneof-gained", "Extra.one", "", _FINE),
        ],
    ),
    (
        "package runtime.v1;",
        "package runtime.v2;",
        [("package-changed", "(file)", "runtime.v1 → runtime.v2", _WIRE)],
    ),
]


def _descriptor(text: str) -> FileDescriptorProto:
    return protoc.descriptors({"api.proto": text}).file[-1]


@pytest.mark.parametrize(("old", "new", "told"), _CASES, ids=range(len(_CASES)))
def test_a_change_is_named_with_its_class(
    old: str, new: str, told: list[tuple[str, str, str, str]]
) -> None:
    assert old in _BEFORE
    found = proto_diff.changes(_descriptor(_BEFORE), _descriptor(_BEFORE.replace(old, new)))
    assert [(c.kind, c.subject, c.detail, c.effect) for c in found] == told


def test_a_renamed_message_is_one_change_whatever_it_holds() -> None:
    after = _BEFORE
    for old, new in (("Box)", "Crate)"), ("message Box ", "message Crate "), ("Held", "Kept")):
        after = after.replace(old, new)
    found = proto_diff.changes(_descriptor(_BEFORE), _descriptor(after))
    assert [(c.kind, c.subject, c.detail) for c in found] == [
        ("message-renamed", "Box", "now Crate"),
        ("message-renamed", "Held", "now Kept"),
    ]


def _own(file: FileDescriptorProto) -> Iterator[tuple[str, str, bytes]]:
    """(kind, path, content without what is inside) of every declaration, by the descriptors."""

    def of_message(scope: str, message: DescriptorProto) -> Iterator[tuple[str, str, bytes]]:
        path = f"{scope}{message.name}"
        if message.options.map_entry:
            return
        entries = [n for n in message.nested_type if n.options.map_entry]
        for field in message.field:
            inside = [n for n in entries if field.type_name.endswith(f".{message.name}.{n.name}")]
            content = b"".join(x.SerializeToString(deterministic=True) for x in [field, *inside])
            yield "field", f"{path}.{field.name}", content
        for oneof in message.oneof_decl:
            if not oneof.name.startswith("_"):
                yield "oneof", f"{path}.{oneof.name}", oneof.SerializeToString()
        for enum in message.enum_type:
            yield from of_enum(f"{path}.", enum)
        for nested in message.nested_type:
            yield from of_message(f"{path}.", nested)
        own = DescriptorProto()
        own.CopyFrom(message)
        for inner in ("field", "oneof_decl", "enum_type", "nested_type"):
            own.ClearField(inner)
        yield "message", path, own.SerializeToString()

    def of_enum(scope: str, enum: EnumDescriptorProto) -> Iterator[tuple[str, str, bytes]]:
        own = EnumDescriptorProto()
        own.CopyFrom(enum)
        own.ClearField("value")
        yield "enum", f"{scope}{enum.name}", own.SerializeToString()
        for value in enum.value:
            yield "enum-value", f"{scope}{enum.name}.{value.name}", value.SerializeToString()

    for message in file.message_type:
        yield from of_message("", message)
    for enum in file.enum_type:
        yield from of_enum("", enum)
    for service in file.service:
        yield "service", service.name, service.options.SerializeToString()
        for method in service.method:
            yield "rpc", f"{service.name}.{method.name}", method.SerializeToString()


_PINNED = proto_api.pinned(ROOT)


@pytest.mark.parametrize(("old", "new"), list(permutations(_PINNED, 2)), ids="-".join)
def test_between_pinned_versions_nothing_is_unnamed_and_nothing_is_made_up(
    old: str, new: str
) -> None:
    before, after = (proto_api.descriptor(settings().api, v, _PINNED[v]) for v in (old, new))
    was, now = set(_own(before)), set(_own(after))
    differs = {(kind, path) for kind, path, _ in was ^ now}
    named = {
        (next(k for k in _KINDS if change.kind.startswith(k)), change.subject)
        for change in proto_diff.changes(before, after)
    }
    assert named == differs


_KINDS = ("enum-value", "enum", "field", "message", "oneof", "rpc", "service")
