"""Our JSON Schema of the OCI runtime spec as an ``OciSpec``."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from codegen import load
from codegen.errors import Place, SpecError
from codegen.model import Kind, OciClass, OciField, OciSpec

FILE = "spec/oci/runtime.schema.json"

# How a list of these knows one item from another.
IDENTITIES: Mapping[str, str] = {
    "LinuxDevice": "path",
    "LinuxHugepageLimit": "pageSize",
    "LinuxNamespace": "type",
    "Mount": "destination",
    "POSIXRlimit": "type",
}
_SCALARS = {"string": "str", "boolean": "bool", "number": "float", "integer": "int"}


def read(root: Path) -> OciSpec:
    """The schema in ``root``; raises SpecError for a construct that has no Python counterpart."""
    return spec(load.json_file(root, FILE))


def spec(schema: Mapping[str, Any]) -> OciSpec:
    """The model of a schema."""
    definitions: Mapping[str, Any] = schema["$defs"]
    objects = {name: body for name, body in definitions.items() if _is_object(body)}
    alone = {"Spec"} | {
        _target(part["$ref"])
        for body in objects.values()
        for part in body.get("properties", {}).values()
        if "$ref" in part
    }
    return OciSpec(
        {
            name: OciClass(
                name,
                body.get("description", ""),
                {
                    field.name: field
                    for field in _fields(name, body, definitions, demands=name not in alone)
                },
                IDENTITIES.get(name),
            )
            for name, body in objects.items()
        }
    )


def _is_object(body: Mapping[str, Any]) -> bool:
    return body.get("type") == "object" and "properties" in body


def _fields(
    owner: str, body: Mapping[str, Any], definitions: Mapping[str, Any], *, demands: bool
) -> Iterator[OciField]:
    """Demanded fields first, as Python's constructors want it, else in the schema's order.

    A class that stands alone as a part of another exists even when empty, so it demands nothing.
    """
    required = set(body.get("required", ())) if demands else set()
    properties: Mapping[str, Any] = body["properties"]
    for name in sorted(properties, key=lambda key: key not in required):
        part = properties[name]
        kind = _kind(part, definitions, f"{owner}.{name}")
        yield OciField(
            name,
            kind,
            name in required and kind.name != "oci",
            part.get("description", ""),
            part.get("x-empty-counts", False),
        )


def _kind(part: Mapping[str, Any], definitions: Mapping[str, Any], where: str) -> Kind:
    if "$ref" in part:
        name = _target(part["$ref"])
        if _is_object(definitions[name]):
            return Kind("oci", name)
        return _kind(definitions[name], definitions, where)
    match part.get("type"):
        case "array":
            return Kind("list", of=(_kind(part["items"], definitions, where),))
        case "object" if isinstance(part.get("additionalProperties"), dict):
            value = _kind(part["additionalProperties"], definitions, where)
            return Kind("map", of=(Kind("str"), value))
        case "integer":
            return Kind("int", low=part.get("minimum"), high=part.get("maximum"))
        case str() as name if name in _SCALARS:
            return Kind(_SCALARS[name])
    raise SpecError(
        f"{where} is {json.dumps(part)}, which has no Python counterpart",
        Place(FILE),
        "use a $ref to an object, a scalar type, an array with items, or additionalProperties",
    )


def _target(reference: str) -> str:
    return reference.rpartition("/")[2]
