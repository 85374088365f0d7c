"""From a target, a source or a function back to the entries of the mapping."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from codegen import plan
from codegen.generate import Translation
from codegen.model import (
    Computed,
    ComputedBack,
    Copied,
    CopiedBack,
    Descended,
    Entry,
    Mapped,
    Source,
)


@dataclass(frozen=True, slots=True)
class Link:
    """How a name relates to an entry."""

    name: str
    """The whole target, source or function."""
    role: str
    """``written by``, ``read for``, ``called for``, ``handles`` or ``also reads``."""
    field: str
    """The path of the field; for an entry under ``targets``, its message."""
    entry: Entry


def links(found: Translation, path: str) -> list[Link]:
    """Every entry that writes, reads or calls ``path``; for a target or source also those of the
    paths above or below it. Sorted by name."""
    every = [*_targets(found), *_sources(found)]
    near = [link for link in every if _covers(path, link.name) or _covers(link.name, path)]
    near += [link for link in _functions(found) if link.name == path]
    once = {(link.name, link.role, link.field, link.entry.place): link for link in near}
    return [once[key] for key in sorted(once)]


def names(found: Translation) -> list[str]:
    """Every name in ``links``."""
    every = [*_targets(found), *_sources(found), *_functions(found)]
    return sorted({link.name for link in every})


def _covers(above: str, below: str) -> bool:
    return below == above or below.startswith((f"{above}.", f"{above}["))


def _targets(found: Translation) -> Iterator[Link]:
    for target, origins in plan.origins(found.mapped).items():
        for origin in origins:
            yield Link(target, "written by", origin.field, origin.entry)


def _sources(found: Translation) -> Iterator[Link]:
    for mapped in found.mapped.values():
        for source, entry in read(mapped):
            if source.root is not None:
                yield Link(source.path, "read for", _field(mapped, entry), entry)


def read(mapped: Mapped) -> Iterator[tuple[Source, Entry]]:
    """Every source that an entry of the message reads."""
    for step in [*mapped.writes, *mapped.reads]:
        match step:
            case Copied(entry=entry, source=source) | CopiedBack(entry=entry, source=source):
                yield source, entry
            case Computed(entry=entry, call=call) | ComputedBack(entry=entry, call=call):
                yield from ((argument.source, entry) for argument in call.arguments)
            case Descended(entry=entry, of=of) if of is not None:
                yield of, entry


def _functions(found: Translation) -> Iterator[Link]:
    for mapped in found.mapped.values():
        for entry in [*mapped.file.entries.values(), *mapped.file.targets.values()]:
            field = _field(mapped, entry)
            if entry.by is not None:
                yield Link(entry.by, "called for", field, entry)
            if entry.back is not None:
                yield Link(entry.back.by, "called for", field, entry)
            if entry.fate == "handled_by":
                yield Link(entry.value, "handles", field, entry)


def _field(mapped: Mapped, entry: Entry) -> str:
    of_field = mapped.file.entries.get(entry.name) is entry
    return f"{mapped.message.name}.{entry.name}" if of_field else mapped.message.name
