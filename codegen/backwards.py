"""From a target, a source or a function back to the entries of the mapping."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from codegen import provenance
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

WRITTEN, READ, CALLED, HANDLES = "written by", "read for", "called for", "handles"
CALLS = (CALLED, HANDLES)
"""The roles of functions."""


@dataclass(frozen=True, slots=True)
class Link:
    """How a name relates to an entry."""

    name: str
    """The whole target, source or function."""
    role: str
    """``WRITTEN``, ``READ``, ``CALLED`` or ``HANDLES``."""
    field: str
    """The path of the field; for an entry under ``targets``, its message."""
    entry: Entry


def links(found: Translation, path: str) -> list[Link]:
    """Every entry that writes, reads or calls ``path``; for a target or source also those of the
    paths above or below it. Sorted by name."""
    return [
        link
        for link in every(found)
        if link.name == path
        or (link.role in (WRITTEN, READ) and (_covers(path, link.name) or _covers(link.name, path)))
    ]


def every(found: Translation) -> list[Link]:
    """Every link of the mapping, once, sorted by name."""
    links = [*_targets(found), *_sources(found), *_functions(found)]
    once = {(link.name, link.role, link.field, link.entry.place): link for link in links}
    return [once[key] for key in sorted(once)]


def names(found: Translation) -> list[str]:
    """Every name in ``links``."""
    return sorted({link.name for link in every(found)})


def _covers(above: str, below: str) -> bool:
    return below == above or below.startswith((f"{above}.", f"{above}["))


def _targets(found: Translation) -> Iterator[Link]:
    for target, origins in provenance.origins(found.mapped).items():
        for origin in origins:
            yield Link(target, WRITTEN, origin.field, origin.entry)


def _sources(found: Translation) -> Iterator[Link]:
    for mapped in found.mapped.values():
        for source, entry in read(mapped):
            if source.root is not None:
                yield Link(source.path, READ, _field(mapped, entry), entry)


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
                yield Link(entry.by, CALLED, field, entry)
            if entry.back is not None:
                yield Link(entry.back.by, CALLED, field, entry)
            if entry.fate == "handled_by":
                yield Link(entry.value, HANDLES, field, entry)


def _field(mapped: Mapped, entry: Entry) -> str:
    of_field = mapped.file.entries.get(entry.name) is entry
    return f"{mapped.message.name}.{entry.name}" if of_field else mapped.message.name
