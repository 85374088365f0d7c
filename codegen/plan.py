"""From resolved entries to what one generated file holds: signatures, imports, statements.

A template prints a plan from top to bottom; every choice of wording has been made here.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from codegen.model import (
    Call,
    Descent,
    Field,
    Kind,
    Mapped,
    OciSpec,
    Origin,
    Test,
    Write,
    snake,
)

_ALWAYS_TAKEN = frozenset(
    {"annotations", "api_pb2", "containers_pb2", "facts", "item", "out", "src", "types"}
)


@dataclass(frozen=True, slots=True)
class Parameter:
    """A keyword-only parameter of a builder or reader."""

    name: str
    annotation: str


@dataclass(frozen=True, slots=True)
class Block:
    """A comment and what stands under it; no lines when the field does nothing here."""

    comment: str
    lines: tuple[str, ...] = ()
    condition: str | None = None


@dataclass(frozen=True, slots=True)
class Builder:
    """generated/oci/<message>.py."""

    mapped: Mapped
    parameters: tuple[Parameter, ...]
    imports: tuple[str, ...]
    blocks: tuple[Block, ...]


@dataclass(frozen=True, slots=True)
class Keyword:
    """One keyword argument of the message that a reader returns; without a value only a comment."""

    comment: str
    name: str
    value: str | None


@dataclass(frozen=True, slots=True)
class Reader:
    """generated/statuses/<message>.py."""

    mapped: Mapped
    parameters: tuple[Parameter, ...]
    imports: tuple[str, ...]
    keywords: tuple[Keyword, ...]
    left: tuple[str, ...]
    """Fields that hand-written functions set."""


@dataclass(frozen=True, slots=True)
class Checked:
    """All that a validator does with one field."""

    name: str
    tests: tuple[Test, ...]
    """Tests of the field as a whole."""
    of_items: tuple[Test, ...]
    """Tests of each item of a list or map."""
    descent: Descent | None
    nested: str | None
    """The module whose ``check`` goes on."""
    each: str | None
    """What runs over the items of a list or map, as in ``index, item in enumerate(…)``."""
    place: str
    """The path of the field below the message, or of one item of it."""


@dataclass(frozen=True, slots=True)
class Validator:
    """generated/validators/<message>.py."""

    mapped: Mapped
    imports: tuple[str, ...]
    fields: tuple[Checked, ...]


# --- builders


def builders(mapped: Mapping[str, Mapped]) -> list[Builder]:
    """One for each received message of which some field, or field of a field, has a target."""
    writing = {name for name in mapped if _writes(mapped, name)}
    return [_builder(mapped, mapped[name], writing) for name in sorted(writing)]


def _writes(mapped: Mapping[str, Mapped], name: str) -> bool:
    if name not in mapped:
        return False
    return any(
        w.target is not None or (w.nested is not None and _writes(mapped, w.nested))
        for w in mapped[name].writes
    )


def _roots(mapped: Mapping[str, Mapped], name: str) -> frozenset[str]:
    """The context roots of a builder, with those of the builders that it calls."""
    roots: frozenset[str] = frozenset()
    for write in mapped[name].writes if name in mapped else ():
        roots |= write.roots
        if write.target is not None and write.target.record:
            roots |= {"record"}
        if write.nested is not None:
            roots |= _roots(mapped, write.nested)
    return roots


def _parameters(roots: Iterable[str]) -> tuple[Parameter, ...]:
    special = {"record": "containers_pb2.Container", "spec": "types.Spec"}
    return tuple(
        Parameter(root, special.get(root) or f"facts.{_class_name(root)}") for root in sorted(roots)
    )


def _class_name(root: str) -> str:
    return "".join(part.capitalize() for part in root.split("_"))


@dataclass(frozen=True, slots=True)
class _Names:
    """Names of modules inside one file, renamed where a parameter has the same name."""

    modules: Mapping[str, str]
    lines: tuple[str, ...]

    def __getitem__(self, module: str) -> str:
        return self.modules[module]


def _names(
    taken: Iterable[str], package: str, nested: Iterable[str], calls: Iterable[Call]
) -> _Names:
    used = set(taken) | _ALWAYS_TAKEN
    modules: dict[str, str] = {}
    lines = []
    wanted = [("runtime.transforms", topic, "transforms") for topic in {c.topic for c in calls}]
    wanted += [(f"generated.{package}", module, package) for module in set(nested)]
    for home, module, suffix in sorted(wanted):
        name = f"{module}_{suffix}" if module in used else module
        used.add(name)
        modules[f"{home}.{module}"] = name
        lines.append(f"from {home} import {module}" + (f" as {name}" if name != module else ""))
    return _Names(modules, tuple(lines))


def _imports(
    names: _Names, parameters: Sequence[Parameter], always: Iterable[str]
) -> tuple[str, ...]:
    """The import lines of a file, sorted as ruff wants them: by module, then by name."""
    lines = {*names.lines, *always}
    annotations = [parameter.annotation for parameter in parameters]
    if any(a.startswith("facts.") for a in annotations):
        lines.add("from runtime.transforms import facts")
    if any(a.startswith("containers_pb2.") for a in annotations):
        lines.add("from generated.containerd import containers_pb2")
    if any(a.startswith("types.") for a in annotations):
        lines.add("from generated.oci import types")
    plain: dict[str, list[str]] = {}
    renamed = []
    for line in lines:
        home, _, what = line.removeprefix("from ").partition(" import ")
        if " as " in what:
            renamed.append((home, line))
        else:
            plain.setdefault(home, []).append(what)
    merged = [(home, f"from {home} import {', '.join(sorted(n))}") for home, n in plain.items()]
    return tuple(line for _, line in sorted([*merged, *renamed]))


def _builder(mapped: Mapping[str, Mapped], one: Mapped, writing: set[str]) -> Builder:
    parameters = _parameters(_roots(mapped, one.message.name))
    nested = [w.nested for w in one.writes if w.nested in writing]
    calls = [write.call for write in one.writes if write.call]
    names = _names((p.name for p in parameters), "oci", map(snake, filter(None, nested)), calls)
    imports = _imports(
        names, parameters, ["from generated.cri import api_pb2", "from generated.oci import types"]
    )
    taken = {p.name for p in parameters} | _ALWAYS_TAKEN | set(names.modules.values())
    blocks = []
    for write in one.writes:
        if write.nested is not None and write.nested in writing:
            arguments = sorted(_roots(mapped, write.nested))
            lines = [_call_nested(write, names, arguments)]
        elif write.nested is not None:
            blocks.append(Block(f"{write.comment}; none has a target"))
            continue
        else:
            lines = list(_statements(write, names, taken))
        if write.each:
            lines = [f"for item in src.{write.entry.name}:", f"    {lines[0]}"]
        blocks.append(Block(write.comment, tuple(lines), write.condition))
    return Builder(one, parameters, imports, tuple(blocks))


def _call_nested(write: Write, names: _Names, arguments: Sequence[str]) -> str:
    module = names[f"generated.oci.{snake(write.nested or '')}"]
    source = "item" if write.each else f"src.{write.entry.name}"
    given = "".join(f", {name}={name}" for name in arguments)
    return f"{module}.apply({source}, out{given})"


def _statements(write: Write, names: _Names, taken: set[str]) -> Iterator[str]:
    if write.target is None:
        return
    if write.call is None:
        assert write.value is not None
        yield _stored(write, write.value)
        return
    called = _called(write.call, names)
    if write.local is None:
        yield _stored(write, _wrapped(write, called))
        return
    local = _free(snake(write.local), taken)
    yield f"{local} = {called}"
    yield f"if {local} is not None:"
    yield f"    {_stored(write, _wrapped(write, local))}"


def _wrapped(write: Write, value: str) -> str:
    return f"{write.wrap}({value})" if write.wrap else value


def _free(name: str, taken: set[str]) -> str:
    """A local variable that nothing else in the function is called."""
    found = name
    while found in taken:
        found = f"{found}_value"
    taken.add(found)
    return found


def _called(call: Call, names: _Names) -> str:
    arguments = ", ".join(f"{a.name}={a.expression}" for a in call.arguments)
    return f"{names[f'runtime.transforms.{call.topic}']}.{call.function}({arguments})"


def _stored(write: Write, value: str) -> str:
    assert write.target is not None
    place = write.target.expression
    match write.store:
        case "assign":
            return f"{place} = {value}"
        case "merge":
            return f"types.merge({place}, {value})"
        case method:
            return f"{place}.{method}({value})"


# --- readers


def readers(mapped: Mapping[str, Mapped]) -> list[Reader]:
    """One for each answered message of which some field is copied or computed."""
    reading = {name for name in mapped if _reads(mapped, name)}
    return [_reader(mapped, mapped[name], reading) for name in sorted(reading)]


def _reads(mapped: Mapping[str, Mapped], name: str) -> bool:
    if name not in mapped:
        return False
    return any(
        r.value is not None
        or r.call is not None
        or (r.nested is not None and _reads(mapped, r.nested))
        for r in mapped[name].reads
    )


def _read_roots(mapped: Mapping[str, Mapped], name: str) -> frozenset[str]:
    roots: frozenset[str] = frozenset()
    for read in mapped[name].reads if name in mapped else ():
        roots |= read.roots
        if read.nested is not None:
            roots |= _read_roots(mapped, read.nested)
    return roots


def _reader(mapped: Mapping[str, Mapped], one: Mapped, reading: set[str]) -> Reader:
    parameters = _parameters(_read_roots(mapped, one.message.name))
    nested = [r.nested for r in one.reads if r.nested in reading]
    calls = [read.call for read in one.reads if read.call]
    names = _names(
        (p.name for p in parameters), "statuses", map(snake, filter(None, nested)), calls
    )
    imports = _imports(names, parameters, ["from generated.cri import api_pb2"])
    keywords = []
    for read in one.reads:
        value = read.value
        if read.call is not None:
            value = _called(read.call, names)
        elif read.nested in reading and read.nested is not None:
            module = names[f"generated.statuses.{snake(read.nested)}"]
            given = sorted(_read_roots(mapped, read.nested))
            value = f"{module}.read({', '.join(f'{name}={name}' for name in given)})"
        comment = read.comment
        if read.nested is not None and value is None:
            comment = f"{comment}; none is read by an entry"
        keywords.append(Keyword(comment, read.field, value))
    left = tuple(r.field for r in one.reads if r.entry.fate == "handled_by")
    return Reader(one, parameters, imports, tuple(keywords), left)


# --- validators


def validators(mapped: Mapping[str, Mapped]) -> list[Validator]:
    """One for each received message that has something to check, in itself or below."""
    checking = {name for name in mapped if _checks(mapped, name)}
    return [_validator(mapped[name], checking) for name in sorted(checking)]


def _checks(mapped: Mapping[str, Mapped], name: str, above: tuple[str, ...] = ()) -> bool:
    if name not in mapped or name in above:
        return False
    one = mapped[name]
    return bool(one.tests) or any(_checks(mapped, d.message, (*above, name)) for d in one.descents)


def _validator(one: Mapped, checking: set[str]) -> Validator:
    fields = []
    modules = set()
    for field in one.message.fields.values():
        tests = [test for test in one.tests if test.field == field.name]
        descent = next(
            (d for d in one.descents if d.field == field.name and d.message in checking), None
        )
        if not tests and descent is None:
            continue
        nested = snake(descent.message) if descent else None
        if nested is not None:
            modules.add(nested)
        fields.append(
            Checked(
                field.name,
                tuple(test for test in tests if not test.each),
                tuple(test for test in tests if test.each),
                descent,
                nested,
                *_loop(field),
            )
        )
    imports = {
        "from generated.cri import api_pb2",
        "from runtime.errors import Violation",
        *(f"from generated.validators import {module}" for module in modules),
    }
    return Validator(one, _imports(_Names({}, ()), (), imports), tuple(fields))


def _loop(field: Field) -> tuple[str | None, str]:
    if field.mapped:
        return f"key, item in message.{field.name}.items()", f"{field.name}[{{key}}]"
    if field.repeated:
        return f"index, item in enumerate(message.{field.name})", f"{field.name}[{{index}}]"
    return None, field.name


# --- the default specs


def constructor(kind: Kind, data: Any, oci: OciSpec) -> str:
    """The Python expression that makes ``data`` (decoded JSON) as a value of ``kind``."""
    match kind.name:
        case "oci":
            fields = oci.classes[kind.ref].fields
            given = [
                f"{fields[key].attribute}={constructor(fields[key].kind, value, oci)}"
                for key, value in data.items()
                if key in fields
            ]
            extra = {key: value for key, value in data.items() if key not in fields}
            given += [f"extra={extra!r}"] if extra else []
            return f"types.{kind.ref}({', '.join(given)})"
        case "list":
            return f"[{', '.join(constructor(kind.of[0], item, oci) for item in data)}]"
        case "map":
            items = (f"{key!r}: {constructor(kind.of[1], v, oci)}" for key, v in data.items())
            return f"{{{', '.join(items)}}}"
    return repr(data)


def literal(data: Any) -> str:
    """Decoded JSON as a Python literal in which strings have double quotes."""
    if isinstance(data, dict):
        return f"{{{', '.join(f'{json.dumps(k)}: {literal(v)}' for k, v in data.items())}}}"
    if isinstance(data, list):
        return f"[{', '.join(literal(item) for item in data)}]"
    return json.dumps(data) if isinstance(data, str) else repr(data)


# --- provenance


def origins(mapped: Mapping[str, Mapped]) -> dict[str, list[Origin]]:
    """{target: every entry that decides it}, each with the whole path of its field."""
    called = {w.nested for m in mapped.values() for w in m.writes if w.nested}
    found: dict[str, list[Origin]] = {}
    for name in sorted(mapped.keys() - called):
        for target, origin in _origins(mapped, name, name):
            found.setdefault(target, []).append(origin)
    return dict(sorted(found.items()))


def _origins(mapped: Mapping[str, Mapped], name: str, path: str) -> Iterator[tuple[str, Origin]]:
    one = mapped[name]
    for write in one.writes:
        here = f"{path}.{write.entry.name}"
        if write.nested is not None and write.nested in mapped:
            yield from _origins(mapped, write.nested, here)
        elif write.entry.name in one.file.targets:
            yield write.entry.name, Origin(path, write.entry, one.file.file)
        elif write.target is not None or write.entry.partner is not None:
            yield write.entry.value, Origin(here, write.entry, one.file.file)
