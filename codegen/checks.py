"""Validation rules as facts: the tests for each entry, and whether they fit the field."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from codegen.errors import SpecError, nearest, one_of
from codegen.model import Api, Descent, Entry, Field, Kind, MappingFile, Message, Rule, Test

_NUMBERS = frozenset({"int"})
_TEXT = frozenset({"str", "bytes"})
_FITS: Mapping[str, frozenset[str]] = {
    "absolute_path": frozenset({"str"}),
    "allowed_enum": frozenset({"enum"}),
    "any_text": _TEXT,
    "max_length": frozenset({"str", "bytes", "list", "map"}),
    "nonnegative": _NUMBERS,
    "one_of": frozenset({"str", "int"}),
    "range": _NUMBERS,
    "required": frozenset({"str", "bytes", "int", "float", "enum", "list", "map", "message"}),
    "secret": _TEXT,
    "without": frozenset({"str"}),
}
_OF_THE_WHOLE = frozenset({"max_length", "required"})
BETWEEN = frozenset({"exclusive_with", "requires"})
"""Rules whose values are other fields of the message."""


def tests(message: Message, entry: Entry, api: Api) -> tuple[Test, ...]:
    """The tests of one field: its rules, the refusal of an unmapped field, known enum numbers,
    and no NUL in text unless the rule ``any_text`` allows it."""
    field = message.fields[entry.name]
    if entry.is_ignored:
        return ()
    found = [test for rule in entry.rules for test in _rule(message, field, rule, api)]
    if entry.fate == "unmapped":
        found.append(Test(field, "unsupported", field.kind))
    value = field.kind.of[-1] if field.kind.of else field.kind
    any_text = entry.fate == "unmapped" or any(rule.name == "any_text" for rule in entry.rules)
    if (value.name in _TEXT or field.mapped) and not any_text:
        found.append(Test(field, "no_nul", value, each=bool(field.kind.of)))
    if value.name == "enum" and not any(rule.name == "allowed_enum" for rule in entry.rules):
        names = tuple(api.enums[value.ref].values)
        found.append(Test(field, "known_enum", value, names, each=bool(field.kind.of)))
    return tuple(found)


def narrowed(kind: Kind, rules: tuple[Rule, ...]) -> Kind:
    """``kind``, restricted by its rules."""
    low, high = kind.low, kind.high
    for rule in rules:
        if rule.name == "nonnegative":
            low = 0
        elif rule.name == "range":
            low, high = (int(value) for value in rule.values)
    return Kind(kind.name, kind.ref, kind.of, kind.optional, low, high)


def descents(message: Message, files: Mapping[str, MappingFile]) -> Iterator[Descent]:
    """The fields whose message is received too, except those that are ignored."""
    entries = files[message.name].entries
    for field in message.fields.values():
        if field.name not in entries or entries[field.name].fate == "unmapped":
            continue
        if field.message and field.message in files and files[field.message].takes:
            yield Descent(field, field.message)


def _rule(message: Message, field: Field, rule: Rule, api: Api) -> Iterator[Test]:
    if rule.name in BETWEEN:
        yield from _between(message, field, rule, api)
        return
    each = bool(field.kind.of) and rule.name not in _OF_THE_WHOLE
    kind = field.kind.of[-1] if each else field.kind
    inner = wrapped(kind, api) if rule.name != "required" else None
    if (inner or kind).name not in _FITS[rule.name]:
        raise SpecError(
            f"the rule {rule.name} does not apply to {kind}, the type of {field.name}",
            rule.place,
            f"it fits {', '.join(sorted(_FITS[rule.name]))}",
            "rule-does-not-fit",
        )
    if rule.name in ("any_text", "secret"):
        return
    _check_values(field, rule, inner or kind)
    if rule.name == "allowed_enum":
        known = api.enums[kind.ref].values
        for name in map(str, rule.values):
            if name not in known:
                raise SpecError(
                    f"{kind.ref} has no value {name}",
                    rule.place,
                    nearest(name, known) or one_of(known),
                    "rule-does-not-fit",
                )
    yield Test(field, rule.name, inner or kind, rule.values, each, inner is not None)


def _check_values(field: Field, rule: Rule, kind: Kind) -> None:
    """Refuse a rule that no value of ``kind`` can satisfy."""
    reason = None
    if rule.name == "range":
        low, high = (int(value) for value in rule.values)
        if low > high:
            reason = f"no value is {low} to {high}"
    elif rule.name == "one_of":
        wanted = int if kind.name == "int" else str
        wrong = [value for value in rule.values if not isinstance(value, wanted)]
        if wrong:
            reason = f"{wrong[0]!r} is not {kind}, the type of {field.name}"
    if reason is not None:
        raise SpecError(
            f"the rule {rule.name} never holds: {reason}", rule.place, None, "rule-does-not-fit"
        )


def wrapped(kind: Kind, api: Api) -> Kind | None:
    """The number inside a message that wraps it and nothing else."""
    if kind.name != "message" or kind.ref not in api.messages:
        return None
    fields = api.messages[kind.ref].fields
    return fields["value"].kind if list(fields) == ["value"] else None


def _between(message: Message, field: Field, rule: Rule, api: Api) -> Iterator[Test]:
    """Rules between two fields."""
    others = [name for name in message.fields if name != field.name]
    for value in rule.values:
        other = message.fields.get(str(value))
        if other is None or other is field:
            raise SpecError(
                f"{rule.name} names {value}, which is not another field of {message.name}",
                rule.place,
                (api.former.hint(f"{message.name}.{value}") if other is None else None)
                or nearest(str(value), others)
                or one_of(others),
                "rule-does-not-fit",
            )
        yield Test(field, rule.name, field.kind, rule.values, other=other)
