"""The JSON Schemas of payloads: objects for other programs, each made of one message."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from codegen import load, project
from codegen.document_schema import classes
from codegen.errors import Place, SpecError
from codegen.model import Api, ObjectType, Plan, snake
from codegen.project import Payload


def read(root: Path) -> dict[str, ObjectType]:
    """Every object of every payload, by name."""
    found: dict[str, ObjectType] = {}
    for payload in project.read(root).payloads.values():
        load.schema_file(root, payload.schema)
        schema, node = load.json_file(root, payload.schema), load.yaml_file(root, payload.schema)
        types = classes(schema, node, payload.schema, payload.root, "json")
        twice = sorted(types.keys() & found.keys())
        if twice:
            raise SpecError(
                f"another payload has the object {twice[0]} too", Place(payload.schema), "rename it"
            )
        found |= types
    return found


def payloads(root: Path, api: Api, known: Mapping[str, ObjectType]) -> Iterator[Plan]:
    """Each object that is made of a message; nothing if the API lacks the message."""
    for word, payload in project.read(root).payloads.items():
        body, node = load.json_file(root, payload.schema), load.yaml_file(root, payload.schema)
        message = body.get("x-message", "")
        for prefix, part in _objects(word, payload):
            if message in api.messages and part in known:
                place = load.at(node, ["$defs", part])
                fields = known[part].fields
                places = {f: load.at(place, ["properties", f]).place for f in fields}
                doc = known[part].doc
                yield Plan(snake(part), message, doc, fields, places, place.place, prefix)


def _objects(word: str, payload: Payload) -> Iterator[tuple[str, str]]:
    """(prefix of its targets, object of the schema) of everything that one payload has."""
    yield word, payload.root
    for inner, part in payload.also.items():
        yield f"{word}.{inner}", part
