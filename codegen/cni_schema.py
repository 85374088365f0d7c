"""spec/cni: our JSON Schema of what CNI plugins are told."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from codegen import load
from codegen.model import OciClass
from codegen.oci_schema import classes

FILE = "spec/cni/runtime_config.schema.json"
ROOT = "RuntimeConfig"


def read(root: Path) -> Mapping[str, OciClass]:
    """Every object by name; ``ROOT`` is what ``cni.`` stands for in a path."""
    load.schema_file(root, FILE)
    schema, node = load.json_file(root, FILE), load.yaml_file(root, FILE)
    return classes(schema, node, FILE, ROOT, "cni")
