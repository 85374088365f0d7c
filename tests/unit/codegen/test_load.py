"""YAML as nodes: places, and the traps of YAML 1.1."""

from __future__ import annotations

import pytest

from codegen import load
from codegen.errors import Place, Problems, SpecError


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("no", "no"),
        ("on", "on"),
        ("true", True),
        ("null", None),
        ("12", 12),
        ("-3", -3),
        ("1.5", 1.5),
        ("010", "010"),
        ("0x10", "0x10"),
        ("1_000", "1_000"),
        ("12:30", "12:30"),
        ("'12'", "12"),
        ('"true"', "true"),
        ("2026-01-01", "2026-01-01"),
        (">\n  two\n  lines\n", "two lines"),
    ],
)
def test_scalars_have_no_surprising_types(text: str, value: object) -> None:
    assert load.yaml_text(f"key: {text}", "f.yaml").plain() == {"key": value}


def test_nodes_remember_their_place() -> None:
    node = load.yaml_text("a:\n  - b: c\n", "f.yaml")
    assert isinstance(node, load.MappingNode)
    inner = node.get("a")
    assert isinstance(inner, load.ListNode)
    assert inner.values[0].place == Place("f.yaml", 2, 5)
    key = node.key("a")
    assert key is not None
    assert key.place == Place("f.yaml", 1, 1)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("a: 1\na: 2\n", "f.yaml:2:1: the key 'a' is written twice"),
        ("a: &x 1\n", "f.yaml:1:4: uses an anchor, an alias or a tag"),
        ("a: !!int 1\n", "f.yaml:1:4: uses an anchor, an alias or a tag"),
        ("? [a]\n: 1\n", "f.yaml:1:3: a key must be a plain word"),
        ("a: [\n", "is not YAML"),
        ("", "f.yaml: is empty"),
        ("a: b\nc: \x07\n", "f.yaml:2:4: is not YAML: control characters are not allowed"),
        ("a: " + "[" * 100_000, "f.yaml:1:103: is nested too deeply"),
        ("- " * 2000, "is nested too deeply"),
        ("".join(f"{' ' * n}a:\n" for n in range(2000)), "is nested too deeply"),
    ],
)
def test_what_a_reviewer_could_misread_is_refused(text: str, says: str) -> None:
    with pytest.raises(SpecError) as raised:
        load.yaml_text(text, "f.yaml")
    assert says in str(raised.value)


def test_every_schema_violation_is_reported() -> None:
    schema = {
        "type": "object",
        "required": ["a", "b"],
        "properties": {
            "a": {"type": "string"},
            "b": {},
            "c": {"pattern": "^x", "x-says": "wants x"},
        },
        "additionalProperties": False,
    }
    problems = Problems()
    node = load.yaml_text("a: 1\nc: y\nd: 1\n", "f.yaml")
    assert not load.check_schema(node, load.Schema(schema), problems)
    assert sorted(str(problem) for problem in problems) == [
        "f.yaml:1:1: the file lacks the key 'b'",
        'f.yaml:1:4: a must be of type string\n    hint: write it in quotes: "1"',
        "f.yaml:2:4: c wants x",
        "f.yaml:3:1: unknown key 'd' in the file\n    hint: allowed here: a, b, c",
    ]
    assert load.check_schema(
        load.yaml_text("a: s\nb: 1\n", "f.yaml"), load.Schema(schema), problems
    )
