"""A keyword of a JSON Schema that has no effect is a fault, not silence."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from codegen import load, schema_keywords
from codegen.errors import Problems
from codegen.schema_keywords import DEFAULT, DOCUMENT, PAYLOAD, PLAN, PLANS, Use

_TEXT = {"type": "string"}
_NUMBER = {"type": "integer"}


def _document(**properties: Any) -> dict[str, Any]:
    body = {"type": "object", "properties": properties}
    return {"$ref": "#/$defs/Top", "$defs": {"Top": body, "Part": {"type": "object"}}}


def _faults(root: Path, use: Use, schema: Any, top: str | None = None) -> list[str]:
    (root / "f.json").write_text(json.dumps(schema, indent=1))
    found = Problems()
    found.attempt(lambda: schema_keywords.read(root, "f.json", use, found, top))
    assert all(fault.place.line for fault in found)
    return [f"{fault.message} ({fault.hint})" for fault in found]


@pytest.mark.parametrize(
    ("use", "schema"),
    [
        (DOCUMENT, _document(a={**_NUMBER, "minimum": 1}, b={"$ref": "#/$defs/Part"})),
        (DOCUMENT, _document(a={**_TEXT, "pattern": "^/", "$comment": "as in paths"})),
        (DOCUMENT, _document(a={"type": ["string", "null"], "maxLength": 3})),
        (DOCUMENT, _document(maximun={"type": "object", "additionalProperties": _TEXT})),
        (PAYLOAD, {"x-message": "M", **_document(a={"type": "array", "items": _NUMBER})}),
        (PLAN, {"x-message": "M", "type": "object", "properties": {"a": {"x-record": "R"}}}),
        (PLANS, {"title": "t", "$defs": {"a": {"x-message": "M", "type": "object"}}}),
        (DEFAULT, {"oneOf": [_TEXT, {"const": 3}], "$defs": {"a": {"not": _NUMBER}}}),
    ],
)
def test_what_has_an_effect_is_allowed(tmp_path: Path, use: Use, schema: Any) -> None:
    assert _faults(tmp_path, use, schema) == []


@pytest.mark.parametrize(
    ("use", "schema", "said"),
    [
        # no keyword at all
        (DOCUMENT, _document(a={**_NUMBER, "minimun": 1}),
         "minimun of Top.a is no keyword of a JSON Schema (did you mean minimum?)"),
        (DOCUMENT, _document(a={**_TEXT, "nullable": True}),
         "nullable of Top.a is no keyword of a JSON Schema"
         ' (write the type as in ["string", "null"])'),
        (PLAN, {"x-mesage": "M"}, "x-mesage is no keyword of a JSON Schema"),
        (DEFAULT, {"items": {"minLenght": 1}},
         "minLenght of items is no keyword of a JSON Schema (did you mean minLength"),
        # a keyword that is not acted on
        (DOCUMENT, _document(a={**_TEXT, "format": "ipv4"}),
         "format of Top.a has no effect here (nothing checks it; write a pattern where one can be"
         " checked, or describe it)"),
        (DEFAULT, {"type": "string", "format": "ipv4"}, "format has no effect here (nothing"),
        (DOCUMENT, _document(a={**_NUMBER, "exclusiveMinimum": 0}),
         "exclusiveMinimum of Top.a has no effect here (write minimum)"),
        (DOCUMENT, _document(a={"x-record": "R"}), "x-record of Top.a has no effect here (allow"),
        (PAYLOAD, _document(a={**_TEXT, "enum": ["a"]}), "enum of Top.a has no effect here (allow"),
        (PLAN, {"x-message": "M", "required": []}, "required has no effect here (allowed"),
        (PLANS, {"x-message": "M", "$defs": {}}, "x-message has no effect here (allowed"),
        (DEFAULT, {"properties": {"a": {"$defs": {}}}}, "$defs of a has no effect here (did"),
        # or not on this
        (DOCUMENT, _document(a={**_TEXT, "minimum": 1}),
         "minimum of Top.a has no effect on a value of type string"
         " (it is about the type integer or number)"),
        (DOCUMENT, _document(a={"$ref": "#/$defs/Part", "maxProperties": 1}),
         "maxProperties of Top.a has no effect beside $ref (write it where $ref leads to)"),
        (PAYLOAD, {"$defs": {"a": {"properties": {}, "additionalProperties": _TEXT}}},
         "additionalProperties of a has no effect beside properties (an object has either"),
        # values
        (DOCUMENT, {**_document(), "$schema": "http://json-schema.org/draft-07/schema#"},
         "$schema says http://json-schema.org/draft-07/schema# (the generator reads https://json-"),
        (DOCUMENT, _document(a={"type": "strng"}), "Top.a.type says 'strng' (did you mean string"),
        (DOCUMENT, _document(a={"type": ["string", "nul"]}),
         "Top.a.type says ['string', 'nul'] (did you mean null"),
        (DOCUMENT, _document(a={**_NUMBER, "minimum": "1"}),
         "Top.a.minimum is no JSON Schema: '1' is not of type 'number' ()"),
        (DOCUMENT, _document(a={**_TEXT, "pattern": "["}),
         "Top.a.pattern is no regular expression: unterminated character set at position 0 ()"),
        (DEFAULT, {"patternProperties": {"(": True}}, "patternProperties is no regular expr"),
        (DOCUMENT, _document(a={"$ref": "#/$defs/Prt"}),
         "Top.a refers to #/$defs/Prt, which does not exist (did you mean #/$defs/Part"),
        (DOCUMENT, _document(a={"$ref": "#/$defs/Top"}), "Top contains itself: Top → Top ()"),
        (DEFAULT, {"required": ["nam"], "properties": {"name": True}},
         "required names nam, which is no property (did you mean name?)"),
        (DOCUMENT, _document(a={**_TEXT, "x-empty-counts": "yes"}),
         "Top.a.x-empty-counts must be of type boolean ()"),
    ],
)  # fmt: skip
def test_what_has_none_is_told_once(tmp_path: Path, use: Use, schema: Any, said: str) -> None:
    [fault] = _faults(tmp_path, use, schema)
    assert fault.startswith(said)


@pytest.mark.parametrize(
    ("reference", "said"),
    [(None, "has no $ref"), ("#/$defs/Part", "$ref is '#/$defs/Part'"), ("x", "$ref is 'x'")],
)
def test_the_whole_file_must_describe_the_root(
    tmp_path: Path, reference: str | None, said: str
) -> None:
    schema = _document()
    del schema["$ref"]
    if reference is not None:
        schema["$ref"] = reference
    hint = 'the root is described by "$ref": "#/$defs/Top"'
    assert _faults(tmp_path, DOCUMENT, schema, "Top") == [f"{said} ({hint})"]


@pytest.mark.parametrize("path", sorted(load.LANGUAGE.iterdir()), ids=lambda path: path.name)
def test_the_schemas_of_the_language_have_no_such_keyword(path: Path) -> None:
    found = Problems()
    schema_keywords.read(path.parent, path.name, DEFAULT, found)
    assert not found
