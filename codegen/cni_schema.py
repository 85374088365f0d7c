"""spec/cni: our JSON Schema of what CNI plugins are told."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from codegen import load
from codegen.model import Api, OciClass, Plan
from codegen.oci_schema import classes

FILE = "spec/cni/runtime_config.schema.json"
ROOT = "RuntimeConfig"
_ROOTS = {"runtime_config": ("cni", ROOT), "arguments": ("cni.args", "Arguments")}
"""By the function that makes it: what its targets begin with, and its object in the schema."""


def read(root: Path) -> Mapping[str, OciClass]:
    """Every object by name; ``ROOT`` is what ``cni.`` stands for in a path."""
    load.schema_file(root, FILE)
    schema, node = load.json_file(root, FILE), load.yaml_file(root, FILE)
    return classes(schema, node, FILE, ROOT, "cni")


def told(root: Path, api: Api, known: Mapping[str, OciClass]) -> Iterator[Plan]:
    """What is made of a pod's config for CNI plugins; nothing where the CRI lacks the message."""
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
