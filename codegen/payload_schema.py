"""The JSON Schemas of payloads: objects for other programs, each made of one message."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path

from codegen import load, project, schema_keywords
from codegen.document_schema import classes
from codegen.errors import Problems, nearest, one_of
from codegen.model import Api, ObjectType, Plan, snake
from codegen.project import Payload


def read(root: Path, told: Problems) -> dict[str, ObjectType]:
    """Every object of every payload, by name; raises SpecError for what a schema lacks. Keywords
    without effect go to ``told``."""
    found: dict[str, ObjectType] = {}
    for payload in project.read(root).payloads.values():
        keywords = Problems()
        schema_keywords.read(root, payload.schema, schema_keywords.PAYLOAD, keywords)
        told.extend(keywords)
        schema, node = load.json_file(root, payload.schema), load.yaml_file(root, payload.schema)
        made = partial(classes, schema, node, payload.root, "json")
        types = schema_keywords.unless_told(keywords, made)
        problems = Problems()
        for part in payload.also.values():
            if part not in types:
                problems.add(
                    f"$defs has no object {part}, which also of {project.FILE} names",
                    load.at(node, ["$defs"]).place,
                    nearest(part, types) or one_of(types),
                )
        for twice in sorted(types.keys() & found.keys()):
            problems.add(
                f"another payload has the object {twice} too",
                load.at(node, ["$defs", twice]).place,
                "rename it",
            )
        problems.stop_if_any()
        found |= types
    return found


def check(root: Path, api: Api, problems: Problems) -> None:
    """Record a fault for each payload whose message the API does not have."""
    for payload in project.read(root).payloads.values():
        body = load.json_file(root, payload.schema)
        message = body.get("x-message", "")
        misspelt = not message and not body.keys() <= schema_keywords.PAYLOAD.file
        if message not in api.messages and not misspelt:
            problems.add(
                f"x-message names {message!r}, which is not a message of the {api.name}",
                load.at(load.yaml_file(root, payload.schema), ["x-message"]).place,
                api.former.hint(message) or nearest(message, api.messages),
            )


def payloads(root: Path, api: Api, known: Mapping[str, ObjectType]) -> Iterator[Plan]:
    """Each object that is made of a message; nothing if the API lacks the message."""
    for word, payload in project.read(root).payloads.items():
        body, node = load.json_file(root, payload.schema), load.yaml_file(root, payload.schema)
        message = body.get("x-message", "")
        for prefix, part in _objects(word, payload) if message in api.messages else ():
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
