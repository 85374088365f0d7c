"""From a target back to the entries that decide it, each with the full path of its field."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from codegen.model import Computed, Descended, Left, Mapped, Origin, written


def origins(mapped: Mapping[str, Mapped]) -> dict[str, list[Origin]]:
    """{target: every entry that decides it}, each with the full path of its field."""
    called = {w.message for m in mapped.values() for w in m.writes if isinstance(w, Descended)}
    found: dict[str, list[Origin]] = {}
    for name in sorted(mapped.keys() - called):
        for path in _ways(mapped, name):
            for target, origin in _origins(mapped, name, path):
                found.setdefault(target, []).append(origin)
    for target, origin in _inputs_of_others(mapped):
        found.setdefault(target, []).append(origin)
    return dict(sorted(found.items()))


def _inputs_of_others(mapped: Mapping[str, Mapped]) -> Iterator[tuple[str, Origin]]:
    """The fields that an entry of a message around theirs takes: they count for its target only
    where that message contains them."""
    for one in mapped.values():
        for entry in one.file.entries.values():
            if not entry.with_another or entry.partner is None:
                continue
            message, _, name = entry.partner.partition(".")
            taking = [w for w in mapped[message].writes if w.entry.name == name]
            paths = {
                ".".join(argument.source.steps)
                for write in taking
                if isinstance(write, Computed)
                for argument in write.call.arguments
                if argument.source.root is None
                and argument.source.fields[-1:] == (f"{one.message.name}.{entry.name}",)
            } or {f"{way}.{entry.name}" for way in _leading(mapped, message, one.message.name, ())}
            for way in _ways(mapped, message):
                for path in sorted(paths):
                    yield entry.value, Origin(f"{way}.{path}", entry, one.file.file)


def _leading(
    mapped: Mapping[str, Mapped], name: str, to: str, above: tuple[str, ...]
) -> Iterator[str]:
    """The paths of fields from one message to another below it."""
    for field in mapped[name].message.fields.values():
        held = field.message or ""
        if held == to:
            yield field.name
        elif held in mapped and held not in above:
            below = _leading(mapped, held, to, (*above, name))
            yield from (f"{field.name}.{path}" for path in below)


def _ways(mapped: Mapping[str, Mapped], name: str, below: tuple[str, ...] = ()) -> list[str]:
    """The paths of a message whose entries nothing else applies.

    Normally the message itself. If it becomes an item: the fields that contain it, starting from
    the first message for which that is not true.
    """
    part = bool(mapped[name].items)
    inside = [
        (other, entry, isinstance(write, Descended))
        for other in mapped.values()
        for write in other.writes
        if (entry := write.entry).name in other.message.fields
        and other.message.fields[entry.name].message == name
        and entry.fate != "unmapped"
    ]
    applied = any(by_entries for *_, by_entries in inside)
    if not inside or not (part or applied) or name in below:
        return [name]
    ways = [
        f"{way}.{entry.name}"
        for other, entry, _ in inside
        for way in _ways(mapped, other.message.name, (*below, name))
    ]
    return sorted(set(ways))


def _origins(mapped: Mapping[str, Mapped], name: str, path: str) -> Iterator[tuple[str, Origin]]:
    one = mapped[name]
    for write in one.writes:
        entry = write.entry
        here = f"{path}.{entry.name}"
        if isinstance(write, Descended) and write.message in mapped:
            yield from _origins(mapped, write.message, here)
        elif entry.name in one.file.targets:
            origin = Origin(path, entry, one.file.file)
            yield from ((target, origin) for target in _places(one, entry.name))
        elif written(write) is not None or (
            isinstance(write, Left) and entry.partner is not None and not entry.with_another
        ):
            origin = Origin(here, entry, one.file.file)
            yield from ((target, origin) for target in _places(one, entry.value))


def _places(one: Mapped, target: str) -> Iterator[str]:
    """The full paths of a target: for an item's key, one in each list that the item is for."""
    if not one.items:
        yield target
    for item in one.items:
        key = item.key(target)
        if key is not None:
            yield from (f"{of}{'[]' * item.listed}{f'.{key}' if key else ''}" for of in item.of)
