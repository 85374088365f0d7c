"""The schema in spec/oci compared with the one that Debian ships, and its own consistency."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest

SCHEMA = json.loads(
    (Path(__file__).parents[3] / "spec" / "oci" / "runtime.schema.json").read_text()
)
DEBIAN = Path("/usr/share/gocode/src/github.com/opencontainers/runtime-spec/schema")

NOT_LINUX = {"solaris", "windows", "vm", "zos", "freebsd", "commandLine", "username"}


class Published:
    """The published schema: several draft-04 files whose references name each other."""

    def __init__(self, folder: Path) -> None:
        self.files = {
            file.name: absolute(json.loads(file.read_text()), file.name)
            for file in folder.glob("*.json")
        }

    def resolve(self, node: dict[str, Any]) -> dict[str, Any]:
        """The definition of a node, including its ``allOf`` and ``anyOf``."""
        while "$ref" in node:
            file, _, pointer = node["$ref"].partition("#")
            node = self.files[file]
            for step in filter(None, pointer.split("/")):
                node = node[step]
        for part in node.get("allOf", []) + node.get("anyOf", []):
            added = self.resolve(part)
            node = {
                **added,
                **node,
                "properties": {**node.get("properties", {}), **added.get("properties", {})},
            }
        return node


def absolute(node: Any, file: str) -> Any:
    """The same schema with every reference naming its file."""
    if isinstance(node, list):
        return [absolute(item, file) for item in node]
    if not isinstance(node, dict):
        return node
    return {
        key: (file + value if key == "$ref" and value.startswith("#") else absolute(value, file))
        for key, value in node.items()
    }


def own(node: dict[str, Any]) -> dict[str, Any]:
    """The definition of a node of our schema."""
    while "$ref" in node:
        node = SCHEMA["$defs"][node["$ref"].removeprefix("#/$defs/")]
    return node


def differences(
    published: Published, theirs: dict[str, Any], ours: dict[str, Any], path: str
) -> Iterator[str]:
    """Report each place where the published schema has more than ours, or another type."""
    theirs = published.resolve(theirs)
    ours = own(ours)
    wanted = theirs.get("type")
    if wanted is not None and wanted != ours.get("type"):
        yield f"{path}: published type {wanted}, ours {ours.get('type')}"
        return
    for name, child in theirs.get("properties", {}).items():
        if name in NOT_LINUX:
            continue
        if name not in ours.get("properties", {}):
            yield f"{path}.{name}: missing"
            continue
        yield from differences(published, child, ours["properties"][name], f"{path}.{name}")
    for key in ("items", "additionalProperties"):
        if isinstance(theirs.get(key), dict):
            yield from differences(published, theirs[key], ours[key], f"{path}[]")
    missing = set(theirs.get("enum", ())) - set(ours.get("enum", theirs.get("enum", ())))
    if missing:
        yield f"{path}: values {sorted(missing)} are missing"


@pytest.mark.skipif(
    not (DEBIAN / "config-schema.json").exists(),
    reason="needs Debian's golang-github-opencontainers-specs-dev",
)
def test_the_schema_knows_everything_that_the_published_one_knows() -> None:
    published = Published(DEBIAN)
    root = published.files["config-schema.json"]
    assert list(differences(published, root, SCHEMA, "spec")) == []


def test_the_schema_is_valid_and_every_definition_is_used() -> None:
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    used = set(re.findall(r'"#/\$defs/(\w+)"', json.dumps(SCHEMA)))
    assert used == set(SCHEMA["$defs"])


def test_every_definition_and_property_says_what_it_means() -> None:
    silent = [
        f"{name}.{key}"
        for name, definition in SCHEMA["$defs"].items()
        for key, node in {"": definition, **definition.get("properties", {})}.items()
        if not node.get("description")
    ]
    assert silent == []
