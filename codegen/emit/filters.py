"""generated/filters/<message>.py: one step for each field that a filter compares."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from codegen.emit.python import imports, quoted, value
from codegen.model import Compared, Descended, Left, Match, Source, snake
from codegen.plan import Filter


@dataclass(frozen=True, slots=True)
class FilterText:
    """The variables of the template."""

    message: str
    of: str
    imports: list[str]
    lines: list[str]
    left: list[str]
    """Fields that hand-written functions evaluate."""
    empty: str
    """The expression that is true if the filter passes every item."""


def text(planned: Filter) -> FilterText:
    """The filter of one message."""
    matches = planned.mapped.matches
    return FilterText(
        planned.mapped.message.name,
        planned.mapped.file.of or "",
        imports(planned.imports),
        list(_steps(matches)),
        [match.entry.name for match in matches if match.entry.fate == "handled_by"],
        " and ".join(map(_is_empty, _comparing(matches))),
    )


def _comparing(matches: tuple[Match, ...]) -> Iterator[Compared | Descended]:
    """A comparison; an equality with presence has no empty value that would pass."""
    found = [match for match in matches if not isinstance(match, Left)]
    equal = [m for m in found if isinstance(m, Compared) and m.entry.value == "equal"]
    yield from equal[:1] or found


def _is_empty(match: Compared | Descended) -> str:
    """The condition under which a part of the filter passes every item."""
    name = match.entry.name
    if isinstance(match, Descended):
        below = f"{snake(match.message)}.selects_all(src.{name})"
        return f"(not src.HasField({quoted(name)}) or {below})"
    return "False" if match.entry.value == "equal" else f"not {value(match.source)}"


def _steps(matches: tuple[Match, ...]) -> Iterator[str]:
    """The statements that leave out what does not match; an empty part leaves out nothing."""
    for match in matches:
        name = match.entry.name
        match match:
            case Left(entry):
                handler = f" {entry.value}" if entry.fate == "handled_by" else ""
                yield f"# {name}: {entry.fate_in_words}{handler}"
            case Compared(entry, source, against):
                yield f"# {name}: {_WORDS[entry.value]} {entry.partner}"
                kept = f"items = [item for item in items if {_HOLDS[entry.value](source, against)}]"
                if entry.value == "equal":
                    yield kept
                else:
                    yield f"if {value(source)}:"
                    yield f"    {kept}"
            case Descended(message=message):
                yield f"# {name}: by the entries of {message}"
                yield f"if src.HasField({quoted(name)}):"
                yield f"    items = {snake(message)}.selected(src.{name}, items)"


_WORDS = {"prefix": "a prefix of", "equal": "equal to", "subset": "a subset of"}
_HOLDS: Mapping[str, Callable[[Source, Source], str]] = {
    "prefix": lambda source, against: f"{value(against)}.startswith({value(source)})",
    "equal": lambda source, against: f"{value(source)} == {value(against)}",
    "subset": lambda source, against: f"{value(source)}.items() <= {value(against)}.items()",
}
