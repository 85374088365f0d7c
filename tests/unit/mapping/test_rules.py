"""What each field of a request may be: ``rules.yaml`` shows, for every message that is received,
what its validator says to a few values of each field alone, and which numbers it accepts."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from google.protobuf.descriptor import FieldDescriptor

from codegen.model import snake
from generated import validators
from generated.cri import api_pb2
from runtime.errors import Violation

from .expected import expect, names

_MODULES = sorted(module.name for module in pkgutil.iter_modules(validators.__path__))
_MESSAGES = {name.lower(): name for name in api_pb2.DESCRIPTOR.message_types_by_name}
_BOUNDS = {
    FieldDescriptor.CPPTYPE_INT32: (-(2**31), 2**31 - 1),
    FieldDescriptor.CPPTYPE_INT64: (-(2**63), 2**63 - 1),
    FieldDescriptor.CPPTYPE_UINT32: (0, 2**32 - 1),
    FieldDescriptor.CPPTYPE_UINT64: (0, 2**64 - 1),
}
_TEXTS = ("a", "/a", "a\0", "a;", "a=")
_LONGEST = 5000
Check = Callable[[Any], list[Violation]]


def _said(check: Check, message: Any) -> list[str]:
    return sorted(f"{found.field}: {found.rule}" for found in check(message))


def _probes(field: FieldDescriptor) -> Iterator[tuple[str, Any]]:
    """Values of one field, as the constructor of its message takes them, and their names."""
    kind = field.message_type
    if kind is not None and kind.GetOptions().map_entry:
        yield from (("a=b", {"a": "b"}), ("NUL in a key", {"a\0": ""}), ("NUL", {"a": "\0"}))
        return
    for name, value in _values(field):
        yield name, [value] if field.is_repeated else value


def _values(field: FieldDescriptor) -> Iterator[tuple[str, Any]]:
    if field.message_type is not None:
        yield "empty", getattr(api_pb2, field.message_type.name)()
        yield "wrong", _wrong(getattr(api_pb2, field.message_type.name))
    elif field.enum_type is not None:
        yield from ((value.name, value.number) for value in field.enum_type.values)
        yield "unknown", 99
    elif field.cpp_type == FieldDescriptor.CPPTYPE_BOOL:
        yield "true", True
    elif field.type == FieldDescriptor.TYPE_BYTES:
        yield from (("a", b"a"), ("NUL", b"\0"))
    elif field.cpp_type == FieldDescriptor.CPPTYPE_STRING:
        yield from ((text.replace("\0", "NUL"), text) for text in _TEXTS)
    else:
        yield "1", 1


def _wrong(kind: Any) -> Any:
    """A message with a NUL in each of its own texts, and numbers that no enum has; in the messages
    that it holds, if it has nothing else."""
    made = kind()
    for field in made.DESCRIPTOR.fields:
        if field.message_type is not None:
            continue
        value: Any = 99
        if field.type == FieldDescriptor.TYPE_BYTES:
            value = b"\0"
        elif field.cpp_type == FieldDescriptor.CPPTYPE_STRING:
            value = "\0"
        elif field.cpp_type == FieldDescriptor.CPPTYPE_BOOL:
            value = True
        if field.is_repeated:
            getattr(made, field.name).append(value)
        else:
            setattr(made, field.name, value)
    for field in made.DESCRIPTOR.fields if not made.ByteSize() else ():
        inside = _wrong(getattr(api_pb2, field.message_type.name))
        if field.is_repeated:
            getattr(made, field.name).append(inside)
        else:
            getattr(made, field.name).CopyFrom(inside)
    return made


def _number(field: FieldDescriptor) -> FieldDescriptor | None:
    """The number that the field has: itself, or the only field of its message."""
    kind = field.message_type
    if kind is not None:
        inside = kind.fields[0]
        alone = len(kind.fields) == 1 and not kind.GetOptions().map_entry
        return _number(inside) if alone and inside.name == "value" else None
    return field if field.enum_type is None and field.cpp_type in _BOUNDS else None


def _interval(
    field: FieldDescriptor, number: FieldDescriptor, accepts: Callable[[Any], bool]
) -> str:
    low, high = _BOUNDS[number.cpp_type]

    def value(given: int) -> Any:
        kind = field.message_type
        one = getattr(api_pb2, kind.name)(value=given) if kind is not None else given
        return [one] if field.is_repeated else one

    first = _edge(low, 1, lambda given: accepts(value(given)))
    last = -_edge(-high, -1, lambda given: accepts(value(-given)))
    return f"{first}..{last}"


def _edge(refused: int, accepted: int, accepts: Callable[[int], bool]) -> int:
    """The smallest accepted number between two, of which the second is accepted."""
    if accepts(refused):
        return refused
    while accepted - refused > 1:
        middle = (refused + accepted) // 2
        if accepts(middle):
            accepted = middle
        else:
            refused = middle
    return accepted


def _field(check: Check, kind: Any, field: FieldDescriptor, always: list[str]) -> dict[str, Any]:
    """What is said to the values of one field, besides what is said to an empty message."""
    found: dict[str, Any] = {}
    for name, value in _probes(field):
        now = _said(check, kind(**{field.name: value}))
        found[name] = [line for line in now if line not in always] or "accepted"
        lost = [line for line in always if line not in now]
        if lost:
            found[f"{name} satisfies"] = lost

    def accepts(value: Any) -> bool:
        rules = ("range", "nonnegative")
        return not any(one.rule in rules for one in check(kind(**{field.name: value})))

    number = _number(field)
    if number is not None:
        found["numbers"] = _interval(field, number, accepts)
    if field.cpp_type == FieldDescriptor.CPPTYPE_STRING and not field.is_repeated:

        def fits(size: int) -> bool:
            text: Any = "x" * -size if field.type == FieldDescriptor.TYPE_STRING else b"x" * -size
            return all(one.rule != "max_length" for one in check(kind(**{field.name: text})))

        if not fits(-_LONGEST):
            found["longest"] = -_edge(-_LONGEST, 0, fits)
    return found


@pytest.mark.parametrize("module", _MODULES)
def test_what_a_message_may_be(module: str) -> None:
    check: Check = importlib.import_module(f"generated.validators.{module}").check
    name = _MESSAGES[module.replace("_", "")]
    kind = getattr(api_pb2, name)
    always = _said(check, kind())
    found: dict[str, Any] = {
        field.name: _field(check, kind, field, always) for field in kind.DESCRIPTOR.fields
    }
    together = {field.name: next(iter(_probes(field)))[1] for field in kind.DESCRIPTOR.fields}
    found["(empty)"] = always or "accepted"
    found["(all set)"] = _said(check, kind(**together)) or "accepted"
    expect("rules", name, found)


def test_every_message_with_a_validator_is_expected() -> None:
    assert names("rules") == {name for name in _MESSAGES.values() if _has_validator(name)}


def _has_validator(name: str) -> bool:
    try:
        importlib.import_module(f"generated.validators.{snake(name)}")
    except ModuleNotFoundError:
        return False
    return True
