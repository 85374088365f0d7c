"""``spec/decided.yaml``: what the API said about each part when a person last decided about it.

An entry of the mapping stays valid YAML if the API changes the field below it: another type, a
label, an option. So the definition of every field, enum value and RPC is kept next to the entries.
``check`` names each part whose definition is another one now, and ``cri-codegen decide`` records
the new one, only for what it is told by name, after a person has looked at the entry.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from google.protobuf.descriptor_pb2 import EnumDescriptorProto, FileDescriptorProto

from codegen import load, project, proto_api, proto_text
from codegen.errors import Place, Problems, SpecError, nearest, shown
from codegen.former import Former
from codegen.load import MappingNode
from codegen.model import MappingFile
from codegen.nodes import items
from codegen.proto_walk import enums_of, messages_of
from codegen.undecided import WORD

FILE = "spec/decided.yaml"
_HEAD = """\
# What the API said about each part when a person last decided about it. `cri-codegen decide NAME…`
# writes this file; `check` names every part that differs from its current version.
"""
_MOST = 5
"""Changed values of an enum that are told; all of them are in the output of diff."""
NamesRead = Callable[[str], Collection[str]]
"""The places of hand-written code that read the names of an enum's values, as text."""
Parts = Mapping[str, Mapping[str, str]]
"""{message, enum or service: {its field, value or RPC: the definition without the name}}."""


def parts(file: FileDescriptorProto) -> dict[str, dict[str, str]]:
    """Every field, enum value and RPC of ``file``, as the normalised proto defines it."""
    found: dict[str, dict[str, str]] = {}
    for name, message in messages_of(file.message_type):
        found[name] = proto_text.definitions(message, file.package)
    for name, enum in enums_of(file):
        found[name] = _values(enum)
    for service in file.service:
        found[service.name] = {
            method.name: proto_text.signature(method, file.package) for method in service.method
        }
    return found


def _values(enum: EnumDescriptorProto) -> dict[str, str]:
    return {
        value.name: f"{value.number}{' [deprecated = true]' * value.options.deprecated}"
        for value in enum.value
    }


def check(
    root: Path,
    file: FileDescriptorProto,
    mapping: Mapping[str, MappingFile],
    rpcs: load.Node | None,
    problems: Problems,
    former: Former | None = None,
    names_read: NamesRead = lambda enum: (),
) -> None:
    """Record a fault for each part of ``file`` that is not as decided.

    What has no entry yet, an undecided one, or one for something that the API no longer has, is
    reported by other rules.
    """
    recorded = _Recorded.read(root)
    if recorded.node is None:
        problems.add(
            "is missing, so nothing is recorded as decided",
            Place(FILE),
            "restore it; in a new project, look at each entry, then run: cri-codegen decide --all",
            "not-recorded",
        )
        return
    now = parts(file)
    entries = _Entries.of(file, mapping, rpcs)
    for owner in sorted(now.keys() | recorded.parts.keys()):
        before, after = recorded.parts.get(owner, {}), now.get(owner, {})
        if owner not in now:
            new_name = former.now(owner) if former is not None else None
            problems.add(
                f"the {recorded.api} no longer has {owner}"
                + (f"; it is now {new_name}" if new_name else ""),
                recorded.place(owner),
                (
                    f"change what relies on it, then run: cri-codegen decide {owner} {new_name}"
                    if new_name
                    else f"remove what relies on it, then run: cri-codegen decide {owner}"
                ),
                "decided-and-gone",
            )
        elif not before and former is not None and former.was(owner) in recorded.parts:
            continue  # told with its earlier name
        elif owner in entries.enums:
            _check_enum(owner, before, after, file, recorded, problems, names_read)
        else:
            _check_entries(owner, before, after, recorded, entries, problems)


def _check_enum(
    owner: str,
    before: Mapping[str, str],
    after: Mapping[str, str],
    file: FileDescriptorProto,
    recorded: _Recorded,
    problems: Problems,
    names_read: NamesRead,
) -> None:
    """Values are decided about together, in the entries of the fields of this type."""
    gone = {definition: value for value, definition in before.items() if value not in after}
    said = []
    for value, definition in after.items():
        if value not in before:
            old = gone.pop(definition, None)
            said.append(f"{old} → {value}" if old else f"{value} = {definition} is new")
        elif before[value] != definition:
            said.append(f"{value} = {before[value]} → {definition}")
    said += [f"{value} = {definition} is gone" for definition, value in gone.items()]
    if len(said) > _MOST:
        said[_MOST - 1 :] = [f"and {len(said) - _MOST + 1} more"]
    users = f"used by {', '.join(_fields_of(file, owner)) or 'no field'}"
    readers = ", ".join(sorted(names_read(owner))) if said else ""
    users += f"; its names are read as text in {readers}" if readers else ""
    if said and not before:
        problems.add(
            f"not recorded as decided: {owner}",
            recorded.place(owner),
            f"{users}; look at them, then run: cri-codegen decide {owner}",
            "not-recorded",
        )
    elif said:
        problems.add(
            f"{owner} has changed since it was decided: {'; '.join(said)}",
            recorded.place(owner),
            f"{users}; change what relies on it, then run: cri-codegen decide {owner}",
            "changed-since-decided",
        )


def _check_entries(
    owner: str,
    before: Mapping[str, str],
    after: Mapping[str, str],
    recorded: _Recorded,
    entries: _Entries,
    problems: Problems,
) -> None:
    """Each field and RPC is decided about in its own entry."""
    new = [part for part in after if part not in before and entries.is_decided(owner, part)]
    gone = [part for part in before if part not in after and not entries.place(owner, part)]
    for part in list(gone):
        now = next((one for one in new if after[one] == before[part]), None)
        if now is None:
            continue
        gone.remove(part)
        new.remove(now)
        problems.add(
            f"{owner}.{part} was renamed to {now} since it was decided",
            entries.place(owner, now) or recorded.place(owner, part),
            f"look at the entry, then run: cri-codegen decide {owner}.{part} {owner}.{now}",
            "changed-since-decided",
        )
    if new:
        problems.add(
            f"not recorded as decided: {', '.join(_names(owner, new))}",
            entries.place(owner, new[0]) or recorded.place(owner),
            "look at each entry, then run: cri-codegen decide "
            + " ".join([owner] if len(new) == len(after) else _names(owner, new)),
            "not-recorded",
        )
    if gone:
        problems.add(
            f"the {recorded.api} no longer has {', '.join(_names(owner, gone))}",
            recorded.place(owner, gone[0]),
            "remove what relies on it, then run: cri-codegen decide "
            + " ".join(_names(owner, gone)),
            "decided-and-gone",
        )
    for part, definition in after.items():
        if before.get(part, definition) != definition:
            problems.add(
                f"{owner}.{part} has changed since it was decided: {before[part]} → {definition}",
                entries.place(owner, part) or recorded.place(owner, part),
                "change what relies on it (see cri-codegen explain), then run: "
                f"cri-codegen decide {owner}.{part}",
                "changed-since-decided",
            )


def _fields_of(file: FileDescriptorProto, enum: str) -> Iterator[str]:
    """The fields of a type."""
    for name, message in messages_of(file.message_type):
        for field in message.field:
            if field.type_name == f".{file.package}.{enum}":
                yield f"{name}.{field.name}"


def _names(owner: str, names: Iterable[str]) -> list[str]:
    return [f"{owner}.{name}" for name in names]


@dataclass(frozen=True, slots=True)
class _Recorded:
    """The file, with the place of each record."""

    api: str
    parts: Parts
    node: load.Node | None

    @classmethod
    def read(cls, root: Path) -> _Recorded:
        """Raises SpecError if the file violates its schema; without a file, nothing is recorded."""
        api = project.read(root).api.name
        if not (root / FILE).exists():
            return cls(api, {}, None)
        node = load.checked_file(root, FILE, load.language_schema("decided"))
        found = {
            owner: {name: str(value.plain()) for name, value in items(body)}
            for owner, body in items(node)
        }
        return cls(api, found, node)

    def place(self, *path: str) -> Place:
        """Where a part, or what it belongs to, is recorded."""
        node, found = self.node, Place(FILE)
        for step in path:
            if not isinstance(node, MappingNode) or (key := node.key(step)) is None:
                break
            found, node = key.place, node.get(step)
        return found


@dataclass(frozen=True, slots=True)
class _Entries:
    """Where a person decides about a part."""

    mapping: Mapping[str, MappingFile]
    rpcs: load.Node | None
    """rpc.yaml; None if it could not be read."""
    keys: Mapping[tuple[str, str], str]
    """{(service, RPC): its key in rpc.yaml}."""
    services: frozenset[str]
    enums: frozenset[str]

    @classmethod
    def of(
        cls,
        file: FileDescriptorProto,
        mapping: Mapping[str, MappingFile],
        rpcs: load.Node | None,
    ) -> _Entries:
        """The entries for the parts of ``file``."""
        return cls(
            mapping,
            rpcs,
            proto_api.rpc_keys(file),
            frozenset(service.name for service in file.service),
            frozenset(name for name, _ in enums_of(file)),
        )

    def place(self, owner: str, part: str) -> Place | None:
        """The entry of a field or an RPC; None for an enum value and for what has no entry."""
        if owner in self.mapping:
            entry = self.mapping[owner].entries.get(part)
            return entry.place if entry is not None else None
        if owner in self.services and isinstance(self.rpcs, MappingNode):
            key = self.rpcs.key(self.keys.get((owner, part), part))
            return key.place if key is not None else None
        return None

    def is_decided(self, owner: str, part: str) -> bool:
        """Whether an entry says what becomes of a part; an enum value has none."""
        if owner in self.enums:
            return True
        if self.place(owner, part) is None:
            return False
        if owner in self.mapping:
            field = self.mapping[owner].entries[part]
            return (field.fate, field.value) != ("unmapped", WORD)
        assert self.rpcs is not None
        return load.at(self.rpcs, [self.keys[owner, part], "unserved", "issue"]).plain() != WORD


def decide(
    root: Path,
    file: FileDescriptorProto,
    mapping: Mapping[str, MappingFile],
    rpcs: load.Node | None,
    names: Sequence[str],
) -> dict[str, str]:
    """{path: text} that records ``names`` as ``file`` defines them now: fields, enum values and
    RPCs, or all parts of a message, enum or service. What ``file`` no longer has is removed.

    Without ``names``, everything is recorded. Raises SpecError for a name that neither ``file`` nor
    the record has, for what is undecided, and if everything shall be recorded although there is a
    record: it would hide what has changed since.
    """
    if not names and (root / FILE).exists():
        raise SpecError(
            "exists, so each part that has changed since is named",
            Place(FILE),
            "run cri-codegen check, look at each entry, and name the parts instead of --all",
        )
    recorded = {owner: dict(known) for owner, known in _Recorded.read(root).parts.items()}
    now = parts(file)
    entries = _Entries.of(file, mapping, rpcs)
    problems, api = Problems(), project.read(root).api.name
    for name in names or now:
        owner, part = _split(name, {**recorded, **now})
        known = {**recorded.get(owner, {}), **now.get(owner, {})}
        if owner not in now and owner not in recorded:
            problems.add(
                f"is no part of the {api}",
                Place(shown(name)),
                nearest(owner, now)
                or "name a field, as in Message.field, an RPC, or all parts of"
                " a message, enum or service",
            )
            continue
        if part is not None and part not in known:
            said = f"{owner} has no {shown(part)}"
            problems.add(said, Place(shown(name)), nearest(part, known))
            continue
        chosen = list(known) if part is None else [part]
        undecided = [
            one
            for one in chosen
            if one in now.get(owner, {}) and not entries.is_decided(owner, one)
        ]
        if undecided:
            problems.add(
                f"{owner} has undecided parts: {', '.join(undecided)}",
                Place(name),
                "decide about each in its entry first (cri-codegen stubs adds entries)",
            )
            continue
        recorded.setdefault(owner, {})
        for one in chosen:
            if one in now.get(owner, {}):
                recorded[owner][one] = now[owner][one]
            else:
                del recorded[owner][one]
        if owner not in now and not recorded[owner]:
            del recorded[owner]
    problems.stop_if_any()
    line = project.read(root).schema_line(FILE, "decided")
    return {FILE: f"{line}\n{text(recorded, now)}"}


def _split(name: str, known: Mapping[str, object]) -> tuple[str, str | None]:
    """What a name belongs to, and the part; None for all parts. The longest known owner wins,
    because a nested message is named ``Outer.Inner``."""
    if name in known:
        return name, None
    owner, dot, part = name.rpartition(".")
    return (owner, part) if dot else (name, None)


def text(recorded: Parts, now: Parts) -> str:
    """The file: owners by name, their parts in the order of the proto; of a message without fields
    there is nothing to record."""
    lines = [_HEAD.rstrip("\n")]
    for owner in sorted(name for name, known in recorded.items() if known):
        known = recorded[owner]
        in_order = [*now.get(owner, {}), *known]
        lines += ["", f"{owner}:"]
        lines += [
            f"  {_key(part)}: {_word(known[part])}"
            for part in dict.fromkeys(in_order)
            if part in known
        ]
    return "\n".join(lines) + "\n"


def _key(name: str) -> str:
    return f'"{name}"' if name in ("true", "false", "null") else name


def _word(definition: str) -> str:
    """A YAML word; JSON where a plain one would mean something else."""
    plain = not any(sign in definition for sign in ("'", "\\", "#", ": "))
    return definition if plain else json.dumps(definition)
