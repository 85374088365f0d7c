"""Response messages: where each field of a status is read from."""

from __future__ import annotations

from dataclasses import replace

from codegen import checks, kinds
from codegen.errors import SpecError
from codegen.model import (
    ComputedBack,
    CopiedBack,
    Descended,
    Entry,
    Field,
    Kind,
    Left,
    Read,
    Source,
)
from codegen.resolve import handlers, inputs
from codegen.resolve.scope import Scope, check_when


def of_field(scope: Scope, entry: Entry) -> Read:
    """What a reader does for one field."""
    field = scope.message.fields[entry.name]
    match entry.fate:
        case "unmapped":
            return Left(entry)
        case "handled_by":
            if not scope.file.takes:
                handlers.check(scope, entry)
            return Left(entry)
        case "copy" if entry.by_fields:
            return _descended(scope, entry, field)
        case "copy" if scope.file.takes:
            return _reversed(scope, entry, field)
        case "copy":
            return _copied(scope, entry, field)
    return _computed(scope, entry, field)


def _computed(scope: Scope, entry: Entry, field: Field) -> ComputedBack:
    by, given, place = entry.by, entry.inputs, entry.place
    if scope.file.takes:
        if entry.back is None:
            raise SpecError(
                f"{entry.name} is computed and of flow both, but nothing says how it is read back",
                entry.place,
                "add back: {by: …, from: […]}",
                "no-way-back",
            )
        by, given, place = entry.back.by, entry.back.inputs, entry.back.place
    elif entry.value != entry.name:
        raise SpecError(
            f"{entry.name} of flow out computes {entry.value}, but fills only itself",
            entry.value_place,
            f"write compute: {entry.name}",
            "unknown-target",
        )
    call = inputs.call(scope, by or "", place, given, None)
    returns = replace(call.returns, optional=False)
    check_value(entry, f"{by} cannot fill {entry.name}", returns, field.kind)
    return ComputedBack(entry, call, by or "")


def _descended(scope: Scope, entry: Entry, field: Field) -> Descended:
    nested = scope.nested(entry, field)
    of = _of(scope, entry, field)
    if nested in scope.files and not scope.files[nested].gives:
        raise SpecError(
            f"{entry.name} is answered, but {scope.files[nested].file} is of flow in",
            entry.value_place,
            "make its flow out or both",
            "flows-differ",
        )
    parts = _parts(scope, of) if of is not None else frozenset()
    return Descended(entry, nested, each=field.repeated, of=of, parts=parts)


def _parts(scope: Scope, of: Source) -> frozenset[str]:
    """The attributes of a record, or of the items of a list, that are context roots by name and
    type."""
    kind = of.kind.of[0] if of.kind.name == "list" else of.kind
    if kind.name != "record":
        return frozenset()
    roots = scope.paths.sources.roots(reading=True)
    fields = scope.paths.sources.records[kind.ref].fields
    return frozenset(name for name, found in fields.items() if roots.get(name) == found)


def _of(scope: Scope, entry: Entry, field: Field) -> Source | None:
    """The object whose fields are read: for a list a list of records, else anything that may be
    None."""
    if entry.of is None and field.kind.of:
        raise SpecError(
            f"{entry.name} is {field.kind}, and nothing says of what",
            entry.value_place,
            "say in of: which list its items come from, or compute it",
            "fields-do-not-fit",
        )
    if entry.of is None:
        return None
    source = scope.paths.source(entry.of.path, entry.of.place, None)
    item = source.kind.of[0] if source.kind.name == "list" else None
    if (item is not None) != field.repeated or (item is not None and item.name != "record"):
        raise SpecError(
            f"{source.path} is {source.kind}, of which {entry.name} cannot be",
            entry.of.place,
            "a list is of a list of records, a message of one value",
            "fields-do-not-fit",
        )
    return source


def _copied(scope: Scope, entry: Entry, field: Field) -> CopiedBack:
    source = scope.paths.source(entry.value, entry.value_place, None)
    kind = replace(source.kind, optional=False)
    wrapped = checks.wrapped(field.kind, scope.paths.api) if kind.name == "int" else None
    wanted = wrapped or field.kind
    check_value(entry, f"{entry.value} cannot be copied to {entry.name}", kind, wanted)
    check_when(entry, source)
    wrapper = field.kind.ref if wrapped is not None else None
    return CopiedBack(entry, source, entry.when in ("nonzero", "nonempty"), wrapper)


def _reversed(scope: Scope, entry: Entry, field: Field) -> CopiedBack:
    """A copy of flow both is its own inverse: the document contains what was copied there."""
    target = scope.paths.target(entry.value, entry.value_place)
    if target.root != "out" or entry.merge:
        raise SpecError(
            f"{entry.name} cannot be read back from {entry.value}",
            entry.value_place,
            "compute it, and say in back: how it is read",
            "no-way-back",
        )
    kind = replace(target.kind, low=None, high=None)
    check_value(entry, f"{entry.value} cannot give {entry.name}", kind, field.kind)
    whole = scope.paths.source(".".join(["spec", *target.steps]), entry.value_place, None)
    absent = whole.kind.optional or target.key is not None
    found = replace(target.kind, optional=absent)
    source = Source(f"spec.{target.path}", "spec", target.steps, found, key=target.key)
    return CopiedBack(entry, source)


def check_value(entry: Entry, doing: str, kind: Kind, wanted: Kind) -> None:
    """A value of ``kind`` must fit the field."""
    reason = kinds.why_not(kind, wanted)
    if reason is not None:
        raise SpecError(
            f"{doing}: {reason}",
            entry.value_place,
            None if entry.fate == "compute" else "compute it by a transform",
            "type-does-not-fit",
        )
