"""What is removed from a published proto before it is compiled."""

from __future__ import annotations

import pytest

from codegen import proto_text, protoc
from codegen.proto_options import without_foreign

_HEAD = 'syntax = "proto3";\npackage p;\n'
_MESSAGE = "message A {\n    string x = 1;\n}"


@pytest.mark.parametrize(
    ("text", "becomes"),
    [
        ('option (my.opt) = { a: "x;y" b: { c: 1; d: "}" }; };\nmessage A { string x = 1; }',
         _MESSAGE),
        ('message A { string x = 1 [(f) = { k: "]" l: [1, 2] }, (g).h = "//"]; }', _MESSAGE),
        ("message A { string x = 1 [(f) = 'it\\'s; \"no\"']; } // option (x", _MESSAGE),
        ("/* message B { */ message A { /* 1 */ string /* 2 */ x = 1; }", _MESSAGE),
        ('import "google/protobuf/descriptor.proto";\nextend google.protobuf.FieldOptions '
         "{ bool secret = 50001; }\nmessage A { string x = 1 [(secret) = true]; }", _MESSAGE),
        ('import weak "github.com/gogo/protobuf/gogoproto/gogo.proto";\n'
         "message A { option (gogoproto.equal) = true; string x = 1; }", _MESSAGE),
        ("import 'gogoproto/gogo.proto';\nmessage A { string x = 1; }", _MESSAGE),
        ('option go_package = "https://x//y";\nmessage A { string x = 1 [json_name = "a//b"]; }',
         'message A {\n    string x = 1 [json_name = "a//b"];\n}'),
        ("message A { string x = 1 [(f) = 1, deprecated = true, (g) = {a: 1}]; }",
         "message A {\n    string x = 1 [deprecated = true];\n}"),
        ("message A { string x = 1 [deprecated = true, (f) = 1, debug_redact = true]; }",
         "message A {\n    string x = 1 [deprecated = true, debug_redact = true];\n}"),
        ('enum E { option (a.b) = false; E_A = 0 [(c) = "A"]; }', "enum E {\n    E_A = 0;\n}"),
        ("message option { string option = 1; }", "message option {\n    string option = 1;\n}"),
    ],
)  # fmt: skip
def test_only_options_of_other_files_are_removed(text: str, becomes: str) -> None:
    given = _HEAD + text
    left = without_foreign(given)
    assert left.count("\n") == given.count("\n") and len(left) == len(given)
    file = protoc.descriptors({"a.proto": left}).file[-1]
    assert proto_text.file_text(file) == f'syntax = "proto3";\n\npackage p;\n\n{becomes}\n'


def test_a_byte_order_mark_and_carriage_returns_are_no_part_of_it() -> None:
    text = "\ufeff" + (_HEAD + "message A { string x = 1; }\n").replace("\n", "\r\n")
    assert protoc.descriptors({"a.proto": without_foreign(text)}).file[-1].message_type


@pytest.mark.parametrize(
    "text", ["", "[", "option (", "option (a) = {", "extend", '"', "/*", "[(a"]
)
def test_broken_text_is_left_to_protoc(text: str) -> None:
    assert len(without_foreign(text)) == len(text)
