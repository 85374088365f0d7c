"""A state machine as a drawing: states are columns, every event a line from state to state.

Nothing can overlap in this layout, whatever the machine: each line has a row of its own.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from codegen.lifecycle import Machine, Transition

_COLUMN, _ROW, _HEAD = 132, 34, 44
_GAP = 24
_LETTER, _SMALL = 7.5, 6.6
"""The widths of a letter of an event's name, and of what it emits."""
GONE = "(gone)"


@dataclass(frozen=True, slots=True)
class Column:
    """A state, or what follows the last one."""

    name: str
    x: int
    ends: bool = False


@dataclass(frozen=True, slots=True)
class Line:
    """One event, from one or several states to one."""

    event: str
    y: int
    sources: tuple[int, ...]
    """The x of each state that it leaves."""
    target: int
    emits: str
    persists: str
    first: bool
    """Whether it is the first line of its event."""
    stays: bool
    """Whether the state remains what it was."""


@dataclass(frozen=True, slots=True)
class Drawing:
    """The coordinates of everything in the drawing."""

    columns: tuple[Column, ...]
    lines: tuple[Line, ...]
    width: int
    height: int
    head: int = _HEAD
    column: int = _COLUMN
    row: int = _ROW


def drawing(machine: Machine) -> Drawing:
    """The states in the order of the specification, then the end; the events likewise."""
    told = [", ".join(machine.created_emits), *(move.emits or "" for move in machine.transitions)]
    before_states = int(max(len(event.name) for event in machine.events) * _LETTER) + _GAP
    after_states = int(max(map(len, told)) * _SMALL) + _GAP
    names = [state.name for state in machine.states]
    ends = any(move.target is None for move in machine.transitions)
    columns = [
        Column(name, before_states + _COLUMN // 2 + number * _COLUMN, name == GONE)
        for number, name in enumerate([*names, *([GONE] if ends else [])])
    ]
    at = {column.name: column.x for column in columns}
    lines = []
    before = ""
    begun = _HEAD + _ROW // 2
    created = at[machine.created]
    emitted = ", ".join(machine.created_emits)
    lines.append(Line("created", begun, (), created, emitted, "", True, False))
    for number, moves in enumerate(_grouped(machine), 1):
        move = moves[0]
        lines.append(
            Line(
                move.event.name,
                begun + number * _ROW,
                tuple(sorted(at[one.source] for one in moves)),
                at[move.target or GONE],
                move.emits or "",
                move.persists or "",
                move.event.name != before,
                move.source == move.target,
            )
        )
        before = move.event.name
    width = before_states + len(columns) * _COLUMN + after_states
    return Drawing(tuple(columns), tuple(lines), width, _HEAD + (len(lines) + 1) * _ROW - _ROW // 2)


def _grouped(machine: Machine) -> Iterator[list[Transition]]:
    """The transitions of one event that have the same effect, in the order of their first."""
    groups: dict[tuple[object, ...], list[Transition]] = {}
    for move in machine.transitions:
        stays = move.source == move.target
        key = (move.event.name, move.target, move.emits, move.persists, stays)
        groups.setdefault(key, []).append(move)
    order = [event.name for event in machine.events]
    yield from sorted(groups.values(), key=lambda moves: order.index(moves[0].event.name))
