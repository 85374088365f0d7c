"""generated/<payload>.py: a function for each object of a payload."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from codegen.emit.plans import below, below_call
from codegen.emit.python import built, called, imports, is_set, quoted, value
from codegen.emit.types import docstring
from codegen.model import Computed, Source
from codegen.plan import Import, Planned, PlanOf


@dataclass(frozen=True, slots=True)
class PayloadText:
    """The variables of the template."""

    name: str
    message: str
    doc: str
    leaves_out: bool
    """Whether empty values are omitted."""
    keys: list[str]
    """A comment and the key with its value, for each property."""


def all_imports(payload: Iterable[PlanOf]) -> list[str]:
    """The imports of the file."""
    wanted = {Import("typing", "Any")}
    for one in payload:
        wanted |= one.names.imports
    return imports(wanted)


def text(payload: PlanOf) -> PayloadText:
    """One object."""
    plan = payload.plan
    keys = [line for planned in payload.values for line in _key(planned, payload)]
    return PayloadText(plan.name, plan.message, docstring(plan.doc), "." not in plan.root, keys)


def _key(planned: Planned, payload: PlanOf) -> list[str]:
    write = planned.write
    key, path = quoted(planned.field.name), write.target.path
    if isinstance(write, Computed):
        made = called(below_call(write.call, planned.path), payload.names, {})
        return [f"# {path}, by {write.entry.by}", f"{key}: {made},"]
    source = below(write.source, planned.path)
    made = _copied(source, planned, payload)
    if write.condition is not None:
        made = f"{made} if {is_set(source)} else None"
    return [f"# {path} <- {'.'.join(source.steps)}", f"{key}: {made},"]


def _copied(source: Source, planned: Planned, payload: PlanOf) -> str:
    """A collection is copied, not shared; a message with items becomes its items."""
    kind = planned.field.kind.name
    items = planned.write.items if not isinstance(planned.write, Computed) else None
    if items is not None:
        return built(items, payload.names, value(source))
    wrap = {"list": "list", "map": "dict"}.get(kind)
    return f"{wrap}({value(source)})" if wrap else value(source)
