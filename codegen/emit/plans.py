"""generated/plans.py: for each plan, its class and the function that creates it from a config or a
request."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from codegen.emit.python import built, called, imports, value
from codegen.emit.shared import Shared, shared
from codegen.emit.types import annotation as plain
from codegen.emit.types import docstring
from codegen.model import Call, Computed, Kind, Source
from codegen.plan import Import, Parameter, Planned, PlanOf


@dataclass(frozen=True, slots=True)
class FieldText:
    """One attribute of a plan, and the keyword argument that sets it."""

    declared: str
    doc: str
    comment: str
    keyword: str


@dataclass(frozen=True, slots=True)
class PlanText:
    """The variables of the template."""

    function: str
    python_class: str
    message: str
    doc: str
    parameters: tuple[Parameter, ...]
    lines: list[str]
    """The messages that are read more than once, as local variables."""
    fields: list[FieldText]


def all_imports(plans: Iterable[PlanOf]) -> list[str]:
    """The imports of the file that contains all plans."""
    wanted = {Import("dataclasses", "dataclass")}
    for plan in plans:
        wanted |= plan.names.imports
        if any(planned.secret for planned in plan.values):
            wanted.add(Import("dataclasses", "field"))
    return imports(wanted)


def text(plan: PlanOf) -> PlanText:
    """One plan."""
    read = shared([s for planned in plan.values for s in sources(planned)], plan.names.taken)
    return PlanText(
        plan.plan.function,
        plan.plan.python_class,
        plan.plan.message,
        docstring(plan.plan.doc),
        plan.names.parameters,
        read.lines,
        [_field(planned, plan, read) for planned in plan.values],
    )


def sources(planned: Planned) -> list[Source]:
    """What a value is made of, as seen from the plan's message."""
    if isinstance(planned.write, Computed):
        return [a.source for a in below_call(planned.write.call, planned.path).arguments]
    return [below(planned.write.source, planned.path)]


def _field(planned: Planned, plan: PlanOf, read: Shared) -> FieldText:
    name, entry = planned.field.attribute, planned.write.entry
    if isinstance(planned.write, Computed):
        call = read.seen_by(below_call(planned.write.call, planned.path))
        made = called(call, plan.names, {})
        comment = f"{planned.write.target.path}, by {entry.by}"
    else:
        source = below(planned.write.source, planned.path)
        wraps = {"list": "list({})", "map": "dict({})"}.get(planned.field.kind.name, "{}")
        text, items = value(read.seen(source)), planned.write.items
        made = wraps.format(text) if items is None else built(items, plan.names, text)
        comment = f"{planned.write.target.path} <- {'.'.join([source.root or '', *source.steps])}"
    hidden = " = field(repr=False)" if planned.secret else ""
    return FieldText(
        f"{name}: {annotation(planned.field.kind)}{hidden}",
        docstring(planned.field.doc),
        comment.replace("<- .", "<- "),
        f"{name}={made}",
    )


def annotation(kind: Kind) -> str:
    """The annotation of a kind; records are classes of facts.py, messages those of the API."""
    if kind.optional:
        return f"{annotation(replace(kind, optional=False))} | None"
    if kind.name == "list":
        return f"list[{annotation(kind.of[0])}]"
    home = {"record": "facts.", "message": "api_pb2."}.get(kind.name)
    return f"{home}{kind.ref}" if home is not None else plain(kind)


def below_call(call: Call, path: tuple[str, ...]) -> Call:
    """The call of a transform, its inputs as seen from the plan's message."""
    arguments = (replace(a, source=below(a.source, path)) for a in call.arguments)
    return replace(call, arguments=tuple(arguments))


def below(source: Source, path: tuple[str, ...]) -> Source:
    """A field of the entry's message, addressed from the plan's message."""
    if source.root is not None:
        return source
    told_by = (*path, *source.told_by) if source.told_by else ()
    return replace(source, steps=(*path, *source.steps), told_by=told_by)
