"""generated/validators/<message>.py: the tests of each field, and of the fields below it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from codegen.emit.python import imports, in_f_string, quoted, tuple_of
from codegen.model import Field, Test
from codegen.plan import Checked, Validator

_LISTED = 8
"""If an enum has more values, an error lists only the first one."""
_WHEN_SET = frozenset({"unsupported", "exclusive_with", "requires"})
_VALUE_UNSHOWN = _WHEN_SET | {"required", "max_length", "no_nul"}


@dataclass(frozen=True, slots=True)
class ValidatorText:
    """The variables of the template."""

    message: str
    imports: list[str]
    lines: list[str]


def text(validator: Validator) -> ValidatorText:
    """The validator of one message."""
    lines = [line for checked in validator.fields for line in _checked(checked)]
    return ValidatorText(validator.mapped.message.name, imports(validator.imports), lines)


def _checked(checked: Checked) -> Iterator[str]:
    """Everything about one field; its presence is checked only once."""
    field, tests = checked.field, checked.tests
    one_message = checked.nested is not None and not field.kind.of
    if_unset = [t for t in tests if t.rule == "required"]
    if_set = [t for t in tests if _needs_set(t)]
    if field.presence and len(if_unset) + len(if_set) + one_message > 1:
        yield from _by_presence(checked, if_unset, if_set)
        tests = tuple(t for t in tests if t not in if_unset and t not in if_set)
        one_message = False
    for test in tests:
        yield from _of_items(test) if test.each else _of_field(test)
    if one_message:
        yield f"# {field.name}: its fields"
        yield f"if {is_set(field)}:"
        yield f"    {_goes_on(checked)}"
    elif checked.nested is not None and field.kind.of:
        runs, place = _loop(field)
        yield f"# {field.name}: the fields of each"
        yield "found += ["
        yield "    violation"
        yield f"    for {runs}"
        yield f'    for violation in {checked.nested}.check(item, f"{{path}}{place}.")'
        yield "]"


def _by_presence(checked: Checked, if_unset: list[Test], if_set: list[Test]) -> Iterator[str]:
    field = checked.field
    if if_unset:
        yield f"# {field.name}: required"
        yield f"if not {is_set(field)}:"
        yield f"    {_found(if_unset[0])}"
        yield "else:"
    else:
        yield f"# {field.name}: where it is set"
        yield f"if {is_set(field)}:"
    for test in if_set:
        yield from (f"    {line}" for line in _of_field(test, known_to_be_set=True))
    if checked.nested is not None and not field.kind.of:
        yield f"    # {field.name}: its fields"
        yield f"    {_goes_on(checked)}"


def _goes_on(checked: Checked) -> str:
    name = checked.field.name
    return f'found += {checked.nested}.check(message.{name}, f"{{path}}{name}.")'


def _needs_set(test: Test) -> bool:
    """Whether the rule applies only to a field that is set."""
    return not test.each and (test.wrapped or test.rule in _WHEN_SET)


def _of_field(test: Test, *, known_to_be_set: bool = False) -> Iterator[str]:
    conditions = [_BROKEN[test.rule](_value(test), test)] if test.rule in _BROKEN else []
    if _needs_set(test) and not known_to_be_set:
        conditions.insert(0, is_set(test.field))
    yield f"# {test.field.name}: {_comment(test)}"
    if conditions:
        yield f"if {' and '.join(conditions)}:"
    yield f"{'    ' * bool(conditions)}{_found(test)}"


def _of_items(test: Test) -> Iterator[str]:
    runs, place = _loop(test.field)
    yield f"# {test.field.name}: each {_comment(test)}"
    yield "found += ["
    yield f'    Violation(f"{{path}}{place}", {quoted(test.rule)}, {_detail(test)})'
    yield f"    for {runs}"
    yield f"    if {_BROKEN[test.rule](_value(test), test)}"
    yield "]"


def _found(test: Test) -> str:
    place = f'f"{{path}}{test.field.name}"'
    return f"found.append(Violation({place}, {quoted(test.rule)}, {_detail(test)}))"


def _loop(field: Field) -> tuple[str, str]:
    """The iteration over a list or map, and the path of one item."""
    if field.mapped:
        return f"key, item in message.{field.name}.items()", f"{field.name}[{{key}}]"
    return f"index, item in enumerate(message.{field.name})", f"{field.name}[{{index}}]"


def is_set(field: Field) -> str:
    """The expression that is true if the field is set (or not empty, or not zero)."""
    if field.presence:
        return f"message.HasField({quoted(field.name)})"
    return f"message.{field.name}"


def _value(test: Test) -> str:
    value = "item" if test.each else f"message.{test.field.name}"
    return f"{value}.value" if test.wrapped else value


def _comment(test: Test) -> str:
    match test.rule:
        case "unsupported":
            return "refused when set"
        case "known_enum":
            return test.kind.ref
        case "no_nul":
            return "no NUL"
        case "allowed_enum":
            return f"only {', '.join(map(str, test.values))}"
    shown = map(repr if test.rule == "one_of" else str, test.values)
    return f"{test.rule.replace('_', ' ')} {', '.join(shown)}".strip()


def _detail(test: Test) -> str:
    """The expression for what is allowed, and for the received value unless it is secret."""
    words = _SAID[test.rule](test)
    if test.field.redacted or test.rule in _VALUE_UNSHOWN:
        return quoted(words)
    conversion = "" if test.kind.name == "enum" else "!r"
    return f'f"{in_f_string(words)}, not {{{_value(test)}{conversion}}}"'


def _enum_values(test: Test) -> str:
    """The valid numbers of an enum field."""
    scope = ".".join(["api_pb2", *test.kind.ref.split(".")[:-1]])
    if test.rule == "known_enum":
        return f"api_pb2.{test.kind.ref}.values()"
    return tuple_of(f"{scope}.{name}" for name in test.values)


_BROKEN: Mapping[str, Callable[[str, Test], str]] = {
    "absolute_path": lambda value, _: f'{value} and not {value}.startswith("/")',
    "allowed_enum": lambda value, test: f"{value} not in {_enum_values(test)}",
    "exclusive_with": lambda _, test: is_set(_other(test)),
    "known_enum": lambda value, test: f"{value} not in {_enum_values(test)}",
    "max_length": lambda value, test: f"len({value}) > {test.values[0]}",
    "no_nul": lambda value, test: " or ".join(_nul(value, test)),
    "nonnegative": lambda value, _: f"{value} < 0",
    "one_of": lambda value, test: f"{value} not in {tuple_of(map(_literal, test.values))}",
    "range": lambda value, test: f"not {test.values[0]} <= {value} <= {test.values[1]}",
    "required": lambda _, test: f"not {is_set(test.field)}",
    "requires": lambda _, test: f"not {is_set(_other(test))}",
    "without": lambda value, test: f"set({_literal(test.values[0])}) & set({value})",
}
"""By rule: the expression that is true if the rule is violated. Where the rule requires it, the
field is set (``unsupported`` does not require it)."""


def _literal(value: str | int) -> str:
    return quoted(value) if isinstance(value, str) else str(value)


def _nul(value: str, test: Test) -> Iterator[str]:
    """True if text contains a NUL, which no path, name or argument of the kernel can contain."""
    if test.field.mapped:
        yield '"\\0" in key'
    if test.kind.name in ("str", "bytes"):
        yield f"{'b' * (test.kind.name == 'bytes')}\"\\0\" in {value}"


def _required(test: Test) -> str:
    empty = test.field.kind.name in ("str", "bytes", "list", "map")
    return "must not be empty" if empty else "must be set"


def _length(test: Test) -> str:
    unit = {"str": "characters", "bytes": "bytes"}.get(test.field.kind.name, "entries")
    return f"must have at most {test.values[0]} {unit}"


def _named(test: Test) -> str:
    names = list(map(str, test.values))
    if len(names) <= _LISTED:
        return f"must be one of {', '.join(names)}"
    return f"must be one of the {len(names)} values of {test.kind.ref}, such as {names[0]}"


_SAID: Mapping[str, Callable[[Test], str]] = {
    "absolute_path": lambda _: "must be an absolute path",
    "allowed_enum": _named,
    "exclusive_with": lambda test: f"must not be set together with {_other(test).name}",
    "known_enum": _named,
    "max_length": _length,
    "no_nul": lambda _: "must not contain a NUL character",
    "nonnegative": lambda _: "must be 0 or more",
    "one_of": lambda test: f"must be one of {', '.join(map(repr, test.values))}",
    "range": lambda test: f"must be {test.values[0]} to {test.values[1]}",
    "required": _required,
    "requires": lambda test: f"needs {_other(test).name} to be set",
    "without": lambda test: f"must not contain any of {' '.join(str(test.values[0]))}",
    "unsupported": lambda _: "is not supported and must not be set",
}
"""By rule: what is allowed."""


def _other(test: Test) -> Field:
    assert test.other is not None
    return test.other
