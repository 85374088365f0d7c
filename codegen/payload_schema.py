"""spec/cni: the JSON Schema of what CNI plugins receive."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from codegen import load
from codegen.document_schema import classes
from codegen.model import Api, ObjectType, Plan

FILE = "spec/cni/runtime_config.schema.json"
ROOT = "RuntimeConfig"
_ROOTS = {"runtime_config": ("cni", ROOT), "arguments": ("cni.args", "Arguments")}
"""By generating function: the prefix of its targets, and its object in the schema."""


def read(root: Path) -> Mapping[str, ObjectType]:
    """Every object by name; ``ROOT`` is the object that ``cni.`` paths start from."""
    load.schema_file(root, FILE)
    schema, node = load.json_file(root, FILE), load.yaml_file(root, FILE)
    return classes(schema, node, FILE, ROOT, "json")


def payloads(root: Path, api: Api, known: Mapping[str, ObjectType]) -> Iterator[Plan]:
    """What CNI plugins receive, computed from a pod's config; nothing if the CRI lacks the
    message."""
    body, node = load.json_file(root, FILE), load.yaml_file(root, FILE)
    message = body.get("x-message", "")
    if message not in api.messages:
        return
    for name, (begins, part) in _ROOTS.items():
        place = load.at(node, ["$defs", part])
        if part in known:
            fields = known[part].fields
            places = {f: load.at(place, ["properties", f]).place for f in fields}
            yield Plan(name, message, known[part].doc, fields, places, place.place, begins)
