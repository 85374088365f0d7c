"""generated/<document>/types.py: one dataclass for each object type."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from codegen.model import Document, Kind, ObjectType, Property, snake


@dataclass(frozen=True, slots=True)
class FieldText:
    """One attribute."""

    declared: str
    doc: str
    read: str
    """The keyword that ``from_dict`` passes to the constructor."""
    written: list[str]
    """The statements of ``to_dict``."""


@dataclass(frozen=True, slots=True)
class ClassText:
    """One dataclass."""

    name: str
    doc: str
    identity: str | None
    fields: list[FieldText]


def text(document: Document) -> list[ClassText]:
    """Every dataclass, in the order of the schema."""
    return [_class(one) for one in document.classes.values()]


def _class(one: ObjectType) -> ClassText:
    fields = [
        FieldText(
            _declared(part),
            docstring(part.doc),
            f"{part.attribute}={_taken(part)}",
            list(_written(part)),
        )
        for part in one.fields.values()
    ]
    return ClassText(one.name, docstring(one.doc), one.identity, fields)


def docstring(text: str) -> str:
    """``text``, escaped for a docstring."""
    return text.replace("\\", "\\\\").replace('"""', "'''").rstrip('"')


def annotation(kind: Kind) -> str:
    """The annotation of a kind."""
    match kind.name:
        case "list":
            return f"list[{annotation(kind.of[0])}]"
        case "map":
            return f"dict[{annotation(kind.of[0])}, {annotation(kind.of[1])}]"
        case "enum":
            return "int"
        case "any":
            return "Any"
    return kind.ref or kind.name


def _declared(part: Property) -> str:
    kind = annotation(part.kind)
    if part.required:
        return f"{part.attribute}: {kind}"
    if part.absent_is_none:
        return f"{part.attribute}: {kind} | None = None"
    factory = {"list": "list", "map": "dict"}.get(part.kind.name) or f"lambda: {kind}()"
    return f"{part.attribute}: {kind} = field(default_factory={factory})"


def _taken(part: Property) -> str:
    """The expression that takes a key out of the decoded JSON ``rest``."""
    if part.required and part.kind.scalar:
        return f'rest.pop("{part.name}")'
    value = f'rest.pop("{part.name}", None)'
    match part.kind.name:
        case "object" if part.empty_counts:
            found = f'{part.kind.ref}.from_dict(rest.pop("{part.name}"))'
            return f'({found} if rest.get("{part.name}") is not None else {value})'
        case "object":
            return f"{part.kind.ref}.from_dict({value})"
        case "list" if part.kind.of[0].name == "object":
            return f"[{part.kind.of[0].ref}.from_dict(item) for item in {value} or ()]"
        case "map" if part.kind.of[1].name == "object":
            items = f"({value} or {{}}).items()"
            return f"{{key: {part.kind.of[1].ref}.from_dict(item) for key, item in {items}}}"
        case "list":
            return f"list({value} or ())"
        case "map":
            return f"dict({value} or {{}})"
    return value


def _written(part: Property) -> Iterator[str]:
    """The statements that put an attribute into ``data``."""
    here, there = f"self.{part.attribute}", f'data["{part.name}"]'
    if part.required:
        yield f"{there} = {_given(part)}"
    elif part.kind.scalar:
        yield f"if {here} is not None:"
        yield f"    {there} = {here}"
    elif part.empty_counts:
        yield f"if {here} is not None:"
        yield f"    {there} = {here}.to_dict()"
    elif part.kind.name == "object":
        local = snake(part.name)
        yield f"if {local} := {here}.to_dict():"
        yield f"    {there} = {local}"
    else:
        yield f"if {here}:"
        yield f"    {there} = {_given(part)}"


def _given(part: Property) -> str:
    """The expression that returns an attribute as decoded JSON."""
    here = f"self.{part.attribute}"
    if part.kind.scalar:
        return here
    match part.kind.name, part.kind.of[-1].name:
        case "list", "object":
            return f"[item.to_dict() for item in {here}]"
        case "map", "object":
            return f"{{key: item.to_dict() for key, item in {here}.items()}}"
        case "map", _:
            return f"dict({here})"
    return f"list({here})"
