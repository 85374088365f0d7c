"""docs/mapping.md: its entries are a specification that the generator takes, its Python is what
they generate, and no word of the language is missing."""

from __future__ import annotations

import json
import re
import textwrap
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest

from tests.golden.case import Case, lay_out, outcome
from tests.unit.codegen.project import ROOT

_PAGE = (ROOT / "docs/mapping.md").read_text()
_BLOCK = re.compile(r"<!-- (?P<what>[^>]+) -->\n```\w+\n(?P<text>.*?)```", re.S)
_HEADS = {
    "box.yaml": "message: runtime.v1.Box\nflow: in\n",
    "lid.yaml": "message: runtime.v1.Lid\nflow: in\n",
    "hinge.yaml": "message: runtime.v1.Hinge\nflow: in\n",
    "stored.yaml": "message: runtime.v1.Stored\nflow: out\n",
    "figures.yaml": "message: runtime.v1.Figures\nflow: out\n",
    "box_filter.yaml": "message: runtime.v1.BoxFilter\nflow: match\nof: Stored\n",
    "note_filter.yaml": "message: runtime.v1.NoteFilter\nflow: match\nof: Stored\n",
    "disk.yaml": "message: runtime.v1.Disk\nflow: out\n",
    "number.yaml": "message: runtime.v1.Number\nflow: out\n",
    "gate.yaml": "message: runtime.v1.Gate\nflow: in\n",
    "range.yaml": "message: runtime.v1.Range\nflow: in\n",
    "tag.yaml": "message: runtime.v1.Tag\nflow: in\n",
}
_NOT_SHOWN = {
    "disk.yaml": "name: {copy: disk.name, why: w}\n",
    "number.yaml": "value: {unmapped: informational, why: w}\n",
    "box.yaml": "ranges: {handled_by: shelves.doors, why: w}\n",
}
_BOXES = """
from __future__ import annotations
from collections.abc import Mapping, Sequence
from generated.cri import api_pb2
from generated.oci import types

def limit(*, size: int, layers: int, spare: int) -> int | None: ...
def mounts(*, mounts: Sequence[str]) -> list[types.Mount]: ...
def words(*, label: str) -> list[str]: ...
def has_lid(*, lid: api_pb2.Lid | None) -> bool: ...
def variable(*, key: str, value: str) -> str: ...
def environment(*, tags: Sequence[str]) -> list[str]: ...
def hung(*, side: str | None) -> str: ...
def depth(*, notes: Mapping[str, str]) -> int: ...
"""
_FACTS = """
from __future__ import annotations
from dataclasses import dataclass

@dataclass
class Usage:
    bytes: int | None

@dataclass
class Disk:
    name: str

@dataclass
class Crate:
    id: str
    spare: int
    usage: Usage | None
    disks: tuple[Disk, ...]
"""
_SHELVES = """
from generated.cri import api_pb2

def place(box: api_pb2.Box) -> str:
    return box.path

def doors(box: api_pb2.Box) -> int:
    return len(box.ranges)

def find(box: api_pb2.Box) -> str:
    return box.shelf
"""


_PLAN = """
{
  "x-message": "Box",
  "type": "object",
  "properties": {"has_lid": {"type": "boolean", "description": "Whether it has a lid."}}
}
"""
_CNI = """
{
  "x-message": "Box",
  "$defs": {
    "Arguments": {"type": "object", "properties": {}},
    "RuntimeConfig": {
      "type": "object",
      "properties": {"portMappings": {"type": "array", "items": {"$ref": "#/$defs/PortMapping"}}}
    },
    "PortMapping": {
      "type": "object",
      "required": ["hostPort", "containerPort", "protocol"],
      "properties": {
        "hostPort": {"type": "integer", "minimum": 0, "maximum": 65535},
        "containerPort": {"type": "integer", "minimum": 0, "maximum": 65535},
        "protocol": {"type": "string"},
        "hostIP": {"type": "string"}
      }
    }
  }
}
"""


def _blocks() -> list[tuple[str, str]]:
    return [(match["what"], match["text"]) for match in _BLOCK.finditer(_PAGE)]


def _case() -> Case:
    parts: dict[str, dict[str, str]] = {name: defaultdict(str) for name in _HEADS}
    for name, text in _NOT_SHOWN.items():
        parts[name]["fields"] = text
    for what, text in _blocks():
        file, _, part = what.partition(" ")
        if part:
            parts[file][part] += text
    mapping = {
        name: head
        + "".join(f"{p}:\n{textwrap.indent(text, '  ')}" for p, text in parts[name].items())
        for name, head in _HEADS.items()
    }
    data: dict[str, Any] = {
        "proto": dict(_blocks())["proto"],
        "mapping": mapping,
        "transforms": {"boxes.py": _BOXES, "facts.py": _FACTS},
        "runtime": {"shelves.py": _SHELVES},
        "plan": {"box.schema.json": _PLAN},
        "cni": {"runtime_config.schema.json": _CNI},
    }
    return Case("page", data)


@pytest.fixture(scope="module")
def generated(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    root: Path = tmp_path_factory.mktemp("page")
    lay_out(_case(), root)
    files, error = outcome(root)
    assert error is None, error
    return files


def test_every_python_block_is_generated(generated: dict[str, str]) -> None:
    shown = [(what, text) for what, text in _blocks() if what.endswith(".py")]
    assert len(shown) >= 9
    for file, text in shown:
        made = "\n".join(line.strip() for line in generated[file].splitlines())
        wanted = "\n".join(line.strip() for line in text.splitlines())
        assert wanted in made, f"{file} is:\n{generated[file]}"


def test_every_word_of_the_language_is_on_the_page() -> None:
    schema = json.loads((ROOT / "codegen/schemas/mapping.schema.json").read_text())
    definitions = schema["$defs"]
    words = {*schema["properties"], *definitions["entry"]["properties"]} - {"message", "fields"}
    words |= set(_enums(schema)) | set(definitions["rule"]["oneOf"][1]["properties"])
    missing = sorted(word for word in words if not re.search(rf"`[^`\n]*\b{word}\b", _PAGE))
    assert missing == []


def _enums(part: Any) -> list[str]:
    if isinstance(part, list):
        return [word for item in part for word in _enums(item)]
    if not isinstance(part, dict):
        return []
    return [*part.get("enum", ()), *(word for value in part.values() for word in _enums(value))]
