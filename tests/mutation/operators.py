"""The closed set of alterations: each operator yields the mutants of one entry, or of one file."""

from __future__ import annotations

import copy
import importlib
import inspect
from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Any

from codegen.model import Compared, Computed, ComputedBack, Descended, Kind
from tests.mutation.place import Place
from tests.mutation.resolved import RESOLVED
from tests.mutation.specification import Document, Mutant, Specification

_DROPPED = {"unmapped": "informational", "why": "Dropped."}
_INT64 = (-(2**63), 2**63 - 1)


def drop(place: Place) -> Iterator[Mutant]:
    """The entry does nothing any more, and neither do those that are ``with`` it."""
    if "unmapped" in place.body:
        return
    documents: dict[str, Document] = {}

    def changed(message: str) -> Document:
        if message not in documents:
            documents[message] = copy.deepcopy(place.specification.documents[message])
        return documents[message]

    if place.section == "targets":
        del changed(place.message)["targets"][place.name]
    else:
        changed(place.message)["fields"][place.name] = _DROPPED
    for message, document in place.specification.documents.items():
        for name, body in document["fields"].items():
            if "match" in body or body.get("with") is None:
                continue
            partner = body["with"] if body["with"][0].isupper() else f"{message}.{body['with']}"
            if partner == place.full_name:
                changed(message)["fields"][name] = _DROPPED
    yield Mutant(place.full_name, "drop", documents)


def change_condition(place: Place) -> Iterator[Mutant]:
    """Another word than the entry's ``when``, of those that fit the value. Not for what is added to
    a list or a map: to add nothing changes nothing."""
    kind, body = place.kind, place.body
    if kind is None or "copy" not in body or place.mapped.file.flow == "out":
        return
    if body.get("merge") in ("append", "update"):
        return
    words = {
        "bool": ["nonzero"],
        "int": ["nonzero"],
        "enum": ["nonzero"],
        "message": ["set"],
        "str": ["nonempty"],
        "bytes": ["nonempty"],
        "list": ["nonempty"],
        "map": ["nonempty"],
    }.get(kind.name, [])
    for word in ["always", *words]:
        if word != body.get("when", "always") and not (
            body["copy"] == "fields" and word != "always"
        ):
            yield place.with_key(f"when {word}", "when", word)


def drop_rule(place: Place) -> Iterator[Mutant]:
    """Without one of its rules."""
    rules = place.body.get("rules", [])
    for number, rule in enumerate(rules):
        others = rules[:number] + rules[number + 1 :]
        change = f"drop the rule {_in_words(rule)}"
        yield place.with_key(change, "rules", others) if others else place.without(change, "rules")


def move_rule(place: Place) -> Iterator[Mutant]:
    """A rule that allows a little more, or a little less."""
    rules = place.body.get("rules", [])
    for number, rule in enumerate(rules):
        for changed in _moved(place, rule):
            others = [*rules[:number], changed, *rules[number + 1 :]]
            yield place.with_key(f"{_in_words(rule)} becomes {_in_words(changed)}", "rules", others)


def _moved(place: Place, rule: Any) -> Iterator[Any]:
    match rule:
        case {"range": [low, high]}:
            if low > _INT64[0]:
                yield {"range": [low - 1, high]}
            if high < _INT64[1]:
                yield {"range": [low, high + 1]}
            yield {"range": [low + 1, high]}
            yield {"range": [low, high - 1]}
        case {"max_length": most}:
            yield {"max_length": most + 1}
            yield {"max_length": most - 1}
        case {"without": characters} if len(characters) > 1:
            for one in characters:
                yield {"without": characters.replace(one, "")}
        case {"allowed_enum": names}:
            assert place.kind is not None
            kind = place.kind.of[-1] if place.kind.of else place.kind
            known = place.specification.project.translation.api.enums[kind.ref].values
            for name in known:
                if name not in names:
                    yield {"allowed_enum": [*names, name]}
                elif len(names) > 1:
                    yield {"allowed_enum": [one for one in names if one != name]}
        case {"one_of": values} if len(values) > 1:
            for value in values:
                yield {"one_of": [one for one in values if one != value]}
        case {"exclusive_with": names} | {"requires": names} if len(names) > 1:
            [word] = rule
            for name in names:
                yield {word: [one for one in names if one != name]}


def _in_words(rule: Any) -> str:
    if isinstance(rule, str):
        return rule
    [(word, given)] = rule.items()
    listed = given if isinstance(given, list) else [given]
    return f"{word} {', '.join(map(repr, listed))}"


def change_refusal(place: Place) -> Iterator[Mutant]:
    """An unmapped field of a request is refused instead of ignored, or ignored instead of
    refused."""
    if "unmapped" in place.body and place.mapped.file.takes:
        other = "ignore" if place.body.get("if_set") == "refuse" else "refuse"
        yield place.with_key(f"if_set {other}", "if_set", other)


def change_match(place: Place) -> Iterator[Mutant]:
    """A prefix must be the whole value, or the reverse."""
    other = {"prefix": "equal", "equal": "prefix"}.get(place.body.get("match", ""))
    if other is not None and place.kind is not None and place.kind.name == "str":
        yield place.with_key(f"match {other}", "match", other)


def change_merge(place: Place) -> Iterator[Mutant]:
    """Another way to join the values of several writers."""
    other = {"append": "by-key", "by-key": "append"}.get(place.body.get("merge", ""))
    if other is not None:
        yield place.with_key(f"merge {other}", "merge", other)
    if "merge" in place.body:
        yield place.without("drop merge", "merge")


def swap_inputs(place: Place) -> Iterator[Mutant]:
    """Two inputs of one type change places."""
    listed = place.body.get("from", [])
    call = next(
        (
            step.call
            for step in (*place.mapped.writes, *place.mapped.reads)
            if isinstance(step, Computed | ComputedBack) and step.entry is place.entry
        ),
        None,
    )
    if call is None or len(call.arguments) != len(listed):
        return
    kinds = {argument.name: argument.source.kind for argument in call.arguments}
    split = [text.partition(" as ") for text in listed]
    named = [(path, name or path.rpartition(".")[2]) for path, _, name in split]
    for one, two in pairwise(range(len(named))):
        (path, name), (other_path, other_name) = named[one], named[two]
        if kinds.get(name) is None or kinds.get(name) != kinds.get(other_name):
            continue
        changed = list(listed)
        changed[one], changed[two] = f"{other_path} as {name}", f"{path} as {other_name}"
        yield place.with_key(f"swap the inputs {name} and {other_name}", "from", changed)


def other_function(place: Place) -> Iterator[Mutant]:
    """Another function of the same module, with the same parameters and result."""
    by = place.body.get("by")
    if by is None:
        return
    topic, _, name = by.partition(".")
    module = importlib.import_module(f"runtime.transforms.{topic}")
    own = inspect.signature(getattr(module, name))
    for other, function in inspect.getmembers(module, inspect.isfunction):
        if other == name or other.startswith("_") or function.__module__ != module.__name__:
            continue
        if inspect.signature(function) == own:
            yield place.with_key(f"by {topic}.{other}", "by", f"{topic}.{other}")


def swap_targets(place: Place) -> Iterator[Mutant]:
    """It and the next entry of the same types write each other's targets, or read each other's
    sources."""
    if place.section != "fields":
        return
    fate = next((key for key in ("copy", "compute") if key in place.body), None)
    if fate is None or place.body[fate] == "fields":
        return
    reads_only = place.mapped.file.flow == "out"
    if reads_only and fate == "compute":
        return
    names = list(place.document["fields"])
    for name in names[names.index(place.name) + 1 :]:
        other = Place(place.specification, place.message, "fields", name)
        if fate not in other.body or other.body[fate] in ("fields", place.body[fate]):
            continue
        same = other.kind == place.kind if reads_only else place.target == other.target is not None
        if not same or "with" in place.body or "with" in other.body:
            continue
        document = copy.deepcopy(place.document)
        document["fields"][place.name][fate] = other.body[fate]
        document["fields"][name][fate] = place.body[fate]
        word = "sources" if reads_only else "targets"
        yield Mutant(place.full_name, f"swap {word} with {name}", {place.message: document})
        return


def swap_objects(place: Place) -> Iterator[Mutant]:
    """The fields of its message and of the next one are read from each other's object."""
    yield from _swapped(
        place,
        "of",
        "objects",
        {
            step.entry.name: step.of.kind
            for step in place.mapped.reads
            if isinstance(step, Descended) and step.of is not None
        },
    )


def swap_compared(place: Place) -> Iterator[Mutant]:
    """It and the next entry are compared with each other's field of the item."""
    yield from _swapped(
        place,
        "with",
        "fields compared",
        {
            step.entry.name: step.against.kind
            for step in place.mapped.matches
            if isinstance(step, Compared)
        },
    )


def _swapped(place: Place, key: str, words: str, kinds: dict[str, Kind]) -> Iterator[Mutant]:
    """The mutant that swaps ``key`` with the next entry whose kind is the same."""
    names = list(kinds)
    if place.section != "fields" or place.name not in kinds:
        return
    for name in names[names.index(place.name) + 1 :]:
        if kinds[name] == kinds[place.name]:
            document = copy.deepcopy(place.document)
            one, other = document["fields"][place.name], document["fields"][name]
            one[key], other[key] = other[key], one[key]
            yield Mutant(place.full_name, f"swap {words} with {name}", {place.message: document})
            return


OPERATORS: tuple[Callable[[Place], Iterator[Mutant]], ...] = (
    drop,
    change_condition,
    drop_rule,
    move_rule,
    change_refusal,
    change_match,
    change_merge,
    swap_inputs,
    other_function,
    swap_targets,
    swap_objects,
    swap_compared,
    *RESOLVED,
)


def item_conditions(specification: Specification, message: str) -> Iterator[Mutant]:
    """A message becomes an item without one of its conditions."""
    document = specification.documents[message]
    for number, item in enumerate(_listed(document.get("item"))):
        for name in item.get("when", {}):
            changed = copy.deepcopy(document)
            altered = _listed(changed["item"])[number]
            del altered["when"][name]
            if not altered["when"]:
                del altered["when"]
            yield Mutant(f"{message}.{name}", "drop the item's condition", {message: changed})


def _listed(items: Any) -> list[Any]:
    return items if isinstance(items, list) else [items] if items is not None else []


def mutants(specification: Specification) -> Iterator[Mutant]:
    """Every mutant of every entry."""
    for message, document in specification.documents.items():
        yield from item_conditions(specification, message)
        for section in ("fields", "targets"):
            for name in document.get(section) or {}:
                place = Place(specification, message, section, name)
                for operator in OPERATORS:
                    yield from operator(place)
