"""Hand-written functions named by ``handled_by``: they exist and read the field."""

from __future__ import annotations

from codegen.errors import SpecError, nearest
from codegen.message_reads import Use
from codegen.model import Entry
from codegen.resolve.scope import Scope


def check(scope: Scope, entry: Entry) -> None:
    """The function must exist and read the field."""
    if entry.by_rpc:
        _check_rpc(scope, entry)
        return
    sources = scope.paths.sources
    found = sources.function(entry.value)
    if found is None:
        raise SpecError(
            f"{entry.name} is handled by {entry.value}, which does not exist",
            entry.value_place,
            sources.hint(entry.value),
            "unknown-handler",
        )
    file, function = found
    if not any(
        use.function == entry.value and (scope.file.takes or use.sets)
        for use in uses_of(scope, entry)
    ):
        verb = "reads" if scope.file.takes else "sets"
        raise SpecError(
            f"{entry.name} is handled by {entry.value}, but that function never {verb} it",
            entry.value_place,
            f"see {file}:{function.lineno}; name the function that has a {scope.message.name} in "
            "hand, by its annotations, or change the fate",
            "field-not-read" if scope.file.takes else "field-not-set",
        )


def uses_of(scope: Scope, entry: Entry) -> list[Use]:
    """Where hand-written code reads the field of an entry."""
    owner = scope.message.name
    uses = scope.paths.sources.uses
    return [use for use in uses if use.message == owner and use.field == entry.name]


def _check_rpc(scope: Scope, entry: Entry) -> None:
    """The generated handler reads the field that rpc.yaml names, and the fields that a streaming
    list shares with its unary one."""
    if scope.rpcs is None:
        return
    name = entry.value.removeprefix("rpc.")
    rpc = scope.rpcs.find(name)
    known = scope.rpcs.keys | scope.paths.api.rpcs.keys()
    if (rpc is None and name in known) or (rpc is not None and not rpc.answered):
        return  # its own entry has a fault
    if rpc is None:
        raise SpecError(
            f"{entry.name} is handled by the RPC {name}, which rpc.yaml does not have",
            entry.value_place,
            nearest(name, [one.name for one in scope.rpcs.all]),
            "unknown-handler",
        )
    looks_at = set()
    if rpc.subject is not None:
        if rpc.subject.field not in scope.paths.api.messages[rpc.method.request].fields:
            return  # its own entry has a fault
        looks_at.add((rpc.method.request, rpc.subject.field))
    if rpc.batches is not None:
        looks_at |= {(rpc.method.request, field) for field in rpc.batches.shared}
        looks_at.add((rpc.method.response, rpc.batches.target))
    if (scope.message.name, entry.name) not in looks_at:
        raise SpecError(
            f"the handler of {name} does not look at {entry.name} of {scope.message.name}",
            entry.value_place,
            "it looks at "
            + (", ".join(sorted(f"{m}.{f}" for m, f in looks_at)) or "no field by itself")
            + "; name the method that reads the field, or the object in rpc.yaml",
            "field-not-read",
        )
