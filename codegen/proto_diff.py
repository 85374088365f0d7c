"""Named changes between two versions of one proto file, each with what it means for this server.

Every declaration (message, oneof, field, enum, value, service, method) becomes a record of what was
written about it. A record that differs is named, whatever differs in it, so no change goes untold.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from google.protobuf.descriptor_pb2 import (
    DescriptorProto,
    EnumDescriptorProto,
    FieldDescriptorProto,
    FileDescriptorProto,
)
from google.protobuf.message import Message

from codegen.named import Named
from codegen.proto_walk import messages_of

WIRE_COMPATIBLE = "wire-compatible"
SOURCE_BREAKING = "source-breaking"
TO_DECIDE = "behaviour to decide"
WIRE_BREAKING = "breaks the wire"
CLASSES: Mapping[str, str] = {
    WIRE_BREAKING: "old and new peers misunderstand each other",
    TO_DECIDE: "the bytes are understood; what the server does has to be decided",
    SOURCE_BREAKING: "the same bytes; code that uses the name must change",
    WIRE_COMPATIBLE: "nothing to do",
}


@dataclass(slots=True)
class _Part:
    """One declaration."""

    category: str
    path: str
    facts: dict[str, str] = field(default_factory=dict)
    """What is said about it, by the name of the change that a difference is."""


_EFFECTS: Mapping[str, str] = {
    "enum-gained": WIRE_COMPATIBLE,
    "enum-value-gained": TO_DECIDE,
    "enum-value-renumbered": WIRE_BREAKING,
    "field-gained": TO_DECIDE,
    "field-renumbered": WIRE_BREAKING,
    "field-replaced": WIRE_BREAKING,
    "message-gained": WIRE_COMPATIBLE,
    "oneof-gained": WIRE_COMPATIBLE,
    "package-changed": WIRE_BREAKING,
    "rpc-gained": TO_DECIDE,
    "rpc-changed": WIRE_BREAKING,
    "rpc-lost": WIRE_BREAKING,
    "rpc-renamed": WIRE_BREAKING,
    "service-gained": TO_DECIDE,
    "service-lost": WIRE_BREAKING,
    "syntax-changed": TO_DECIDE,
    "imports-changed": WIRE_COMPATIBLE,
}
_SUFFIX_EFFECTS: Mapping[str, str] = {
    "-lost": SOURCE_BREAKING,
    "-renamed": SOURCE_BREAKING,
    "-reserved-changed": WIRE_COMPATIBLE,
    "-packed-changed": WIRE_COMPATIBLE,
}
_SAME_BYTES = (
    {"int32", "int64", "uint32", "uint64", "bool"},
    {"sint32", "sint64"},
    {"fixed32", "sfixed32"},
    {"fixed64", "sfixed64"},
    {"string", "bytes"},
)


def changes(old: FileDescriptorProto, new: FileDescriptorProto) -> list[Named]:
    """What changed from ``old`` to ``new``: what was renamed is told as such, once."""
    renamed = _renamed_types(old, new)
    before = _parts(old, translated(renamed))
    after = _parts(new, lambda name: name)
    found = [
        _change(f"{category}-renamed", name, f"now {renamed[name]}")
        for category, name in _types(old)
        if name in renamed
    ]
    paired = {key: key for key in before.keys() & after.keys()}
    paired |= _renamed_members(before, after)
    gained = [after[key] for key in after.keys() - set(paired.values())]
    numbers = {(p.path.rpartition(".")[0], p.facts.get("renumbered")): p for p in gained}
    for key, part in before.items():
        if key in paired:
            continue
        other = numbers.get((part.path.rpartition(".")[0], part.facts.get("renumbered")))
        if part.category == "field" and other is not None:
            told = f"{_summary(part)} → {other.path.rpartition('.')[2]}, {_summary(other)}"
            found.append(_change("field-replaced", part.path, told))
        else:
            found.append(_change(f"{part.category}-lost", part.path, _summary(part)))
    for part in gained:
        found.append(_change(f"{part.category}-gained", part.path, _summary(part)))
    for was, now in paired.items():
        one, other = before[was], after[now]
        if was != now:
            found.append(
                _change(f"{one.category}-renamed", one.path, f"now {other.path.split('.')[-1]}")
            )
        found += _differences(one, other)
    return sorted(found, key=lambda change: (change.kind, change.subject))


def renamed(old: FileDescriptorProto, new: FileDescriptorProto) -> dict[str, str]:
    """{path in ``old``: path in ``new``} of every message, enum, field, value and RPC that has
    another name now."""
    types = _renamed_types(old, new)
    before = _parts(old, translated(types))
    after = _parts(new, lambda name: name)
    were = {now: was for was, now in types.items()}
    found = dict(types)
    for (_, path), (_, now) in _renamed_members(before, after).items():
        owner, _, last = path.rpartition(".")
        found[f"{were.get(owner, owner)}.{last}"] = now
    return found


def names(file: FileDescriptorProto) -> frozenset[str]:
    """The path of every declaration of ``file``."""
    return frozenset(path for _, path in _parts(file, lambda name: name))


def _differences(old: _Part, new: _Part) -> Iterator[Named]:
    for word in sorted(old.facts.keys() | new.facts.keys()):
        was, now = old.facts.get(word, ""), new.facts.get(word, "")
        if was == now:
            continue
        if word == "deprecated-changed":
            kind = f"{old.category}-{'deprecated' if now else 'no-longer-deprecated'}"
            yield _change(kind, new.path, "")
        else:
            kind = word if old.category == "file" else f"{old.category}-{word}"
            effect = TO_DECIDE if word == "retyped" and _same_bytes(was, now) else None
            yield _change(kind, new.path, f"{was or 'nothing'} → {now or 'nothing'}", effect)


def _change(kind: str, subject: str, detail: str, effect: str | None = None) -> Named:
    if effect is None:
        ends = (e for suffix, e in _SUFFIX_EFFECTS.items() if kind.endswith(suffix))
        default = WIRE_BREAKING if kind.endswith("-retyped") else TO_DECIDE
        effect = _EFFECTS.get(kind) or next(ends, default)
    return Named(kind, subject, detail, effect)


def _same_bytes(old: str, new: str) -> bool:
    """Whether each type reads what the other wrote, within the range of both."""
    return any(old in group and new in group for group in _SAME_BYTES)


def _summary(part: _Part) -> str:
    if part.category == "rpc":
        return part.facts["changed"]
    facts = part.facts
    number = f"= {facts['renumbered']}" if "renumbered" in facts else ""
    oneof = f"in the oneof {facts['oneof-changed']}" if facts.get("oneof-changed") else ""
    options = [value for word, value in facts.items() if " = " in value]
    words = [facts.get("optional-changed", ""), facts.get("retyped", ""), number, oneof]
    words.append(f"[{', '.join(options)}]" if options else "")
    return " ".join(word for word in words if word)


# --- the parts of a file


def _parts(file: FileDescriptorProto, local: Callable[[str], str]) -> dict[tuple[str, str], _Part]:
    """Every declaration by category and path; ``local`` gives names of types as they are now."""
    prefix = f".{file.package}."

    def named(type_name: str) -> str:
        inside = type_name.startswith(prefix)
        return local(type_name.removeprefix(prefix)) if inside else type_name.removeprefix(".")

    found = [
        _Part(
            "file",
            "(file)",
            {
                "package-changed": file.package,
                "syntax-changed": file.syntax,
                "imports-changed": ", ".join(sorted(file.dependency)),
                **_options(file.options),
            },
        )
    ]
    for name, message in messages_of(file.message_type):
        found += _message(local(name), message, named)
    for category, name in _types(file):
        if category == "enum":
            found += _enum(local(name), _enums(file)[name])
    for service in file.service:
        found.append(_Part("service", service.name, _options(service.options)))
        for method in service.method:
            signature = (
                f"({'stream ' * method.client_streaming}{named(method.input_type)}) returns "
                f"({'stream ' * method.server_streaming}{named(method.output_type)})"
            )
            facts = {"changed": signature, **_options(method.options)}
            found.append(_Part("rpc", f"{service.name}.{method.name}", facts))
    return {(part.category, part.path): part for part in found}


def _message(path: str, message: DescriptorProto, named: Callable[[str], str]) -> Iterator[_Part]:
    reserved = [_range(r.start, r.end - 1) for r in message.reserved_range]
    reserved += [f'"{name}"' for name in message.reserved_name]
    yield _Part(
        "message",
        path,
        {"reserved-changed": ", ".join(sorted(reserved)), **_options(message.options)},
    )
    real = [f.oneof_index for f in message.field if _in_oneof(f)]
    for index, oneof in enumerate(message.oneof_decl):
        if index in real:
            yield _Part("oneof", f"{path}.{oneof.name}", _options(oneof.options))
    entries = {n.name: n for n in message.nested_type if n.options.map_entry}
    for one in message.field:
        oneof_name = message.oneof_decl[one.oneof_index].name if _in_oneof(one) else ""
        facts = {
            "renumbered": str(one.number),
            "retyped": _type(one, entries, named),
            "optional-changed": "optional" if one.proto3_optional else "",
            "oneof-changed": oneof_name,
            "json-name-changed": one.json_name if one.json_name != _json(one.name) else "",
            "default-changed": one.default_value,
            **_options(one.options),
        }
        yield _Part("field", f"{path}.{one.name}", facts)


def _enum(path: str, enum: EnumDescriptorProto) -> Iterator[_Part]:
    reserved = [_range(r.start, r.end) for r in enum.reserved_range]
    reserved += [f'"{name}"' for name in enum.reserved_name]
    facts = {"reserved-changed": ", ".join(sorted(reserved)), **_options(enum.options)}
    yield _Part("enum", path, facts)
    for value in enum.value:
        facts = {"renumbered": str(value.number), **_options(value.options)}
        yield _Part("enum-value", f"{path}.{value.name}", facts)


def _options(options: Message) -> dict[str, str]:
    """Every option that is set, by its change: deprecated-changed, packed-changed and so on."""
    words = {"debug_redact": "redaction"}
    found = {}
    for option, value in options.ListFields():
        if option.name != "map_entry":
            word = words.get(option.name, option.name.replace("_", "-"))
            said = str(value).lower() if isinstance(value, bool) else str(value).strip()
            found[f"{word}-changed"] = f"{option.name} = {said}"
    return found


def _in_oneof(one: FieldDescriptorProto) -> bool:
    return one.HasField("oneof_index") and not one.proto3_optional


def _type(
    one: FieldDescriptorProto,
    entries: Mapping[str, DescriptorProto],
    named: Callable[[str], str],
) -> str:
    entry = entries.get(one.type_name.rpartition(".")[2])
    if entry is not None:
        key, value = (_type(part, {}, named) for part in entry.field)
        return f"map<{key}, {value}>"
    scalar = FieldDescriptorProto.Type.Name(one.type).removeprefix("TYPE_").lower()
    kind = named(one.type_name) if one.type_name else scalar
    repeated = one.label == FieldDescriptorProto.LABEL_REPEATED
    return f"repeated {kind}" if repeated else kind


def _json(name: str) -> str:
    head, *rest = name.split("_")
    return head + "".join(part[:1].upper() + part[1:] for part in rest)


def _range(start: int, last: int) -> str:
    return str(start) if start == last else f"{start} to {last}"


# --- what was renamed


def _types(file: FileDescriptorProto) -> Iterator[tuple[str, str]]:
    for name, _ in messages_of(file.message_type):
        yield "message", name
    for name in _enums(file):
        yield "enum", name


def _enums(file: FileDescriptorProto) -> dict[str, EnumDescriptorProto]:
    inner = {
        f"{name}.{enum.name}": enum
        for name, message in messages_of(file.message_type)
        for enum in message.enum_type
    }
    return {enum.name: enum for enum in file.enum_type} | inner


def translated(renamed: Mapping[str, str]) -> Callable[[str], str]:
    """Old names of types as new ones, also of what is within a renamed one."""

    def translate(name: str) -> str:
        if name in renamed:
            return renamed[name]
        outer, dot, last = name.rpartition(".")
        return f"{translate(outer)}{dot}{last}" if dot else name

    return translate


def _renamed_types(old: FileDescriptorProto, new: FileDescriptorProto) -> dict[str, str]:
    """{old name: new name} of types whose users now use another type with all old members."""
    before, after = dict(_members(old)), dict(_members(new))
    users_before, users_after = _users(old), _users(new)
    renamed: dict[str, str] = {}
    while True:  # the members of a renamed message are found under its new name
        local = translated(renamed)
        candidates: dict[str, set[str]] = {}
        for (owner, *rest), name in users_before.items():
            other = users_after.get((local(owner), *rest))
            if other not in after or other in before or local(name) in after:
                continue
            if name in before and before[name] <= after[other]:
                candidates.setdefault(name, set()).add(other)
        found = {name: others.pop() for name, others in candidates.items() if len(others) == 1}
        taken = [*renamed.values(), *found.values()]
        found = {name: other for name, other in found.items() if taken.count(other) == 1}
        if not found:
            return renamed
        renamed |= found


def _members(file: FileDescriptorProto) -> Iterator[tuple[str, frozenset[object]]]:
    """What must be kept of each type: name and number of fields, the numbers of enum values."""
    for name, message in messages_of(file.message_type):
        yield name, frozenset(("field", f.name, f.number) for f in message.field)
    for name, enum in _enums(file).items():
        yield name, frozenset(("value", value.number) for value in enum.value)


def _users(file: FileDescriptorProto) -> dict[tuple[str, ...], str]:
    """The local name of the type that each field, map, request and response has."""
    prefix = f".{file.package}."
    found: dict[tuple[str, ...], str] = {}
    for name, message in messages_of(file.message_type):
        for one in message.field:
            found[name, str(one.number)] = one.type_name.removeprefix(prefix)
        for entry in message.nested_type:
            for one in entry.field if entry.options.map_entry else ():
                found[name, entry.name, one.name] = one.type_name.removeprefix(prefix)
    for service in file.service:
        for method in service.method:
            found[service.name, method.name, "in"] = method.input_type.removeprefix(prefix)
            found[service.name, method.name, "out"] = method.output_type.removeprefix(prefix)
    return {user: name for user, name in found.items() if name}


def _renamed_members(
    old: Mapping[tuple[str, str], _Part], new: Mapping[tuple[str, str], _Part]
) -> dict[tuple[str, str], tuple[str, str]]:
    """Fields of one message, and values of one enum, that kept number and type; RPCs of one service
    that kept request and response."""
    lost = _by_content(old[key] for key in old if key not in new)
    gained = _by_content(new[key] for key in new if key not in old)
    return {
        (was[0].category, was[0].path): (gained[content][0].category, gained[content][0].path)
        for content, was in lost.items()
        if len(was) == 1 and len(gained.get(content, ())) == 1
    }


def _by_content(parts: Iterable[_Part]) -> dict[tuple[str, ...], list[_Part]]:
    found: dict[tuple[str, ...], list[_Part]] = {}
    words = {"field": ("renumbered", "retyped"), "enum-value": ("renumbered",), "rpc": ("changed",)}
    for part in parts:
        if part.category in words:
            facts = (part.facts[word] for word in words[part.category])
            owner = part.path.rpartition(".")[0]
            found.setdefault((part.category, owner, *facts), []).append(part)
    return found
