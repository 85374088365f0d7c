"""Rules that compare entries with each other.

Each rule is an ID and a function that yields faults; ``check`` runs them all.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from codegen import undecided
from codegen.errors import Place, Problems, misspelt, nearest, one_of
from codegen.message_reads import Use
from codegen.model import (
    Api,
    Computed,
    Copied,
    Descended,
    Entry,
    Mapped,
    MappingFile,
    Plan,
    Target,
    split_partner,
)
from codegen.plan import planned, plans_of_requests
from codegen.rpc import Rpcs


@dataclass(frozen=True, slots=True)
class Everything:
    """All files and, for those that could be resolved, everything they lead to."""

    api: Api
    files: Mapping[str, MappingFile]
    mapped: Mapping[str, Mapped]
    broken: frozenset[str]
    """Modules whose mapping file exists but could not be read."""
    uses: tuple[Use, ...]
    """Every use of a field in hand-written code."""
    plans: Mapping[str, Plan]
    payloads: tuple[Plan, ...]
    """What other programs receive, each made of one message."""
    rpcs: Rpcs | None
    """None if rpc.yaml could not be read."""


Finding = tuple[str, Place, str | None]
"""Message, place, hint."""


def unmapped_message(all_: Everything) -> Iterator[Finding]:
    """Every message of the API has a mapping file."""
    for message in all_.api.messages.values():
        if all_.api.former.was(message.name) in all_.files:
            continue  # its file has the earlier name, which is reported
        if message.name not in all_.files and message.module not in all_.broken:
            file = f"spec/mapping/{message.module}.yaml"
            fields = ", ".join(message.fields) or "none, so `fields: {}`"
            yield f"{message.name} has no mapping file", Place(file), f"its fields: {fields}"


def unknown_message(all_: Everything) -> Iterator[Finding]:
    """Every mapping file is for a message of the API."""
    for file in all_.files.values():
        if file.message not in all_.api.messages:
            yield (
                f"{all_.api.name} {all_.api.version} has no message {file.message}",
                file.message_place,
                all_.api.former.hint(file.message) or nearest(file.message, all_.api.messages),
            )


def misnamed_file(all_: Everything) -> Iterator[Finding]:
    """A mapping file is named after its message."""
    for file in all_.files.values():
        message = all_.api.messages.get(file.message)
        if message and not file.file.endswith(f"/{message.module}.yaml"):
            yield (
                f"the mapping of {file.message} must be in {message.module}.yaml",
                file.message_place,
                "rename the file",
            )


def same_module(all_: Everything) -> Iterator[Finding]:
    """Two messages do not share a mapping file and generated modules."""
    first: dict[str, str] = {}
    for message in all_.api.messages.values():
        other = first.setdefault(message.module, message.name)
        if other != message.name:
            yield (
                f"{other} and {message.name} would both be mapped in {message.module}.yaml",
                Place(f"spec/mapping/{message.module}.yaml"),
                "codegen/model.py must first learn to tell their modules apart",
            )


def field_without_fate(all_: Everything) -> Iterator[Finding]:
    """Every field of a message has an entry."""
    for file in all_.files.values():
        message = all_.api.messages.get(file.message)
        there = {*file.entries, *file.faulty}
        there |= misspelt(file.entries, message.fields) if message else set()
        renamed = all_.api.former.renamed_in(file.message)
        there |= {now for now, was in renamed.items() if was in there}
        for field in message.fields.values() if message else ():
            if field.name not in there:
                yield (
                    f"{file.message}.{field.name} ({field.in_words}) has no fate",
                    Place(file.file, file.message_place.line, file.message_place.column),
                    "give it an entry: copy, compute, handled_by, unmapped (see cri-codegen stubs)",
                )


def undecided_field(all_: Everything) -> Iterator[Finding]:
    """Every entry is decided by a person."""
    for message, field in undecided.fields(all_.api, all_.files):
        if message.name in all_.files and field.name in all_.files[message.name].entries:
            yield (
                f"{message.name}.{field.name} ({field.in_words}) is undecided",
                all_.files[message.name].entries[field.name].place,
                "decide its fate: copy, compute, handled_by, or another reason for unmapped",
            )


def unknown_field(all_: Everything) -> Iterator[Finding]:
    """Every entry is for a field of the message."""
    for file in all_.files.values():
        message = all_.api.messages.get(file.message)
        for entry in file.entries.values() if message else ():
            if message and entry.name not in message.fields:
                yield (
                    f"{file.message} has no field {entry.name}",
                    entry.place,
                    all_.api.former.hint(f"{file.message}.{entry.name}")
                    or nearest(entry.name, message.fields)
                    or one_of(message.fields),
                )


def with_without_input(all_: Everything) -> Iterator[Finding]:
    """``with`` names an entry of the same target whose function gets the field as an input."""
    for mapped in all_.mapped.values():
        for entry in mapped.file.entries.values():
            if entry.partner is None or entry.by is not None or entry.fate == "match":
                continue
            owner, name, place = mapped, entry.partner, entry.keys["with"]
            if entry.with_another:
                message, name = split_partner(entry.partner, all_.mapped)
                if message not in all_.mapped:
                    yield (
                        f"{entry.name} says with {entry.partner}, but no message is {message}",
                        place,
                        nearest(message, all_.mapped) or "write Message.field, or a field's name",
                    )
                    continue
                owner = all_.mapped[message]
            partner = owner.file.entries.get(name) or owner.file.targets.get(name)
            if name in owner.file.faulty:
                continue
            if partner is None or partner.by is None:
                known = [e.name for e in owner.file.entries.values() if e.by]
                yield (
                    f"{entry.name} says with {entry.partner}, which is not a computed entry of "
                    f"{owner.message.name}",
                    place,
                    nearest(name, known) or one_of([*known, *owner.file.targets]),
                )
                continue
            target = partner.name if name in owner.file.targets else partner.value
            if target != entry.value:
                yield (
                    f"{entry.name} computes {entry.value}, but {entry.partner} computes {target}",
                    place,
                    f"write compute: {target}",
                )
            if not _is_given(mapped, owner, entry, partner):
                yield (
                    f"{entry.name} is said to be an input of {entry.partner}, whose from: does not"
                    " list it",
                    place,
                    "list it there, or give it a fate of its own",
                )


def _is_given(mapped: Mapped, owner: Mapped, entry: Entry, partner: Entry) -> bool:
    """Whether an input of ``partner`` leads to the field of ``entry``."""
    if owner is mapped:
        return any(entry.name in given.path.split(".") for given in partner.inputs)
    field = f"{mapped.message.name}.{entry.name}"
    calls = [w.call for w in owner.writes if isinstance(w, Computed) and w.entry is partner]
    if not calls:  # its own faults are reported elsewhere
        return True
    return any(field in argument.source.fields for call in calls for argument in call.arguments)


def read_though_unmapped(all_: Everything) -> Iterator[Finding]:
    """What an entry reads has an effect, so it is not unmapped."""
    for mapped in all_.mapped.values():
        for field, reader in _inputs(mapped):
            message, _, name = field.partition(".")
            file = all_.files.get(message)
            entry = file.entries.get(name) if file is not None else None
            if entry is not None and entry.fate == "unmapped":
                yield (
                    f"{field} is unmapped, but the entry {reader.name} of {mapped.message.name}"
                    " reads it",
                    entry.place,
                    f"say with: {mapped.message.name}.{reader.name}, or do not read it",
                )


def _inputs(mapped: Mapped) -> Iterator[tuple[str, Entry]]:
    """Every field that an entry reads by a path, as ``Message.field``, and the entry."""
    for write in mapped.writes:
        if isinstance(write, Copied):
            yield from ((field, write.entry) for field in write.source.fields)
        elif isinstance(write, Computed):
            for argument in write.call.arguments:
                yield from ((field, write.entry) for field in argument.source.fields)


@dataclass(frozen=True, slots=True)
class _Writer:
    path: str
    entry: Entry
    target: Target


def two_writers(all_: Everything) -> Iterator[Finding]:
    """A target has one writer within a builder and those it calls, unless all declare the same
    merge."""
    called = {w.message for m in all_.mapped.values() for w in m.writes if isinstance(w, Descended)}
    reported: set[tuple[Place, Place]] = set()
    for name in all_.mapped.keys() - called:
        writers = sorted(_writers(all_.mapped, name, name, ()), key=lambda w: w.path)
        for number, one in enumerate(writers):
            for other in writers[:number]:
                reason = _clash(one, other)
                places = one.entry.place, other.entry.place
                if reason is None or places in reported:
                    continue
                reported |= {places, places[::-1]}
                first, second = sorted((one, other), key=lambda w: w.entry.place)
                yield (
                    f"{second.path} writes {second.target.path}, which {first.path} "
                    f"({first.entry.place}) writes too{reason}",
                    second.entry.value_place,
                    "keep one writer, or state the same merge in both",
                )


def _clash(one: _Writer, other: _Writer) -> str | None:
    """Why two writes conflict, as the end of a sentence; None if they do not."""
    left, right = one.target, other.target
    if left.root != right.root:
        return None
    if left.path == right.path and one.entry is other.entry:
        return None if one.entry.merge else " through another way"
    if left.key is not None or right.key is not None:
        if left.whole != right.whole:
            return None
        if left.key is not None and right.key is not None:
            return "" if left.path == right.path else None
        whole = other if left.key is not None else one
        return None if whole.entry.merge else ", as a whole and without merge"
    if left.path == right.path:
        if one.entry.merge and one.entry.merge == other.entry.merge:
            return None
        return "" if one.entry.merge is None else ", with another merge"
    inside = left.path.startswith(f"{right.path}.") or right.path.startswith(f"{left.path}.")
    return ", as a whole" if inside else None


def _writers(
    mapped: Mapping[str, Mapped], name: str, path: str, above: tuple[str, ...]
) -> Iterator[_Writer]:
    if name not in mapped or name in above:
        return
    for write in mapped[name].writes:
        here = f"{path}.{write.entry.name}"
        if isinstance(write, Descended):
            yield from _writers(mapped, write.message, here, (*above, name))
        elif isinstance(write, Copied | Computed):
            yield _Writer(here, write.entry, write.target)


def goes_in_circles(all_: Everything) -> Iterator[Finding]:
    """No message contains itself through ``copy: fields``."""
    for mapped in all_.mapped.values():
        for entry in mapped.file.entries.values():
            if entry.by_fields and _reaches(all_, mapped, entry, mapped.message.name, set()):
                yield (
                    f"{entry.name} leads back to {mapped.message.name}, so no builder or reader "
                    "would end",
                    entry.value_place,
                    "compute the target from the whole field",
                )


def _reaches(all_: Everything, mapped: Mapped, entry: Entry, goal: str, seen: set[str]) -> bool:
    """Whether ``copy: fields`` of an entry of ``mapped`` leads to the message ``goal``."""
    field = mapped.message.fields.get(entry.name)
    name = field.message if field is not None else None
    if name == goal:
        return True
    if name is None or name in seen or name not in all_.mapped:
        return False
    seen.add(name)
    below = all_.mapped[name]
    return any(
        _reaches(all_, below, e, goal, seen) for e in below.file.entries.values() if e.by_fields
    )


def each_without_merge(all_: Everything) -> Iterator[Finding]:
    """A builder that runs once for each item of a list may only add to its targets."""
    for mapped in all_.mapped.values():
        for write in mapped.writes:
            if not isinstance(write, Descended) or not write.each:
                continue
            for writer in _writers(all_.mapped, write.message, write.message, ()):
                if not writer.entry.merge:
                    yield (
                        f"{mapped.message.name}.{write.entry.name} is a list, so "
                        f"{writer.path} would write {writer.target.path} once for each item",
                        write.entry.value_place,
                        "state a merge there, or compute the target from the whole list",
                    )


def undeclared(all_: Everything) -> Iterator[Use]:
    """Every read of a received field by hand-written code that its entry does not name, also where
    it only leads to the fields below.

    Even a function that an entry calls must be given the field by a path, or the items that the
    messages become: what it reads out of a whole message, no entry tells.
    """
    for use in all_.uses:
        file = all_.files.get(use.message)
        if use.sets or file is None or not file.takes:
            continue
        entry = file.entries.get(use.field)
        if entry is not None and (entry.fate != "handled_by" or entry.value != use.function):
            yield use


def undeclared_reader(all_: Everything) -> Iterator[Finding]:
    """Only the function that a field's entry names may read the field."""
    for use in undeclared(all_):
        entry = all_.files[use.message].entries[use.field]
        if entry.fate == "handled_by" and not _is_clear(all_, use.message, use.field):
            continue  # its handler is at fault, which is reported
        yield (
            f"{use.function} reads {use.message}.{use.field}, which its entry does not say",
            Place(use.file, use.line, use.column),
            f"take a value of a plan, or what the entry in {entry.place.file}:{entry.place.line} "
            "decides",
        )


def unreached(all_: Everything) -> Iterator[Finding]:
    """A mapping must belong to a served RPC; otherwise its generated code would be dead."""
    if all_.rpcs is None or not all_.rpcs.services:
        return
    reached = _reached(all_, all_.rpcs) | _unclear(all_)
    for file in all_.files.values():
        for entry in [*file.entries.values(), *file.targets.values()]:
            decided = entry.fate != "unmapped" and not entry.by_rpc
            if decided and file.message in all_.api.messages and file.message not in reached:
                yield (
                    f"{entry.name} is decided, but no served RPC reaches {file.message}",
                    entry.place,
                    "serve the RPC, or make it unmapped: not-yet",
                )


def _unclear(all_: Everything) -> set[str]:
    """The messages of which faults elsewhere hide how they are used: those below a field whose
    entry has a fault, below a message whose file has one, and those of an RPC whose entry has one.
    """
    pending = [
        field.message
        for name, message in all_.api.messages.items()
        for field in message.fields.values()
        if field.message is not None and not _is_clear(all_, name, field.name)
    ]
    known = {rpc.name for rpc in all_.rpcs.all} if all_.rpcs is not None else set()
    for key, method in all_.api.rpcs.items():
        if key not in known:
            pending += [method.request, method.response]
    found: set[str] = set()
    while pending:
        name = pending.pop()
        if name not in found and name in all_.api.messages:
            found.add(name)
            below = all_.api.messages[name].fields.values()
            pending += [field.message for field in below if field.message is not None]
    return found


def _is_clear(all_: Everything, message: str, field: str) -> bool:
    """Whether the entry of a field could be read and resolved; no entry counts as unmapped."""
    if all_.api.messages[message].module in all_.broken:
        return False
    mapped = all_.mapped.get(message)
    if mapped is None:
        return True
    if field in mapped.file.faulty:
        return False
    steps = (*mapped.writes, *mapped.reads, *mapped.matches)
    return field not in mapped.file.entries or any(step.entry.name == field for step in steps)


def _reached(all_: Everything, rpcs: Rpcs) -> set[str]:
    """The messages that served RPCs receive or return, through fields that are mapped."""
    pending = [
        name
        for rpc in rpcs.all
        if not rpc.issue
        for name in (rpc.method.request, rpc.method.response)
    ]
    reached: set[str] = set()
    while pending:
        name = pending.pop()
        if name in reached or name not in all_.files:
            continue
        reached.add(name)
        for entry in all_.files[name].entries.values():
            field = all_.api.messages[name].fields.get(entry.name)
            if entry.fate != "unmapped" and field is not None and field.message is not None:
                pending.append(field.message)
    return reached


def plan_without_writer(all_: Everything) -> Iterator[Finding]:
    """Each property of a plan is filled by an entry that the plan's message leads to."""
    if all_.broken:  # a file that could not be read may fill them
        return
    files = all_.files.values()
    entries = [
        entry for file in files for entry in (*file.entries.values(), *file.targets.values())
    ]
    written = {word for entry in entries for word in (entry.name, entry.value)}
    faulty = any(file.faulty for file in files)
    for plan in (*all_.plans.values(), *all_.payloads):
        if plan.message not in all_.api.messages:
            continue
        reached = list(planned(all_.mapped, plan, plan.message, ()))
        filled = {value.field.name for value in reached}
        for name in plan.fields:
            if name not in filled and not faulty:
                target = f"{plan.root}[{name}]" if "." in name else f"{plan.root}.{name}"
                if target in written:  # by an entry with another fault
                    continue
                yield (
                    f"no entry below {plan.message} fills {name}",
                    plan.places[name],
                    f"write copy: {target} or compute: {target} in an entry, or remove it",
                )


def plan_without_reader(all_: Everything) -> Iterator[Finding]:
    """An entry that writes to a plan must be reachable from the plan's message."""
    filled = {
        id(value.write)
        for plan in all_.plans.values()
        for value in planned(all_.mapped, plan, plan.message, ())
    }
    unclear = _unclear(all_)
    listed = {  # there may be several, which is reported elsewhere
        w.message
        for m in all_.mapped.values()
        for w in m.writes
        if isinstance(w, Descended) and w.each
    }
    for mapped in all_.mapped.values():
        for write in mapped.writes:
            if isinstance(write, Copied | Computed) and write.target.root == "plan":
                if id(write) in filled or mapped.message.name in listed:
                    continue
                [name] = write.target.steps
                having = [plan.message for plan in all_.plans.values() if name in plan.fields]
                if mapped.message.name in unclear or not all_.api.messages.keys() >= set(having):
                    continue
                yield (
                    f"{write.target.path} belongs to what is planned of {' and '.join(having)}, "
                    f"which does not lead to {mapped.message.name}",
                    write.entry.value_place,
                    "write copy: fields on the way there, or give the property to another plan",
                )


def plan_needs_facts(all_: Everything) -> Iterator[Finding]:
    """The plan of a request is computed by the generated handler, which has only the request."""
    if all_.rpcs is None:
        return
    for plan in plans_of_requests(all_.rpcs, all_.plans).values():
        for value in planned(all_.mapped, plan, plan.message, ()):
            write = value.write
            sources = (
                [write.source]
                if isinstance(write, Copied)
                else [argument.source for argument in write.call.arguments]
            )
            for source in sources:
                if source.root is not None:
                    yield (
                        f"{write.target.path} is made of {source.path}, which the handler of a "
                        f"{plan.message} does not know",
                        write.entry.value_place,
                        "make it of fields alone, and the rest where the fact is known",
                    )


RULES: Mapping[str, Callable[[Everything], Iterator[Finding]]] = {
    "message-without-mapping": unmapped_message,
    "unknown-message": unknown_message,
    "misnamed-file": misnamed_file,
    "same-module": same_module,
    "field-without-fate": field_without_fate,
    "undecided-field": undecided_field,
    "unknown-field": unknown_field,
    "with-without-input": with_without_input,
    "read-though-unmapped": read_though_unmapped,
    "two-writers": two_writers,
    "each-without-merge": each_without_merge,
    "goes-in-circles": goes_in_circles,
    "undeclared-reader": undeclared_reader,
    "unreached-entry": unreached,
    "plan-without-writer": plan_without_writer,
    "plan-without-reader": plan_without_reader,
    "plan-needs-facts": plan_needs_facts,
}


def check(everything: Everything, problems: Problems) -> None:
    """Record every fault that any rule finds."""
    for rule, find in RULES.items():
        for message, place, hint in find(everything):
            problems.add(message, place, hint, rule)
