"""The JSON Schema of the document as a ``Document``."""

from __future__ import annotations

import json
import keyword
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from codegen import load, project, schema_keywords
from codegen.errors import Problems, SpecError, nearest, one_of
from codegen.load import ListNode, MappingNode, Node
from codegen.model import Document, Kind, ObjectType, Property

_SCALARS = {"string": "str", "boolean": "bool", "number": "float", "integer": "int"}
_OF_CLASSES = frozenset(
    {"dict", "extra", "field", "from_dict", "from_json", "identity", "list", "property"}
    | {"classmethod", "to_dict", "to_json"}
)
"""Names that the generated classes use themselves."""
_OF_MODULE = frozenset({"Any", "Mapping", "Self", "dataclass", "field", "list", "dict", "msgspec"})


def read(root: Path, problems: Problems) -> Document:
    """The schema in ``root``; raises SpecError for each construct without a Python counterpart.
    Names that Python cannot have go to ``problems``."""
    written = project.read(root).document
    told = Problems()
    schema_keywords.read(root, written.schema, schema_keywords.DOCUMENT, told, written.root)
    problems.extend(told)
    schema, node = load.json_file(root, written.schema), load.yaml_file(root, written.schema)
    _check_names(schema, node, problems)
    made = partial(classes, schema, node, written.root, "object")
    return Document(written.name, written.root, schema_keywords.unless_told(told, made))


def _check_names(schema: Mapping[str, Any], node: Node, problems: Problems) -> None:
    """Objects become classes, and keys become attributes."""
    objects = {name: body for name, body in schema.get("$defs", {}).items() if _is_object(body)}
    for name, body in objects.items():
        if not name.isidentifier() or name in _OF_MODULE or keyword.iskeyword(name):
            problems.add(
                f"{name} cannot be the name of a Python class",
                load.at(node, ["$defs", name]).place,
                "use letters and digits, and no word that the generated module uses",
                "no-python-name",
            )
        for key in body["properties"]:
            taken = key in _OF_CLASSES or key in objects
            if taken or not key.isidentifier():
                problems.add(
                    f"{name}.{key} cannot be an attribute of a Python class",
                    load.at(node, ["$defs", name, "properties", key]).place,
                    "its name is taken" if taken else "use letters, digits and _",
                    "no-python-name",
                )


def classes(schema: Mapping[str, Any], node: Node, root: str, kind: str) -> dict[str, ObjectType]:
    """Every object of a schema; references to one have the kind ``kind``."""
    problems = Problems()
    definitions: Mapping[str, Any] = schema.get("$defs", {})
    objects = {name: body for name, body in definitions.items() if _is_object(body)}
    if root not in objects:
        problems.add(
            f"$defs has no object {root}, the root of the document",
            load.at(node, ["$defs"]).place,
            nearest(root, objects),
        )
    for name, body in objects.items():
        for key, part in body["properties"].items():
            if not isinstance(part, dict):
                problems.add(
                    f"{name}.{key} is no schema but {json.dumps(part)}",
                    load.at(node, ["$defs", name, "properties", key]).place,
                    'write an object with its type, as in {"type": "string"}',
                )
    problems.stop_if_any()
    alone = {root} | {
        _target(part["$ref"])
        for body in objects.values()
        for part in body["properties"].values()
        if "$ref" in part
    }
    found = {}
    for name, body in objects.items():
        reader = ObjectReader(
            name, body, definitions, load.at(node, ["$defs", name]), problems, kind
        )
        fields = {field.name: field for field in reader.fields(demands=name not in alone)}
        found[name] = ObjectType(name, body.get("description", ""), fields, reader.identity(fields))
    problems.stop_if_any()
    return found


def check_keys(node: Node, document: Document, problems: Problems) -> None:
    """Record a fault for each key of an instance that ``document`` does not have."""
    _check_keys(node, Kind("object", document.root), document, problems)


def _check_keys(node: Node, kind: Kind, document: Document, problems: Problems) -> None:
    if kind.name == "object" and isinstance(node, MappingNode):
        known = document.classes[kind.ref].fields
        for key, value in node.items():
            if key.value in known:
                _check_keys(value, known[key.value].kind, document, problems)
            else:
                problems.add(
                    f"{kind.ref} has no key {key.value!r}",
                    key.place,
                    nearest(key.value, known) or one_of(known),
                    "unknown-key",
                )
    elif kind.name == "list" and isinstance(node, ListNode):
        for item in node.values:
            _check_keys(item, kind.of[0], document, problems)
    elif kind.name == "map" and isinstance(node, MappingNode):
        for _, value in node.items():
            _check_keys(value, kind.of[1], document, problems)


def _is_object(body: Mapping[str, Any]) -> bool:
    return body.get("type") == "object" and "properties" in body


@dataclass(frozen=True, slots=True)
class ObjectReader:
    """One object type of the schema."""

    name: str
    body: Mapping[str, Any]
    definitions: Mapping[str, Any]
    node: Node
    problems: Problems
    """Receives the faults of constructs without a Python counterpart."""
    kind: str = "object"
    """The kind of a reference to an object."""

    def fields(self, *, demands: bool) -> Iterator[Property]:
        """Required fields first, as Python's constructors need it, otherwise in the schema's order.

        An object that is a part of another one always exists, even if empty, so it has no required
        fields.
        """
        required = set(self.body.get("required", ())) if demands else set()
        properties: Mapping[str, Any] = self.body["properties"]
        for name in sorted(properties, key=lambda key: key not in required):
            part = properties[name]
            kind = self.problems.attempt(partial(self._kind, part, name))
            if kind is not None:
                yield Property(
                    name,
                    kind,
                    name in required and kind.name != self.kind,
                    part.get("description", ""),
                    part.get("x-empty-counts", False),
                )

    def identity(self, fields: Mapping[str, Property]) -> str | None:
        """The property that identifies an item in a list."""
        name: str | None = self.body.get("x-identity")
        if name is not None and (name not in fields or fields[name].kind.name != "str"):
            self.problems.add(
                f"x-identity of {self.name} names {name}, which is not a string property of it",
                load.at(self.node, ["x-identity"]).place,
                nearest(str(name), fields),
            )
        return name

    def _kind(self, part: Mapping[str, Any], name: str, above: tuple[str, ...] = ()) -> Kind:
        if "$ref" in part:
            target = _target(part["$ref"])
            if target not in self.definitions or target in above:
                raise SpecError(
                    f"{self.name}.{name} refers to {part['$ref']}, which "
                    + ("contains itself" if above else "is no type that it can have"),
                    load.at(self.node, ["properties", name]).place,
                    nearest(target, self.definitions) or "write the type itself",
                )
            if _is_object(self.definitions[target]):
                return Kind(self.kind, target)
            return self._kind(self.definitions[target], name, (*above, target))
        if "x-record" in part:
            return Kind("record", part["x-record"])
        if "x-message" in part:
            return Kind("message", part["x-message"])
        match part.get("type"):
            case [str() as given, "null"]:
                return replace(self._kind({**part, "type": given}, name, above), optional=True)
            case "array" if "items" in part:
                return Kind("list", of=(self._kind(part["items"], name, above),))
            case "object" if isinstance(part.get("additionalProperties"), dict):
                value = self._kind(part["additionalProperties"], name, above)
                return Kind("map", of=(Kind("str"), value))
            case "integer":
                return Kind("int", low=part.get("minimum"), high=part.get("maximum"))
            case str() as scalar if scalar in _SCALARS:
                return Kind(_SCALARS[scalar])
        raise SpecError(
            f"{self.name}.{name} is {json.dumps(part)}, which has no Python counterpart",
            load.at(self.node, ["properties", name]).place,
            "use a $ref to an object, a scalar type, an array with items, or additionalProperties",
        )


def _target(reference: str) -> str:
    return reference.rpartition("/")[2]
