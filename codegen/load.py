"""YAML files as nodes that remember the place of every word.

Interface for the loaders of ``spec/`` (mapping, rpc.yaml, lifecycle.yaml)::

    node = load.yaml_file(root, "spec/rpc.yaml")       # MappingNode | ListNode | ScalarNode
    load.check_schema(node, load.language_schema("mapping"), problems)
    for key, value in node.items():                    # a MappingNode
        problems.add("says so and so", value.place, "hint")
    key.place, key.value, value.plain()            # plain() gives ordinary dicts and lists

The traps of YAML 1.1 are avoided: a duplicate key is an error, only ``true`` and ``false`` are
booleans (``no``, ``on`` and ``yes`` are words), numbers are decimal, and tags, anchors and merges
are refused, because a reviewer should not have to look elsewhere to understand an entry.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from codegen import cache
from codegen.errors import Place, Problems, SpecError, misspelt, nearest, one_of

if TYPE_CHECKING:
    from jsonschema.exceptions import ValidationError
    from jsonschema.protocols import Validator

LANGUAGE = Path(__file__).resolve().parent / "schemas"
"""The JSON Schemas of the files of a specification."""
JSONSCHEMA = version("jsonschema").encode()
"""The version of what checks values, for keys of the cache."""
Plain = str | int | float | bool | None | list["Plain"] | dict[str, "Plain"]


@dataclass(frozen=True, slots=True)
class ScalarNode:
    """A word, a number, a boolean or null."""

    value: str | int | float | bool | None
    place: Place

    def plain(self) -> Plain:
        return self.value


@dataclass(frozen=True, slots=True)
class ListNode:
    """A list, in order."""

    values: tuple[Node, ...]
    place: Place

    def plain(self) -> Plain:
        return [value.plain() for value in self.values]


@dataclass(frozen=True, slots=True)
class Key:
    """A key of a mapping and its place."""

    value: str
    place: Place


@dataclass(frozen=True, slots=True)
class MappingNode:
    """Keys and values in the order written."""

    pairs: tuple[tuple[Key, Node], ...]
    place: Place

    def plain(self) -> Plain:
        return {key.value: value.plain() for key, value in self.pairs}

    def items(self) -> Iterator[tuple[Key, Node]]:
        return iter(self.pairs)

    def get(self, name: str) -> Node | None:
        """The value under ``name``, None if there is no such key."""
        return next((value for key, value in self.pairs if key.value == name), None)

    def key(self, name: str) -> Key | None:
        """The key ``name`` itself, for its place."""
        return next((key for key, _ in self.pairs if key.value == name), None)


Node = ScalarNode | ListNode | MappingNode


class _Loader(yaml.CSafeLoader if hasattr(yaml, "CSafeLoader") else yaml.SafeLoader):  # type: ignore[misc]
    """Only composes nodes; the tags that YAML 1.1 would resolve are ignored below."""


def text_file(root: Path, name: str) -> str:
    """The text of ``root/name``, without the byte order mark that some editors write; errors name
    the file as ``name``."""
    if (root / name).is_fifo():
        raise SpecError("cannot be read: it is a pipe", Place(name), "write a file")
    try:
        data = (root / name).read_bytes()
    except OSError as error:
        raise SpecError(f"cannot be read: {error.strerror}", Place(name)) from error
    try:
        return data.decode().removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        before = data[: error.start].decode(errors="replace")
        raise SpecError(
            f"is not UTF-8: byte 0x{data[error.start]:02x}", _place_after(before, name)
        ) from error


def _place_after(text: str, name: str) -> Place:
    return Place(name, text.count("\n") + 1, len(text) - text.rfind("\n"))


def yaml_file(root: Path, name: str) -> Node:
    """The document in ``root/name``; errors name the file as ``name``."""
    return yaml_text(text_file(root, name), name)


def yaml_text(text: str, name: str) -> Node:
    """The one document in ``text``."""
    try:
        if _may_surprise(text):
            _refuse_surprises(text, name)
        document = yaml.compose(text, _Loader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = Place(name, mark.line + 1, mark.column + 1) if mark else Place(name)
        raise SpecError(f"is not YAML: {error.problem}", place) from error
    except yaml.reader.ReaderError as error:
        place = _place_after(text[: error.position], name)
        raise SpecError(f"is not YAML: {error.reason}", place) from error
    except yaml.YAMLError as error:
        raise SpecError(f"is not YAML: {error}", Place(name)) from error
    if document is None:
        raise SpecError("is empty", Place(name))
    problems = Problems()
    node = _node(document, name, problems)
    problems.stop_if_any()
    return node


def json_file(root: Path, name: str) -> dict[str, Any]:
    """The JSON object in ``root/name``."""
    try:
        data = json.loads(text_file(root, name))
    except json.JSONDecodeError as error:
        raise SpecError(
            f"is not JSON: {error.msg}", Place(name, error.lineno, error.colno)
        ) from error
    except ValueError as error:
        raise SpecError("is not JSON: a number has too many digits", Place(name)) from error
    except RecursionError as error:
        raise SpecError("is nested too deeply", Place(name)) from error
    if not isinstance(data, dict):
        raise SpecError("must hold a JSON object", Place(name))
    return data


class Schema:
    """A JSON Schema that was itself checked; ``x-says`` in a schema explains its ``oneOf`` or
    ``pattern`` in words."""

    def __init__(self, data: Mapping[str, Any], name: str = "the schema") -> None:
        """``data`` is a schema, from the file ``name``; raises SpecError if it refers to what it
        does not have, or a part of it contains itself."""
        self.text = json.dumps(data).encode()
        self._whole = _without_references(data, data, name, ())

    def errors(self, value: Any) -> Iterator[ValidationError]:
        """Every violation of the schema by ``value``."""
        return self._validator.iter_errors(value)

    @functools.cached_property
    def _validator(self) -> Validator:
        from jsonschema import Draft202012Validator

        return Draft202012Validator(self._whole)


def language_schema(name: str) -> Schema:
    """The JSON Schema of one kind of file of a specification, such as ``mapping``; a test checks
    that it is one."""
    file = f"{name}.schema.json"
    return Schema(json_file(LANGUAGE, file), f"codegen/schemas/{file}")


def _without_references(part: Any, whole: Any, name: str, above: tuple[str, ...]) -> Any:
    """``part`` with each ``$ref`` replaced by its target, which makes checks several times
    faster than resolving it for each value."""
    if isinstance(part, list):
        return [_without_references(item, whole, name, above) for item in part]
    if not isinstance(part, dict):
        return part
    reference = part.get("$ref")
    if not isinstance(reference, str):
        return {
            key: _without_references(value, whole, name, above)
            for key, value in part.items()
            if key != "$defs"
        }
    if reference in above:
        raise SpecError(f"{reference} contains itself", Place(name))
    found = whole
    for step in reference.removeprefix("#/").split("/"):
        found = found.get(step) if isinstance(found, dict) else None
    if not isinstance(found, dict):
        raise SpecError(f"refers to {reference}, which it does not have", Place(name))
    rest = {key: value for key, value in part.items() if key != "$ref"}
    return {**_without_references(found, whole, name, (*above, reference)), **rest}


def check_schema(node: Node, schema: Schema, problems: Problems) -> bool:
    """Record every violation of ``schema`` by ``node``; True if there is none."""
    errors = list(schema.errors(node.plain()))
    for error in errors:
        _report(error, node, problems)
    return not errors


def checked_file(root: Path, name: str, schema: Schema) -> Node:
    """The document in ``root/name``; raises SpecError with every violation of the schema."""
    return checked_text(text_file(root, name), name, schema)


def checked_text(text: str, name: str, schema: Schema) -> Node:
    """The one document in ``text``; raises SpecError with every violation of the schema."""
    node = yaml_text(text, name)

    def check() -> bytes:
        problems = Problems()
        check_schema(node, schema, problems)
        problems.stop_if_any()
        return b""

    cache.made_once("checked", (JSONSCHEMA, schema.text, text.encode()), check)
    return node


Part = tuple[str, ...]
"""The path to a value."""


def checked_parts(
    root: Path, name: str, schema: Schema, parts: Collection[Part], problems: Problems
) -> tuple[Node, frozenset[Part]]:
    """The document in ``root/name`` without those of its ``parts`` that violate the schema, and
    the paths of these; ``*`` in a path stands for any key.

    Their violations go to ``problems``; raises SpecError with every violation if there are others.
    """
    try:
        return checked_file(root, name, schema), frozenset()
    except SpecError as error:
        node = yaml_file(root, name)
        faulty = {
            part
            for violation in schema.errors(node.plain())
            for part in [_part_of(violation, parts)]
        }
        if None in faulty:
            raise
        problems.take(error)
        found = frozenset(part for part in faulty if part is not None)
        return _without(node, found), found


def _part_of(violation: ValidationError, parts: Collection[Part]) -> Part | None:
    path = tuple(map(str, violation.absolute_path))
    for part in parts:
        if len(path) >= len(part) and all(
            wanted in ("*", step) for wanted, step in zip(part, path, strict=False)
        ):
            return path[: len(part)]
    return None


def _without(node: Node, paths: Collection[Part]) -> Node:
    if not isinstance(node, MappingNode):
        return node
    alone = {path[0] for path in paths if len(path) == 1}
    return MappingNode(
        tuple(
            (key, _without(value, [p[1:] for p in paths if p[0] == key.value and len(p) > 1]))
            for key, value in node.pairs
            if key.value not in alone
        ),
        node.place,
    )


_MAX_DEPTH = 100
_LONG = 1000
_READABLE = 160


def _may_surprise(text: str) -> bool:
    """Whether the text may contain anchors, aliases, tags or deep nesting; most files cannot,
    and need not be parsed twice."""
    if any(sign in text for sign in "&*!") or text.count("[") + text.count("{") > _LONG:
        return True
    return any(len(line) > _LONG for line in text.splitlines())


def _refuse_surprises(text: str, name: str) -> None:
    """Raise SpecError for an anchor, an alias, a tag, or nesting so deep that libyaml would overrun
    its stack."""
    depth = 0
    for event in yaml.parse(text, _Loader):
        mark = event.start_mark
        place = Place(name, mark.line + 1, mark.column + 1) if mark else Place(name)
        tag = getattr(event, "tag", None)
        if getattr(event, "anchor", None) is not None or (tag is not None and tag != "!"):
            raise SpecError(
                "uses an anchor, an alias or a tag", place, "write the value out where it is used"
            )
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1
        if depth > _MAX_DEPTH:
            raise SpecError("is nested too deeply", place)


_INTEGER = re.compile(r"-?(0|[1-9][0-9]{0,99})\Z")  # longer ones are words: no rule needs them
_NUMBER = re.compile(r"-?(0|[1-9][0-9]*)\.[0-9]+\Z")
_WORDS: Mapping[str, bool | None] = {"true": True, "false": False, "null": None, "": None}


def _node(composed: yaml.Node, name: str, problems: Problems) -> Node:
    place = Place(name, composed.start_mark.line + 1, composed.start_mark.column + 1)
    if isinstance(composed, yaml.ScalarNode):
        return ScalarNode(_scalar(composed), place)
    if isinstance(composed, yaml.SequenceNode):
        return ListNode(tuple(_node(value, name, problems) for value in composed.value), place)
    pairs: list[tuple[Key, Node]] = []
    seen: dict[str, Place] = {}
    for key_node, value_node in composed.value:
        at = Place(name, key_node.start_mark.line + 1, key_node.start_mark.column + 1)
        if not isinstance(key_node, yaml.ScalarNode):
            problems.add("a key must be a plain word", at)
            continue
        word = key_node.value
        if word in seen:
            problems.add(
                f"the key {word!r} is written twice",
                at,
                f"the first is at line {seen[word].line}; keep one of them",
            )
            continue
        seen[word] = at
        pairs.append((Key(word, at), _node(value_node, name, problems)))
    return MappingNode(tuple(pairs), place)


def _scalar(node: yaml.ScalarNode) -> str | int | float | bool | None:
    text: str = node.value
    if node.style:
        return text.strip() if node.style in "|>" else text
    if text in _WORDS:
        return _WORDS[text]
    if _INTEGER.match(text):
        return int(text)
    return float(text) if _NUMBER.match(text) else text


def at(node: Node, path: Sequence[str | int]) -> Node:
    """The node at ``path`` below ``node``, or the last existing node on the way."""
    for step in path:
        if isinstance(node, MappingNode):
            found = node.get(str(step))
        elif isinstance(node, ListNode):
            found = node.values[int(step)]
        else:
            found = None
        if found is None:
            return node
        node = found
    return node


def short(text: str) -> str:
    """One line, without the middle of a long quotation."""
    line = " ".join(text.split())
    return (
        line if len(line) <= _READABLE else f"{line[: _READABLE // 2]} … {line[-_READABLE // 2 :]}"
    )


def _report(error: ValidationError, document: Node, problems: Problems) -> None:
    """A schema violation in words, at the place of the invalid word."""
    node = at(document, list(error.absolute_path))
    wanted: Any = error.validator_value
    where = ".".join(str(step) for step in error.absolute_path) or "the file"
    schema: Mapping[str, Any] = error.schema if isinstance(error.schema, dict) else {}
    if error.validator == "additionalProperties" and isinstance(node, MappingNode):
        known = list(schema.get("properties", {}))
        patterns = [re.compile(p) for p in schema.get("patternProperties", {})]
        for key, _ in node.items():
            if key.value not in known and not any(p.search(key.value) for p in patterns):
                problems.add(
                    f"unknown key {key.value!r} in {where}",
                    key.place,
                    nearest(key.value, known) or (one_of(known) if known else None),
                )
    elif error.validator == "required":
        missing = error.message.split("'")[1]  # one error for each missing key
        known = list(schema.get("properties", {}))
        given = [key.value for key, _ in node.items()] if isinstance(node, MappingNode) else []
        if missing not in misspelt(given, known):
            problems.add(f"{where} lacks the key {missing!r}", node.place)
    elif "x-says" in schema:
        problems.add(f"{where} {schema['x-says']}", node.place)
    elif error.validator == "enum":
        problems.add(
            f"{where} says {short(repr(error.instance))}",
            node.place,
            nearest(str(error.instance), map(str, wanted)) or one_of(map(str, wanted)),
        )
    elif error.validator == "type":
        scalar = wanted == "string" and isinstance(error.instance, bool | int | float)
        hint = f'write it in quotes: "{json.dumps(error.instance)}"' if scalar else None
        problems.add(f"{where} must be of type {wanted}", node.place, hint)
    else:
        problems.add(f"{where}: {short(error.message)}", node.place)
