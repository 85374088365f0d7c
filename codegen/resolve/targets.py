"""Received messages: what each entry writes, and under which condition."""

from __future__ import annotations

from dataclasses import replace

from codegen import checks
from codegen.errors import SpecError
from codegen.model import (
    Computed,
    Condition,
    Copied,
    Descended,
    Entry,
    Field,
    Left,
    Source,
    Target,
    Write,
)
from codegen.resolve import handlers, inputs, items
from codegen.resolve.scope import Scope, check_fit, check_when

_MERGE_FITS = {"append": "list", "update": "map", "by-key": "list"}


def of_field(scope: Scope, entry: Entry) -> Write:
    """What a builder does for one field."""
    field = scope.message.fields[entry.name]
    match entry.fate:
        case "unmapped":
            return Left(entry)
        case "handled_by":
            handlers.check(scope, entry)
            return Left(entry)
        case "copy" if entry.by_fields:
            return _descended(scope, entry, field)
        case "copy":
            return _copied(scope, entry, scope.own(field), _target(scope, entry, entry.value))
    if entry.with_another:
        return Left(entry)
    target = _target(scope, entry, entry.value)
    if entry.partner is not None:
        return Left(entry)
    _check_own_input(entry)
    return _computed(scope, entry, target)


def of_target(scope: Scope, entry: Entry) -> Write:
    """What a builder does for an entry under ``targets``."""
    target = _target(scope, entry, entry.name)
    if entry.fate == "copy":
        source = scope.paths.source(entry.value, entry.value_place, scope.message)
        return _copied(scope, entry, source, target)
    return _computed(scope, entry, target)


def _target(scope: Scope, entry: Entry, path: str) -> Target:
    if scope.items:
        return items.target(scope.items, entry, path)
    target = scope.paths.target(path, entry.value_place)
    allowed = _allowed_when(scope, target)
    if allowed and (entry.merge or entry.when not in allowed):
        key = "merge" if entry.merge else "when"
        raise SpecError(
            f"{path} always has a value, so {key}: does not fit",
            entry.keys[key],
            "leave it out; an unset field is the empty value",
            "key-does-not-fit",
        )
    if entry.merge is None:
        return target
    if target.key is not None or target.kind.name != _MERGE_FITS[entry.merge]:
        raise SpecError(
            f"{path} is {target.kind}, which merge: {entry.merge} does not fit",
            entry.keys["merge"],
            "append and by-key are for lists, update is for maps",
            "merge-does-not-fit",
        )
    item = target.kind.of[0]
    if entry.merge == "by-key" and (
        item.name != "object" or scope.paths.document.classes[item.ref].identity is None
    ):
        raise SpecError(
            f"{path} is {target.kind}, whose items have no identity",
            entry.keys["merge"],
            "use append",
            "merge-does-not-fit",
        )
    return target


def _allowed_when(scope: Scope, target: Target) -> tuple[str, ...]:
    """The conditions under which a value of a plan or a payload may be written; empty if the
    target is neither, and so allows all."""
    if target.root in ("out", "record", "item"):
        return ()
    leaves_out_empty = target.root in scope.paths.sources.settings.payloads
    return ("always", "set") if leaves_out_empty else ("always",)


def _copied(scope: Scope, entry: Entry, source: Source, target: Target) -> Copied:
    if target.root not in ("out", "record"):
        made = _copied_items(scope, entry, source, target)
        if made is not None:
            return made
    kind = checks.narrowed(source.kind, entry.rules)
    kind = replace(kind, optional=False) if entry.when == "set" else kind
    check_fit(entry, f"{source.path} cannot be copied to {target.path}", kind, target.kind)
    return Copied(entry, source, target, _condition(entry, source))


def _copied_items(scope: Scope, entry: Entry, source: Source, target: Target) -> Copied | None:
    """If the message becomes an item of the target, the item is copied, or all of them for a list;
    None for anything but messages, and for messages that are kept as they are."""
    held, wanted = (k.of[0] if k.name == "list" else k for k in (source.kind, target.kind))
    if held.name != "message" or wanted.name == "message":
        return None
    if held.ref not in scope.files:  # its file has a fault, or is missing
        return Copied(entry, source, target, None)
    made = items.passed(scope.paths, scope.files, source.kind, target.kind)
    if made is None:
        raise SpecError(
            f"{source.path} is {source.kind}, which is not an item of {target.path}",
            entry.value_place,
            f"say so in item: of the mapping of {held.ref}, or compute the target",
            "type-does-not-fit",
        )
    return Copied(entry, source, target, _condition(entry, source), made)


def _condition(entry: Entry, source: Source) -> Condition | None:
    check_when(entry, source)
    return None if entry.when == "always" else Condition(source, entry.when)


def _computed(scope: Scope, entry: Entry, target: Target) -> Computed:
    by = entry.by or ""
    call = inputs.call(scope, by, entry.keys["by"], entry.inputs, scope.message)
    returns = call.returns
    if target.root != "plan" and not _in_record(scope, target):  # there, None omits the target
        returns = replace(returns, optional=False)
    if not (target.kind.name == "json" and returns.name == "map"):  # JSON, whose keys a test checks
        check_fit(entry, f"{by} cannot fill {target.path}", returns, target.kind)
    return Computed(entry, call, target)


def _in_record(scope: Scope, target: Target) -> bool:
    """Whether the target is a key of a record, which has all keys."""
    return any(i.key(target.path) is not None and i.kind.name == "record" for i in scope.items)


def _check_own_input(entry: Entry) -> None:
    """A computed field must be an input: by its own path, or through a context root."""
    if any(entry.name in given.path.split(".") for given in entry.inputs):
        return
    raise SpecError(
        f"{entry.name} is computed, but from: does not list it",
        entry.keys["from"],
        "add it, or say in with: which entry takes it as an input",
        "field-not-read",
    )


def _descended(scope: Scope, entry: Entry, field: Field) -> Descended:
    nested = scope.nested(entry, field)
    if field.mapped:
        raise SpecError(
            f"{entry.name} is a map, whose values have no order to be written in",
            entry.value_place,
            "compute the target from the whole map",
            "fields-do-not-fit",
        )
    if nested in scope.files and not scope.files[nested].takes:
        raise SpecError(
            f"{entry.name} is received, but {scope.files[nested].file} is of flow out",
            entry.value_place,
            "make its flow in or both",
            "flows-differ",
        )
    outside = nested in scope.files and bool(scope.files[nested].items)
    if scope.items or outside:
        raise SpecError(
            (
                f"{nested} becomes an item, so its entries write nothing for {scope.message.name}"
                if outside
                else f"{scope.message.name} becomes an item, whose keys {nested} cannot write"
            ),
            entry.value_place,
            "give the whole field to a function, which calls the item's builder",
            "fields-do-not-fit",
        )
    condition = _condition(entry, scope.own(field))
    return Descended(entry, nested, field.repeated, condition)
