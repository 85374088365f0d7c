"""Validation rules as tests of a generated validator: a condition that is true when the rule is
broken, and a detail that says what is allowed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping

from codegen.errors import SpecError, nearest, one_of
from codegen.model import Api, Descent, Entry, Field, Kind, MappingFile, Message, Rule, Test

_NUMBERS = frozenset({"int"})
_FITS: Mapping[str, frozenset[str]] = {
    "absolute_path": frozenset({"str"}),
    "allowed_enum": frozenset({"enum"}),
    "max_length": frozenset({"str", "bytes", "list", "map"}),
    "nonnegative": _NUMBERS,
    "one_of": frozenset({"str", "int"}),
    "range": _NUMBERS,
    "required": frozenset({"str", "bytes", "int", "float", "enum", "list", "map", "message"}),
}
_OF_THE_WHOLE = frozenset({"max_length", "required"})


def tests(message: Message, entry: Entry, api: Api) -> tuple[Test, ...]:
    """The tests of one field: its rules, the refusal of an unmapped field, known enum numbers."""
    field = message.fields[entry.name]
    if entry.fate == "unmapped" and entry.if_set == "ignore":
        return ()
    found = [test for rule in entry.rules for test in _rule(message, field, rule, api)]
    if entry.fate == "unmapped" and entry.if_set == "refuse":
        found.append(
            Test(
                "refused when set",
                field.name,
                "unsupported",
                is_set(field),
                repr("is not supported and must not be set"),
            )
        )
    value = field.kind.of[-1] if field.kind.of else field.kind
    if value.name == "enum" and not any(rule.name == "allowed_enum" for rule in entry.rules):
        found.append(_enum(field, value, list(api.enums[value.ref].values), "known_enum", api))
    return tuple(found)


def narrowed(kind: Kind, rules: tuple[Rule, ...]) -> Kind:
    """``kind`` after its rules have held."""
    low, high = kind.low, kind.high
    for rule in rules:
        if rule.name == "nonnegative":
            low = 0
        elif rule.name == "range":
            low, high = (int(value) for value in rule.values)
    return Kind(kind.name, kind.ref, kind.of, kind.optional, low, high)


def descents(message: Message, files: Mapping[str, MappingFile]) -> Iterator[Descent]:
    """The fields whose own message is received too, those that are ignored left out."""
    entries = files[message.name].entries
    for field in message.fields.values():
        if field.name not in entries or entries[field.name].fate == "unmapped":
            continue
        if field.message and field.message in files and files[field.message].takes:
            form = "each" if field.repeated else "values" if field.mapped else "one"
            yield Descent(field.name, field.message, form)


def is_set(field: Field) -> str:
    """The expression that is true when the field is set (or not empty, or not zero)."""
    return f'message.HasField("{field.name}")' if field.presence else f"message.{field.name}"


def _rule(message: Message, field: Field, rule: Rule, api: Api) -> Iterator[Test]:
    if rule.name in ("exclusive_with", "requires"):
        yield from _between(message, field, rule)
        return
    each = bool(field.kind.of) and rule.name not in _OF_THE_WHOLE
    kind = field.kind.of[-1] if each else field.kind
    wrapped = _wrapped(kind, api) if rule.name != "required" else None
    if (wrapped or kind).name not in _FITS[rule.name]:
        raise SpecError(
            f"the rule {rule.name} says nothing about {kind}, which {field.name} is",
            rule.place,
            f"it fits {', '.join(sorted(_FITS[rule.name]))}",
            "rule-does-not-fit",
        )
    value = "item" if each else f"message.{field.name}"
    if kind.name == "enum" and rule.name == "allowed_enum":
        names = [str(v) for v in rule.values]
        for name in names:
            if name not in api.enums[kind.ref].values:
                raise SpecError(
                    f"{kind.ref} has no value {name}",
                    rule.place,
                    nearest(name, api.enums[kind.ref].values) or one_of(api.enums[kind.ref].values),
                    "rule-does-not-fit",
                )
        yield _enum(field, kind, names, "allowed_enum", api)
        return
    if wrapped:
        value += ".value"
    condition, detail = _BROKEN[rule.name](value, field, rule)
    if wrapped and not each:
        condition = f"{is_set(field)} and {condition}"
    shown = "" if field.redacted or rule.name in _OF_THE_WHOLE else f", not {{{value}!r}}"
    yield Test(
        _comment(rule),
        field.name,
        rule.name,
        condition,
        f'f"{detail}{shown}"' if shown else repr(detail),
        each,
    )


def _comment(rule: Rule) -> str:
    words = rule.name.replace("_", " ")
    shown = map(repr if rule.name == "one_of" else str, rule.values)
    return f"{words} {', '.join(shown)}".strip()


def _tuple(values: Iterable[str]) -> str:
    listed = list(values)
    return f"({', '.join(listed)}{',' * (len(listed) == 1)})"


def _wrapped(kind: Kind, api: Api) -> Kind | None:
    """The number inside a message that only wraps one (``Int64Value``)."""
    if kind.name != "message":
        return None
    fields = api.messages[kind.ref].fields
    return fields["value"].kind if list(fields) == ["value"] else None


def _required(value: str, field: Field, rule: Rule) -> tuple[str, str]:
    empty = field.kind.name in ("str", "bytes", "list", "map")
    return f"not {is_set(field)}", "must not be empty" if empty else "must be set"


def _absolute(value: str, field: Field, rule: Rule) -> tuple[str, str]:
    return f'{value} and not {value}.startswith("/")', "must be an absolute path"


def _nonnegative(value: str, field: Field, rule: Rule) -> tuple[str, str]:
    return f"{value} < 0", "must be 0 or more"


def _range(value: str, field: Field, rule: Rule) -> tuple[str, str]:
    low, high = rule.values
    return f"not {low} <= {value} <= {high}", f"must be {low} to {high}"


def _listed(value: str, field: Field, rule: Rule) -> tuple[str, str]:
    allowed = ", ".join(map(repr, rule.values))
    return f"{value} not in {_tuple(map(repr, rule.values))}", f"must be one of {allowed}"


def _length(value: str, field: Field, rule: Rule) -> tuple[str, str]:
    unit = {"str": "characters", "bytes": "bytes"}.get(field.kind.name, "entries")
    return f"len({value}) > {rule.values[0]}", f"must have at most {rule.values[0]} {unit}"


_BROKEN: Mapping[str, Callable[[str, Field, Rule], tuple[str, str]]] = {
    "absolute_path": _absolute,
    "max_length": _length,
    "nonnegative": _nonnegative,
    "one_of": _listed,
    "range": _range,
    "required": _required,
}


def _between(message: Message, field: Field, rule: Rule) -> Iterator[Test]:
    """Rules between two fields."""
    for value in rule.values:
        other = message.fields.get(str(value))
        if other is None or other is field:
            raise SpecError(
                f"{rule.name} names {value}, which is no other field of {message.name}",
                rule.place,
                nearest(str(value), message.fields) or one_of(message.fields),
                "rule-does-not-fit",
            )
        if rule.name == "exclusive_with":
            condition = f"{is_set(field)} and {is_set(other)}"
            detail = f"must not be set together with {other.name}"
        else:
            condition = f"{is_set(field)} and not {is_set(other)}"
            detail = f"needs {other.name} to be set"
        yield Test(_comment(rule), field.name, rule.name, condition, repr(detail))


def _enum(field: Field, kind: Kind, names: list[str], rule: str, api: Api) -> Test:
    each = bool(field.kind.of)
    value = "item" if each else f"message.{field.name}"
    numbers = _tuple(str(api.enums[kind.ref].values[name]) for name in names)
    return Test(
        f"{kind.ref}" if rule == "known_enum" else f"only {', '.join(names)}",
        field.name,
        rule,
        f"{value} not in {numbers}",
        f'f"must be one of {", ".join(names)}, not {{{value}}}"',
        each,
    )
