"""``explain`` and ``review``: the mapping, formatted for a terminal."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Iterator
from itertools import groupby, pairwise

from codegen import backwards, plan, undecided
from codegen.errors import Place, SpecError, nearest, shown
from codegen.generate import Translation, counts
from codegen.mapping_diff import rule_text
from codegen.model import Api, Entry, Field, Mapped, Message, is_planned, written


def explain(found: Translation, path: str, others: Iterable[str] = ()) -> str:
    """Everything about one field: ``Order.lines.amount``, ``OrderLine.amount``, or a
    bare field name (all fields with that name); or every field of a message, a line each.

    If it is not a field, the reverse: every field that decides a target (``plan.grace``,
    ``linux.resources``), that is read from a source (``usage.memory``), or that a function reads.
    ``others`` are names that may have been meant.
    """
    if path in found.mapped:
        return "\n".join(_message(found.mapped[path]))
    fields = list(_find(found.api, path))
    links = backwards.links(found, path) if not fields else []
    if not fields and not links:
        every = [f"{m.name}.{f}" for m in found.api.messages.values() for f in m.fields]
        raise SpecError(
            f"the {found.api.name} has no field {shown(path)}, and the mapping no target, source or"
            " function",
            Place("explain"),
            nearest(path, [*others, *every, *backwards.names(found)])
            or f"write Message.field, as in {every[0]}, or a target",
        )
    told = [_explained(found, message, field) for message, field in fields]
    told += ["\n".join(lines) for _, lines in _linked(found, links)]
    return "\n\n".join(told)


def _linked(found: Translation, links: list[backwards.Link]) -> Iterator[tuple[str, list[str]]]:
    """What is said of each name."""
    for name, group in groupby(links, key=lambda link: link.name):
        lines = [name, *_planned(found, name)]
        for link in group:
            lines.append(f"  {link.role:10} {link.field}: {link.entry.in_words}")
            place = f"{link.entry.place.file}:{link.entry.place.line}"
            lines += textwrap.wrap(
                f"{link.entry.why} [{place}]",
                100,
                initial_indent=" " * 13,
                subsequent_indent=" " * 13,
                break_long_words=False,
                break_on_hyphens=False,
            )
        yield name, lines


def _planned(found: Translation, target: str) -> Iterator[str]:
    """The plans that have a value, and its meaning."""
    name = target.removeprefix("plan.")
    for one in found.plans.values() if name != target else ():
        if name in one.fields:
            field = one.fields[name]
            yield f"  value      {one.python_class}.{name}, {field.kind}: {field.doc}"


def review(found: Translation) -> str:
    """Every entry on one line, with the counts by fate and the fields not supported yet."""
    counted, api = counts(found.files.values()), found.api
    lines = [f"{counted.total} fields in {len(found.files)} messages, {api.name} {api.version}"]
    lines += [f"{count:5} {fate}" for fate, count in counted.fates.items()]
    lines += ["", *counted.lines()]
    waiting = [
        (mapped, entry)
        for mapped in found.mapped.values()
        for entry in mapped.file.entries.values()
        if entry.value == "not-yet" and entry.fate == "unmapped"
    ]
    lines += ["", f"not yet ({len(waiting)}):"]
    lines += [f"  {m.message.name}.{e.name}: {e.issue}" for m, e in waiting]
    open_ = list(undecided.fields(found.api, found.files))
    if open_:
        lines += ["", f"undecided ({len(open_)}):"]
        lines += [
            f"  {m.name}.{f.name}: {f.kind}, since {found.api.name} {f.since}" for m, f in open_
        ]
    for mapped in found.mapped.values():
        lines += ["", *_message(mapped)]
    return "\n".join(lines)


def _message(mapped: Mapped) -> Iterator[str]:
    """A line for each field of a message, and for each target without one."""
    item = f", item of {mapped.file.items_in_words}" if mapped.file.items else ""
    yield f"{mapped.message.name} ({mapped.file.flow}{item}, {mapped.file.file})"
    for entry in mapped.file.entries.values():
        yield _line(entry)
    for entry in mapped.file.targets.values():
        yield f"  → {entry.name}: {entry.in_words}"


def _line(entry: Entry) -> str:
    rules = f"  [{'; '.join(map(rule_text, entry.rules))}]" if entry.rules else ""
    return f"  {entry.name}: {entry.in_words}{rules}"


def _find(api: Api, path: str) -> Iterator[tuple[Message, Field]]:
    head, *rest = path.split(".")
    if not rest:
        for message in api.messages.values():
            if head in message.fields:
                yield message, message.fields[head]
        return
    at = api.messages.get(head)
    for step, after in pairwise([*rest, ""]):
        if at is None or step not in at.fields:
            return
        field = at.fields[step]
        if not after:
            yield at, field
        at = api.messages.get(field.message or "")


def _explained(found: Translation, message: Message, field: Field) -> str:
    kind = (
        f"{field.kind}, number {field.number}, since {found.api.name} {field.since}"
        + ", deprecated" * field.deprecated
        + ", never logged" * field.redacted
    )
    mapped = found.mapped.get(message.name)
    if mapped is None or field.name not in mapped.file.entries:
        fate = "undecided: it has no entry (cri-codegen stubs adds one)"
        return f"{message.name}.{field.name}\n  {'type':10} {kind}\n  {'fate':10} {fate}"
    entry = mapped.file.entries[field.name]
    rows = {
        "type": kind,
        "fate": entry.in_words,
        "item of": mapped.file.items_in_words,
        "inputs": ", ".join(given.path for given in entry.inputs),
        "also for": ", ".join(_also_for(found, mapped, entry)),
        "merge": entry.merge or "",
        "rules": "; ".join(map(rule_text, entry.rules)),
        "read back": f"by {entry.back.by}" if entry.back else "",
        "why": entry.why,
        "like": entry.like or "",
        "changed": entry.changed or "",
        "issue": entry.issue or "",
        "entry": f"{entry.place.file}:{entry.place.line}",
        "generated": ", ".join(_files(found, mapped)),
    }
    lines = [f"{message.name}.{field.name}"]
    for name, value in rows.items():
        if value:
            lines += textwrap.wrap(
                value, 100, initial_indent=f"  {name:10} ", subsequent_indent=" " * 13
            )
    return "\n".join(lines)


def _also_for(found: Translation, mapped: Mapped, entry: Entry) -> Iterator[str]:
    """Targets of other entries that take the field as an input; those of other messages, unless
    the entry itself names them, with the message."""
    name = f"{mapped.message.name}.{entry.name}"
    once: dict[str, None] = {}
    for one in found.mapped.values():
        for source, other in backwards.read(one):
            taken = name in (source.fields if one is mapped else source.fields[-1:])
            if not taken or other is entry or entry.partner == f"{one.message.name}.{other.name}":
                continue
            target = other.name if other.name in one.file.targets else other.value
            once[target if one is mapped else f"{target} ({one.message.name})"] = None
    yield from once


def _files(found: Translation, one: Mapped) -> Iterator[str]:
    mapped, settings = found.mapped, found.settings
    planned = {
        settings.document.folder: [b.mapped for b in plan.builders(mapped, settings)],
        "items": [i.mapped for i in plan.items(mapped, settings)],
        "filters": [f.mapped for f in plan.filters(mapped, settings)],
        "statuses": [r.mapped for r in plan.readers(mapped, settings)],
        "validators": [v.mapped for v in plan.validators(mapped, settings)],
    }
    told = {target.root for w in one.writes if (target := written(w)) and is_planned(w)}
    if "plan" in told:
        yield f"{settings.output}/plans.py"
    for word in sorted({root.partition(".")[0] for root in told - {"plan"}}):
        yield f"{settings.output}/{word}.py"
    for folder, messages in planned.items():
        if any(m is one for m in messages):
            yield f"{settings.output}/{folder}/{one.module}.py"
