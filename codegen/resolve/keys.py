"""Which keys an entry may have: this depends on its fate and on the flow of its message."""

from __future__ import annotations

import keyword
from collections.abc import Mapping

from codegen.errors import SpecError, one_of
from codegen.model import Entry
from codegen.resolve.scope import Scope

_KEYS: Mapping[str, frozenset[str]] = {
    "copy": frozenset({"when", "merge", "rules", "of"}),
    "compute": frozenset({"by", "from", "with", "merge", "rules", "back"}),
    "match": frozenset({"with", "rules"}),
    "handled_by": frozenset({"rules"}),
    "unmapped": frozenset({"if_set", "issue"}),
}
_ALWAYS = frozenset({"changed", "like", "why"})
_ONLY_TAKING = frozenset({"merge", "rules", "with", "back"})


def check(scope: Scope, entry: Entry) -> None:
    """Raise SpecError for the first key that is not allowed, and for a field that generated code
    could not name."""
    named = not (entry.is_ignored or entry.with_another or scope.is_target(entry))
    if named and keyword.iskeyword(entry.name):
        raise SpecError(
            f"{scope.message.name}.{entry.name} is a word of Python, so generated code cannot read"
            " or set it",
            entry.place,
            "let a function of another entry take the message around it, and name that in with:",
            "keyword-field",
        )
    for key, place in entry.keys.items():
        if key == entry.fate or key in _ALWAYS or scope.is_target(entry):
            continue
        if key not in _KEYS[entry.fate]:
            raise SpecError(
                f"{entry.name} is {entry.fate}, which takes no {key!r}",
                place,
                one_of(sorted(_KEYS[entry.fate] | _ALWAYS)),
                "key-does-not-fit",
            )
        if key == "of" and (scope.file.takes or not entry.by_fields):
            raise SpecError(
                f"{entry.name} takes no 'of'",
                place,
                "it says whose the fields of a response message are, together with copy: fields",
                "key-does-not-fit",
            )
        if key in _ONLY_TAKING and not scope.file.takes:
            raise SpecError(
                f"{entry.name} of flow out takes no {key!r}",
                place,
                "it speaks of received messages",
                "key-does-not-fit",
            )
    _check_flow(scope, entry)
    if scope.is_target(entry) and not scope.file.takes:
        raise SpecError(
            f"{scope.message.name} is only answered and writes no targets",
            entry.place,
            "move the entry to the message that is received",
            "key-does-not-fit",
        )
    if entry.fate == "compute":
        _check_compute(entry)
    elif entry.fate == "unmapped" and entry.value == "not-yet" and not entry.issue:
        raise SpecError(
            f"{entry.name} is not-yet and names no issue",
            entry.value_place,
            'add issue: "…", the one that will give it its fate',
            "not-yet-without-issue",
        )


def _check_flow(scope: Scope, entry: Entry) -> None:
    """Only a filter compares, and it does nothing else."""
    if scope.file.flow == "match" and entry.fate in ("copy", "compute"):
        raise SpecError(
            f"{scope.message.name} is a filter, which writes nothing",
            entry.value_place,
            "say in match: and with: what the field is compared with",
            "key-does-not-fit",
        )
    if entry.fate != "match":
        return
    if scope.file.flow != "match":
        raise SpecError(
            f"{scope.message.name} is of flow {scope.file.flow}, which compares nothing",
            entry.value_place,
            "make its flow match, and say in of: what it selects",
            "key-does-not-fit",
        )
    if entry.by_fields == (entry.partner is not None):
        raise SpecError(
            (
                f"the fields of {entry.name} say what they are compared with"
                if entry.by_fields
                else f"{entry.name} does not say what it is compared with"
            ),
            entry.value_place,
            "give with: a field of the message that of: names; match: fields has none",
            "key-does-not-fit",
        )


def _check_compute(entry: Entry) -> None:
    called = entry.by is not None and "from" in entry.keys
    if entry.partner is not None and (entry.by or entry.inputs):
        raise SpecError(
            f"{entry.name} has both with and by or from",
            entry.keys["with"],
            "with says that another entry calls the transform; keep one of the two",
            "key-does-not-fit",
        )
    if entry.partner is None and not called:
        raise SpecError(
            f"{entry.name} is computed, but its entry does not say how",
            entry.place,
            "give by: and from:, or with: the field whose entry takes it as an input",
            "key-does-not-fit",
        )
