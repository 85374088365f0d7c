"""Which keywords the JSON Schemas of a specification may have, and where.

JSON Schema ignores a keyword that it does not know, and the generator reads only some of those that
exist. Either would be silence about a mistake: a misspelt ``minimun``, or a ``format`` that nothing
checks. So every keyword that has no effect where it stands is a fault.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from codegen import cache, load
from codegen.errors import Place, Problems, SpecError, nearest, one_of
from codegen.load import JSONSCHEMA, ListNode, MappingNode, Node, ScalarNode, Schema

_Result = TypeVar("_Result")
RULE = "schema-keyword"
DRAFT = "https://json-schema.org/draft/2020-12/schema"
_TEXTS = frozenset({"$comment", "description", "title"})
_FILE = _TEXTS | {"$defs", "$id", "$schema"}
_TYPES = frozenset({"additionalProperties", "items", "maximum", "minimum", "properties", "type"})
"""What becomes Python."""
_CHECKED = frozenset(
    {"enum", "maxItems", "maxLength", "maxProperties", "minItems", "minLength", "minProperties"}
    | {"pattern", "propertyNames", "uniqueItems", "x-says"}
)
"""What default documents are checked by, beside the types."""
_VALIDATION = frozenset(
    {"allOf", "anyOf", "const", "contains", "dependentRequired", "dependentSchemas", "else"}
    | {"exclusiveMaximum", "exclusiveMinimum", "if", "maxContains", "minContains", "multipleOf"}
    | {"not", "oneOf", "patternProperties", "prefixItems", "then", "unevaluatedItems"}
    | {"unevaluatedProperties"}
)
"""What else the validator checks."""
_IGNORED = frozenset(
    {"$anchor", "$dynamicAnchor", "$dynamicRef", "$vocabulary", "contentEncoding"}
    | {"contentMediaType", "contentSchema", "default", "deprecated", "examples", "format"}
    | {"readOnly", "writeOnly"}
)
"""What JSON Schema has, and neither the validator nor the generator acts on."""
_STANDARD = _FILE | _TYPES | (_CHECKED - {"x-says"}) | _VALIDATION | _IGNORED | {"$ref", "required"}

_OF_TYPES: Mapping[str, frozenset[str]] = {
    word: frozenset(types)
    for types, words in {
        ("string",): "maxLength minLength pattern",
        ("integer", "number"): "exclusiveMaximum exclusiveMinimum maximum minimum multipleOf",
        ("array",): "contains items maxContains maxItems minContains minItems prefixItems"
        " unevaluatedItems uniqueItems",
        ("object",): "additionalProperties dependentRequired dependentSchemas maxProperties"
        " minProperties patternProperties properties propertyNames required unevaluatedProperties"
        " x-identity",
    }.items()
    for word in words.split()
}
"""The types of the values that a keyword is about; the others are about every value."""
_NAMED = ("$defs", "dependentSchemas", "patternProperties", "properties")
_ONE = frozenset(
    {"additionalProperties", "contains", "else", "if", "items", "not", "propertyNames", "then"}
    | {"unevaluatedItems", "unevaluatedProperties"}
)
_SEVERAL = ("allOf", "anyOf", "oneOf", "prefixItems")
_INSTEAD: Mapping[str, str] = {
    "const": "write an enum with one value",
    "default": "nothing fills it in; decide it in the mapping, or in a default document",
    "definitions": "write $defs",
    "exclusiveMaximum": "write maximum",
    "exclusiveMinimum": "write minimum",
    "format": "nothing checks it; write a pattern where one can be checked, or describe it",
    "nullable": 'write the type as in ["string", "null"]',
}


@dataclass(frozen=True, slots=True)
class Use:
    """What one kind of schema is read for."""

    file: frozenset[str]
    """The keywords of the whole file."""
    part: frozenset[str]
    """Those of every schema in it."""
    beside_reference: frozenset[str] = _TEXTS
    """Those that count beside a ``$ref``."""
    classes: bool = True
    """Whether Python is made of it, in which an object has either properties or any keys."""

    @property
    def key(self) -> str:
        """The same text in every run for the same use."""
        words = map(sorted, (self.file, self.part, self.beside_reference))
        return f"{[*words]} {self.classes}"


DOCUMENT = Use(
    _FILE | {"$ref"},
    _TEXTS | _TYPES | _CHECKED | {"$ref", "required", "x-empty-counts", "x-identity"},
    _TEXTS | {"x-empty-counts"},
)
"""The document that requests are translated into; its defaults are checked by it."""
PAYLOAD = Use(_FILE | {"$ref", "x-message"}, _TEXTS | _TYPES | {"$ref", "required"})
"""What other programs receive."""
_PLAN = _TEXTS | _TYPES | {"x-message", "x-record"}
PLANS = Use(_FILE, _PLAN)
"""Several plans in one file."""
PLAN = Use((_FILE - {"$defs"}) | _PLAN, _PLAN)
"""One plan in a file of its own."""
DEFAULT = Use(
    _FILE | _TYPES | _CHECKED | _VALIDATION | {"$ref", "required"},
    _TEXTS | _TYPES | _CHECKED | _VALIDATION | {"$ref", "required"},
    _TEXTS | _TYPES | _CHECKED | _VALIDATION | {"required"},
    classes=False,
)
"""What a file with default values is checked by, and nothing is made of."""


def read(root: Path, name: str, use: Use, problems: Problems, top: str | None = None) -> Schema:
    """The JSON Schema in ``root/name``; keywords without effect go to ``problems``.

    Raises SpecError with everything that makes it no schema. With ``top``, the file as a whole must
    describe this object of its ``$defs``: otherwise it would accept anything.
    """
    text, data = load.text_file(root, name), load.json_file(root, name)
    told = Problems()

    def check() -> bytes:
        found = Problems()
        node = load.yaml_text(text, name)
        file = _File(use, node, top, found)
        file.check()
        _check_values(data, node, file.without_effect, found)
        found.stop_if_any()
        return b""

    own = Path(__file__).read_bytes()
    key = (JSONSCHEMA, own, f"{use.key} {top}".encode(), text.encode())
    try:
        cache.made_once("schema", key, check)
    except SpecError as error:
        told.extend(fault for fault in error.faults if fault.rule == RULE)
        problems.extend(told)
        others = [fault for fault in error.faults if fault.rule != RULE]
        if others:
            raise SpecError.of(others) from None
    return unless_told(told, lambda: Schema(data, name))


def unless_told(told: Problems, step: Callable[[], _Result]) -> _Result:
    """The result of ``step``. What it raises after a keyword was ``told`` to have no effect may
    only follow from that, so the keyword is raised in its place."""
    try:
        return step()
    except SpecError:
        told.stop_if_any()
        raise


def _check_values(
    data: Mapping[str, Any], node: Node, ignored: set[tuple[str, ...]], problems: Problems
) -> None:
    """Record each value that a keyword of JSON Schema cannot have, except below ``ignored``."""
    from jsonschema import Draft202012Validator  # slow to load, and rarely needed

    for error in Draft202012Validator(Draft202012Validator.META_SCHEMA).iter_errors(data):
        path = list(error.absolute_path)
        place, where = load.at(node, path).place, _where(path)
        if any(tuple(map(str, path[:length])) in ignored for length in range(1, len(path) + 1)):
            continue
        if path[-1:] == ["type"]:
            said = load.short(repr(error.instance))
            problems.add(f"{where} says {said}", place, _type_hint(error.instance))
        else:
            problems.add(f"{where} is no JSON Schema: {load.short(error.message)}", place)


def _type_hint(given: Any) -> str:
    words = [word for word in (given if isinstance(given, list) else [given]) if word not in _NAMES]
    hints = (nearest(str(word), _NAMES) for word in words)
    return next((hint for hint in hints if hint), one_of(_NAMES))


_NAMES = ("array", "boolean", "integer", "null", "number", "object", "string")


def _where(path: Sequence[str | int]) -> str:
    """A path as people name it: without what only JSON Schema needs on the way."""
    steps = [str(step) for step in path if step not in ("$defs", "properties")]
    return ".".join(steps) or "it"


@dataclass(frozen=True, slots=True)
class _File:
    """One schema file while it is checked."""

    use: Use
    node: Node
    top: str | None
    problems: Problems
    without_effect: set[tuple[str, ...]] = field(default_factory=set)
    """The paths of these keywords; what they say does not matter."""
    references: dict[str, dict[str, Place]] = field(default_factory=dict)
    """{name in ``$defs``: {name that it refers to: where}}."""

    def check(self) -> None:
        """Record every keyword that has no effect, and every reference that leads nowhere or back
        to where it came from."""
        self._schema(self.node, (), self.use.file)
        self._loops()
        if self.top is not None and isinstance(self.node, MappingNode) and self._defined:
            self._check_top(self.node, self.top)

    def _check_top(self, node: MappingNode, top: str) -> None:
        if top not in self._defined:
            self.problems.add(
                f"$defs has no object {top}, the root of the document",
                load.at(node, ["$defs"]).place,
                nearest(top, self._defined) or one_of(self._defined),
            )
            return
        reference, wanted = node.get("$ref"), f"#/$defs/{top}"
        if reference is None or reference.plain() != wanted:
            self.problems.add(
                f"$ref is {load.short(repr(reference.plain()))}" if reference else "has no $ref",
                (reference or node).place,
                f'the root is described by "$ref": "{wanted}"',
            )

    def _schema(self, node: Node, path: tuple[str, ...], known: frozenset[str]) -> None:
        if not isinstance(node, MappingNode):
            return  # true and false; what is no schema at all is told by the rules of JSON Schema
        for key, value in node.items():
            below = (*path, key.value)
            reason = self._why_not(key.value, value, node, known)
            if reason is not None:
                self.without_effect.add(below)
                where = f" of {_where(path)}" if path else ""
                self.problems.add(f"{key.value}{where} {reason.text}", key.place, reason.hint, RULE)
            else:
                self._value(key.value, value, below)

    def _why_not(
        self, word: str, value: Node, around: MappingNode, known: frozenset[str]
    ) -> _Reason | None:
        """Why a keyword has no effect; None if it has one."""
        if word not in known:
            exists = word in _STANDARD | _OWN
            text = "has no effect here" if exists else "is no keyword of a JSON Schema"
            return _Reason(text, _instead(word, known))
        refers = isinstance(around.get("$ref"), ScalarNode) and around is not self.node
        if refers and word != "$ref" and word not in self.use.beside_reference:
            return _Reason("has no effect beside $ref", "write it where $ref leads to")
        types = _types(around)
        if types and word in _OF_TYPES and not types & _OF_TYPES[word]:
            text = f"has no effect on a value of type {' or '.join(sorted(types))}"
            return _Reason(text, f"it is about the type {' or '.join(sorted(_OF_TYPES[word]))}")
        both = word == "additionalProperties" and around.get("properties") is not None
        if self.use.classes and both and isinstance(value, MappingNode):
            hint = "an object has either properties, or any keys with values of one type"
            return _Reason("has no effect beside properties", hint)
        return None

    def _value(self, word: str, value: Node, path: tuple[str, ...]) -> None:
        """What a keyword says, and the schemas in it."""
        inside = self.use.part
        if word in _NAMED and isinstance(value, MappingNode):
            for key, part in value.items():
                self._schema(part, (*path, key.value), inside)
                if word == "patternProperties":
                    self._pattern(key.value, key.place, path)
        elif word in _ONE:
            self._schema(value, path, inside)
        elif word in _SEVERAL and isinstance(value, ListNode):
            for number, part in enumerate(value.values):
                self._schema(part, (*path, str(number)), inside)
        elif word == "required" and isinstance(value, ListNode):
            self._required(value, path)
        elif word in _OWN:
            self._own(word, value, path)
        elif isinstance(value, ScalarNode) and isinstance(value.value, str):
            self._text(word, value.value, value.place, path)

    def _text(self, word: str, said: str, place: Place, path: tuple[str, ...]) -> None:
        if word == "pattern":
            self._pattern(said, place, path)
        elif word == "$schema" and said != DRAFT:
            self.problems.add(f"$schema says {said}", place, f"the generator reads {DRAFT}")
        elif word == "$ref":
            self._reference(said, place, path)

    def _own(self, word: str, value: Node, path: tuple[str, ...]) -> None:
        kind = "boolean" if word in _FLAGS else "string"
        if not isinstance(value.plain(), bool if word in _FLAGS else str):
            self.problems.add(f"{_where(path)} must be of type {kind}", value.place)

    def _pattern(self, said: str, place: Place, path: tuple[str, ...]) -> None:
        try:
            re.compile(said)
        except re.error as error:
            self.problems.add(f"{_where(path)} is no regular expression: {error}", place)

    def _reference(self, said: str, place: Place, path: tuple[str, ...]) -> None:
        """Where the whole file leads to is checked for itself, if it matters."""
        known = [f"#/$defs/{name}" for name in self._defined]
        if said in known and path[0] == "$defs":
            name = said.removeprefix("#/$defs/")
            self.references.setdefault(path[1], {}).setdefault(name, place)
        if said not in known and not (self.top and path == ("$ref",)):
            self.problems.add(
                f"{_where(path[:-1])} refers to {said}, which does not exist",
                place,
                nearest(said, known) or one_of(known),
            )

    def _loops(self) -> None:
        """A schema is a tree: what is made of it has a size."""
        safe: set[str] = set()

        def follow(name: str, above: tuple[str, ...]) -> None:
            for other, place in self.references.get(name, {}).items():
                if other in (*above, name):
                    way = " → ".join([*above, name, other][[*above, name].index(other) :])
                    self.problems.add(f"{other} contains itself: {way}", place)
                elif other not in safe:
                    follow(other, (*above, name))
            safe.add(name)

        for name in self.references:
            if name not in safe:
                follow(name, ())

    @property
    def _defined(self) -> list[str]:
        """The names in ``$defs``."""
        node = self.node.get("$defs") if isinstance(self.node, MappingNode) else None
        return [key.value for key, _ in node.items()] if isinstance(node, MappingNode) else []

    def _required(self, value: ListNode, path: tuple[str, ...]) -> None:
        """A word that is no property can only be a mistake, where every key is one."""
        owner = load.at(self.node, path[:-1])
        has = owner.get("properties") if isinstance(owner, MappingNode) else None
        if not isinstance(has, MappingNode):
            return
        known = [key.value for key, _ in has.items()]
        for word in value.values:
            said = str(word.plain())
            if said not in known:
                self.problems.add(
                    f"{_where(path)} names {said}, which is no property",
                    word.place,
                    nearest(said, known) or one_of(known),
                )


_OWN = frozenset({"x-empty-counts", "x-identity", "x-message", "x-record", "x-says"})
_FLAGS = frozenset({"x-empty-counts"})


def _types(node: MappingNode) -> set[str]:
    """The types that a schema allows; empty if it does not say so. No keyword is about null."""
    written = node.get("type")
    given = written.plain() if written is not None else []
    words = given if isinstance(given, list) else [given]
    return {str(word) for word in words} & set(_NAMES) - {"null"}


@dataclass(frozen=True, slots=True)
class _Reason:
    """Why a keyword has no effect."""

    text: str
    hint: str


def _instead(word: str, known: frozenset[str]) -> str:
    if word in _INSTEAD:
        return _INSTEAD[word]
    return nearest(word, sorted(known)) or one_of(sorted(known))
