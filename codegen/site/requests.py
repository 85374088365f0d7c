"""Which stored requests set which field.

A request is an object in a JSON file of the tests. Its message is told by the key above it
(the name of a message or of an RPC), or by its own keys, if only one received message has them all.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from codegen.model import Api, Field, MappingFile, Message
from codegen.site.excerpts import Files

_FOLDER = "tests"
_FEWEST = 3
"""How many keys must tell a message."""


def read(
    files: Files, api: Api, mapping: Mapping[str, MappingFile]
) -> dict[tuple[str, str], frozenset[str]]:
    """{(message, field): the files with a request that sets it}; an RPC is ("", its name)."""
    names = _Names(api, mapping)
    found: dict[tuple[str, str], set[str]] = {}
    for name in files.below(_FOLDER, "*.json"):
        for key in names.of(_content("\n".join(files.lines(name)))):
            found.setdefault(key, set()).add(name)
    return {key: frozenset(names) for key, names in found.items()}


def _content(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return None  # not a request; whoever reads the file says what is wrong with it


class _Names:
    """Finds the messages of objects."""

    def __init__(self, api: Api, mapping: Mapping[str, MappingFile]) -> None:
        self._api = api
        self._fields = {name: dict(_spellings(m)) for name, m in api.messages.items()}
        self._received = [
            name for name, file in mapping.items() if file.takes and name in self._fields
        ]
        self._rpcs = {key: method.request for key, method in api.rpcs.items()}

    def of(self, value: Any, key: str = "") -> Iterator[tuple[str, str]]:
        """The fields that are set, and the RPCs that are called, anywhere in a document."""
        if isinstance(value, list):
            for item in value:
                yield from self.of(item)
        if not isinstance(value, dict):
            return
        if key in self._rpcs:
            yield "", key
            yield from self._set(self._rpcs[key], value)
        elif key in self._fields:
            yield from self._set(key, value)
        elif message := self._told_by(value):
            yield from self._set(message, value)
        else:
            for inner, below in value.items():
                yield from self.of(below, str(inner))

    def _told_by(self, value: Mapping[Any, Any]) -> str | None:
        if len(value) < _FEWEST:
            return None
        fitting = [name for name in self._received if value.keys() <= self._fields[name].keys()]
        return fitting[0] if len(fitting) == 1 else None

    def _set(self, message: str, value: Any) -> Iterator[tuple[str, str]]:
        if not isinstance(value, dict):
            return
        for key, inner in value.items():
            field = self._fields[message].get(key)
            if field is None:
                continue
            yield message, field.name
            if field.message in self._fields:
                items = inner.values() if field.mapped and isinstance(inner, dict) else [inner]
                for one in inner if field.repeated and isinstance(inner, list) else items:
                    yield from self._set(field.message, one)


def _spellings(message: Message) -> Iterator[tuple[str, Field]]:
    """Each field by its name in the proto and by its name in JSON."""
    for name, field in message.fields.items():
        head, *rest = name.split("_")
        yield name, field
        yield head + "".join(part.capitalize() for part in rest), field
