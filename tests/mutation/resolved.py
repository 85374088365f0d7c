"""Alterations of a resolved entry: those that the generator would refuse before a test could
notice, and those that no file can say."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import Any, TypeVar

from codegen.model import (
    Argument,
    Call,
    Computed,
    ComputedBack,
    Copied,
    CopiedBack,
    Descended,
    Kind,
    Left,
    Mapped,
    Source,
)
from tests.mutation.place import Place
from tests.mutation.specification import Mutant

_One = TypeVar("_One")
_STEPS = {"writes": "written", "reads": "read back", "matches": "compared"}
_BACK = " when read back"


def constant_input(place: Place) -> Iterator[Mutant]:
    """The function gets a constant instead of one of its inputs."""
    for steps, call in _calls(place):
        for argument in call.arguments:
            for text in _constants(argument.source.kind, argument.none_if_unset):
                other = replace(
                    argument,
                    source=replace(argument.source, unset_as=text),
                    none_if_unset=False,
                    converted=None,
                    items=None,
                )
                yield _given(place, steps, f"{argument.name} is {text}", argument, other)


def unset_input(place: Place) -> Iterator[Mutant]:
    """The function gets the empty value, not None, for an input that is unset."""
    for steps, call in _calls(place):
        for argument in call.arguments:
            if argument.none_if_unset:
                other = replace(argument, none_if_unset=False)
                yield _given(place, steps, f"{argument.name} is never None", argument, other)


def empty_value(place: Place) -> Iterator[Mutant]:
    """A plan, or an item, has an empty value where it must have one, so that the entry cannot be
    dropped."""
    for write in _own(place, place.mapped.writes):
        if not isinstance(write, Copied | Computed) or not _is_needed(place.mapped, write):
            continue
        for text in _constants(write.target.kind, none_if_unset=False)[:1]:
            source = Source(write.target.path, None, (), write.target.kind, unset_as=text)
            other = Copied(write.entry, source, write.target, None)
            change = f"{write.target.path} is {text}"
            yield place.resolved(change, partial(_replaced, "writes", write, other))


def skip(place: Place) -> Iterator[Mutant]:
    """A field that flows both ways is not written, or not read back; the entries of its message are
    not applied."""
    for steps, word in _STEPS.items():
        for step in _own(place, getattr(place.mapped, steps)):
            if isinstance(step, Left) or _is_needed(place.mapped, step):
                continue
            if place.mapped.file.flow == "both" or isinstance(step, Descended):
                alone = partial(_replaced, steps, step, Left(step.entry))
                yield place.resolved(f"not {word}", alone)


def read_if_empty(place: Place) -> Iterator[Mutant]:
    """An empty value is set in an answer, which tells it from an unset one."""
    if place.section != "fields" or not place.mapped.message.fields[place.name].presence:
        return
    for read in _own(place, place.mapped.reads):
        if isinstance(read, CopiedBack) and read.unset_if_empty:
            other = replace(read, unset_if_empty=False)
            yield place.resolved("an empty one is set", partial(_replaced, "reads", read, other))


def drop_check(place: Place) -> Iterator[Mutant]:
    """Without a check that no rule asks for: of a NUL, of unknown numbers of an enum, of the
    message that the field holds."""
    if place.section != "fields":
        return
    for test in place.mapped.tests:
        if test.field.name == place.name and test.rule in ("no_nul", "known_enum"):
            change = f"drop the check {test.rule}"
            yield place.resolved(change, partial(_without, "tests", test))
    known = place.specification.project.translation.mapped
    for descent in place.mapped.descents:
        held = known[descent.message]
        if descent.field.name == place.name and (held.tests or held.descents):
            change = f"drop the checks of {descent.message}"
            yield place.resolved(change, partial(_without, "descents", descent))


RESOLVED: tuple[Callable[[Place], Iterator[Mutant]], ...] = (
    constant_input,
    unset_input,
    empty_value,
    skip,
    read_if_empty,
    drop_check,
)


def _own(place: Place, steps: tuple[_One, ...]) -> Iterator[_One]:
    return (step for step in steps if step.entry is place.entry)  # type: ignore[attr-defined]


def _calls(place: Place) -> Iterator[tuple[str, Call]]:
    for steps in ("writes", "reads"):
        for step in _own(place, getattr(place.mapped, steps)):
            if isinstance(step, Computed | ComputedBack):
                yield steps, step.call


def _given(place: Place, steps: str, change: str, argument: Argument, other: Argument) -> Mutant:
    """The mutant whose function gets another argument."""

    def altered(mapped: Mapped) -> Mapped:
        for step in _own(place, getattr(mapped, steps)):
            if isinstance(step, Computed | ComputedBack):
                listed = tuple(other if one is argument else one for one in step.call.arguments)
                called = replace(step, call=replace(step.call, arguments=listed))
                mapped = _replaced(steps, step, called, mapped)
        return mapped

    return place.resolved(change + (_BACK if steps == "reads" else ""), altered)


def _replaced(steps: str, one: Any, other: Any, mapped: Mapped) -> Mapped:
    return _with(mapped, steps, (other if step is one else step for step in getattr(mapped, steps)))


def _without(steps: str, one: Any, mapped: Mapped) -> Mapped:
    return _with(mapped, steps, (step for step in getattr(mapped, steps) if step is not one))


def _with(mapped: Mapped, steps: str, others: Iterator[Any]) -> Mapped:
    changed: dict[str, Any] = {steps: tuple(others)}
    return replace(mapped, **changed)


def _is_needed(mapped: Mapped, step: Any) -> bool:
    """Whether something is incomplete without what the step writes."""
    if not isinstance(step, Copied | Computed) or step.target.root == "plan":
        return isinstance(step, Copied | Computed)
    path = step.target.path
    keys = [item.keys for item in mapped.items if item.key(path) is not None]
    name = path.rpartition(".")[2]
    return step.target.root == "item" and any(one[name].required for one in keys if name in one)


def _constants(kind: Kind, none_if_unset: bool) -> list[str]:
    if none_if_unset or kind.optional:
        return ["None"]
    if kind.name == "message":
        return [f"api_pb2.{kind.ref}()"]
    return {
        "str": ["''"],
        "bytes": ["b''"],
        "bool": ["False", "True"],
        "int": ["0"],
        "enum": ["0"],
        "float": ["0.0"],
        "list": ["()"],
        "map": ["{}"],
    }.get(kind.name, [])
