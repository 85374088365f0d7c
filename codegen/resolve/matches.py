"""Filters: what each field of the request is compared with."""

from __future__ import annotations

from collections.abc import Mapping

from codegen import kinds
from codegen.errors import SpecError, nearest
from codegen.model import Compared, Descended, Entry, Field, Kind, Left, Match, Source
from codegen.resolve import handlers
from codegen.resolve.scope import Scope

_FITS: Mapping[str, frozenset[str]] = {
    "prefix": frozenset({"str"}),
    "equal": frozenset({"str", "int", "bool", "enum"}),
    "subset": frozenset({"map"}),
}


def of_field(scope: Scope, entry: Entry) -> Match:
    """What a filter does for one field."""
    field = scope.message.fields[entry.name]
    if entry.fate == "handled_by":
        handlers.check(scope, entry)
    if entry.fate != "match":
        return Left(entry)
    if entry.by_fields:
        return _descended(scope, entry, field)
    against = _against(scope, entry)
    _check_fit(entry, field.kind, against.kind)
    return Compared(entry, scope.own(field), against)


def is_filter(scope: Scope) -> bool:
    """Whether the message is a filter; only a filter must state what it selects."""
    file = scope.file
    if (file.of is not None) != (file.flow == "match"):
        raise SpecError(
            (
                f"{file.message} is a filter and does not say of what"
                if file.of is None
                else f"{file.message} is of flow {file.flow} and selects nothing"
            ),
            file.of_place,
            "flow: match has of: and the name of the message whose fields are compared",
            "key-does-not-fit",
        )
    if file.of is not None and file.of not in scope.paths.api.messages:
        raise SpecError(
            f"the {scope.paths.api.name} has no message {file.of}",
            file.of_place,
            nearest(file.of, scope.paths.api.messages),
            "unknown-message",
        )
    return file.of is not None


def _against(scope: Scope, entry: Entry) -> Source:
    path, place = entry.partner or "", entry.keys["with"]
    return scope.paths.of_message(scope.file.of or "", "item", path, place)


def _check_fit(entry: Entry, field: Kind, against: Kind) -> None:
    reason = kinds.why_not(field, against)
    if reason is None and field.name not in _FITS[entry.value]:
        reason = f"{entry.value} says nothing of {field}"
    if reason is not None:
        raise SpecError(
            f"{entry.name} cannot be compared with {entry.partner}: {reason}",
            entry.keys["with"],
            "prefix is for strings, subset for maps, equal for strings, numbers and enums",
            "type-does-not-fit",
        )


def _descended(scope: Scope, entry: Entry, field: Field) -> Descended:
    nested = scope.nested(entry, field)
    other = scope.files.get(nested)
    if field.kind.of or not field.presence or (other is not None and other.of != scope.file.of):
        raise SpecError(
            f"{entry.name} is {field.kind}, whose entries compare nothing of {scope.file.of}",
            entry.value_place,
            f"make {nested} a filter of {scope.file.of}",
            "fields-do-not-fit",
        )
    return Descended(entry, nested)
