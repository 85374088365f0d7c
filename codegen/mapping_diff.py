"""Named changes between two states of the mapping, each with what it means for running objects.

A change is dangerous if a request that worked can be refused, or can become something else: what
runs now was made by the old mapping, and the next request for it is read by the new one. Such a
change needs a written reason: the key ``changed`` of its entry, or of its file where no entry is
left to say it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import groupby

from codegen.errors import Fault, Place
from codegen.model import Back, Entry, Input, MappingFile, Rule
from codegen.named import Named

DANGEROUS = "can break what runs"
SAFE = "safe for what runs"
WORDS = "words only"
CLASSES: Mapping[str, str] = {
    DANGEROUS: "a request that worked may be refused, or becomes something else",
    SAFE: "what worked works as before",
    WORDS: "nothing but the text of the entry",
}


def changes(old: Mapping[str, MappingFile], new: Mapping[str, MappingFile]) -> Iterator[Named]:
    """What changed from one mapping to another."""
    for name in (*new, *(gone for gone in old if gone not in new)):
        if name not in old:
            yield Named("message-gained", name, "", SAFE)
        elif name not in new:
            yield Named("message-lost", name, "", DANGEROUS)
        else:
            yield from (change for _, change in _file(old[name], new[name]))


def unreasoned(
    old: Mapping[str, MappingFile], new: Mapping[str, MappingFile], revision: str
) -> list[Fault]:
    """A fault for each entry or file with a dangerous change and no reason for it.

    A reason that the old state had already is about an earlier change and does not count.
    """
    found: dict[Place, Fault] = {}
    for name in (name for name in new if name in old):
        before, after = old[name], new[name]
        for entry, change in _file(before, after):
            place, reason, earlier = after.message_place, after.changed, before.changed
            if entry:
                now = _entries(after)[entry]
                place, reason = now.place, now.changed
                earlier = _entries(before)[entry].changed if entry in _entries(before) else None
            if change.effect == DANGEROUS and (not reason or reason == earlier):
                text = f"{change.kind} {change.subject} since {revision}"
                text += f" ({change.detail})" if change.detail else ""
                hint = "say under `changed:` why, and what happens to what runs"
                found.setdefault(place, Fault(place, f"{text}; it {DANGEROUS}", "no-reason", hint))
    return list(found.values())


def rule_text(rule: Rule) -> str:
    """A rule in one line."""
    return f"{rule.name} {', '.join(map(str, rule.values))}".strip()


def _entries(file: MappingFile) -> Mapping[str, Entry]:
    return {**file.entries, **file.targets}


def _file(old: MappingFile, new: MappingFile) -> Iterator[tuple[str, Named]]:
    """Each change with the name of its entry; with "" if it is one of the file, or of an entry that
    is gone."""
    for kind, before, after, effect in (
        ("flow-changed", old.flow, new.flow, DANGEROUS),
        ("compared-message-changed", old.of, new.of, DANGEROUS),
        ("item-changed", old.items_in_words, new.items_in_words, DANGEROUS),
        ("change-explained", old.changed, new.changed, WORDS),
    ):
        if before != after:
            yield "", Named(kind, new.message, _arrow(before, after), effect)
    before_entries, after_entries = _entries(old), _entries(new)
    for entry, written in after_entries.items():
        subject = f"{new.message}.{entry}"
        if entry not in before_entries:
            yield entry, Named("entry-gained", subject, written.in_words, SAFE)
            continue
        told = sorted(_entry(before_entries[entry], written), key=_kind)
        for kind, same in groupby(told, key=_kind):
            details, effects = zip(*((detail, effect) for _, detail, effect in same), strict=True)
            yield entry, Named(kind, subject, "; ".join(details), effects[0])
    for entry, written in before_entries.items():
        if entry not in after_entries:
            yield "", Named("entry-lost", f"{new.message}.{entry}", written.in_words, DANGEROUS)


_Told = tuple[str, str, str]
"""Kind, detail and class of a change of one entry."""


def _kind(told: _Told) -> str:
    return told[0]


_MOVED = {
    "copy": "target-moved",
    "compute": "target-moved",
    "match": "comparison-changed",
    "handled_by": "reader-changed",
}
_CONDITIONS = ("always", "set", "nonzero", "nonempty")
"""From the loosest to the strictest; a field that is nonzero or nonempty is set."""
_ATTRIBUTES: tuple[tuple[str, Callable[[Entry], object], str], ...] = (
    ("transform-changed", lambda entry: entry.by, DANGEROUS),
    ("merge-changed", lambda entry: entry.merge, DANGEROUS),
    ("partner-changed", lambda entry: entry.partner, DANGEROUS),
    ("object-changed", lambda entry: entry.of and entry.of.path, DANGEROUS),
    ("way-back-changed", lambda entry: _back(entry.back), DANGEROUS),
    ("issue-changed", lambda entry: entry.issue, WORDS),
    ("model-changed", lambda entry: entry.like, WORDS),
    ("change-explained", lambda entry: entry.changed, WORDS),
)


def _entry(old: Entry, new: Entry) -> Iterator[_Told]:
    if old.fate != new.fate:
        yield "fate-changed", f"{old.in_words} → {new.in_words}", DANGEROUS
    elif new.fate == "unmapped":
        yield from _differs("reason-changed", old.value, new.value, WORDS)
    else:
        yield from _differs(_MOVED[new.fate], old.value, new.value, DANGEROUS)
        yield from _condition(old.when, new.when)
    for kind, attribute, effect in _ATTRIBUTES:
        if kind == "partner-changed" and old.fate != new.fate:
            continue  # the fates in words have it
        yield from _differs(kind, attribute(old), attribute(new), effect)
    yield from _inputs(old, new)
    if old.if_set != new.if_set:
        effect = DANGEROUS if new.if_set == "refuse" else SAFE
        yield "refusal-changed", _arrow(old.if_set, new.if_set), effect
    yield from _rules(old, new)
    if old.why != new.why:
        yield "reason-reworded", "", WORDS


def _differs(kind: str, before: object, after: object, effect: str) -> Iterator[_Told]:
    if before != after:
        yield kind, _arrow(before, after), effect


def _condition(old: str, new: str) -> Iterator[_Told]:
    if old == new:
        return
    looser = min(old, new, key=_CONDITIONS.index)
    if looser in ("nonzero", "nonempty"):
        kind = "condition-changed"  # neither implies the other
    else:
        kind = "condition-loosened" if new == looser else "condition-tightened"
    yield kind, _arrow(old, new), DANGEROUS


def _inputs(old: Entry, new: Entry) -> Iterator[_Told]:
    """A transform's inputs by their arguments. One that is no field of the message itself stands
    for a default when the field is absent."""
    before, after = ({i.argument: i.path for i in entry.inputs} for entry in (old, new))
    for argument, path in after.items():
        if argument not in before:
            yield "input-gained", _named(path, argument), DANGEROUS
        elif before[argument] != path:
            yield "input-changed", f"{argument}: {before[argument]} → {path}", DANGEROUS
    for argument, path in before.items():
        if argument not in after:
            yield "input-lost", _named(path, argument), DANGEROUS


def _named(path: str, argument: str) -> str:
    return path if argument == path.rpartition(".")[2] else f"{path} as {argument}"


def _back(back: Back | None) -> str:
    return f"{back.by} from {', '.join(map(_input, back.inputs))}" if back else ""


def _input(given: Input) -> str:
    return _named(given.path, given.argument)


# --- rules ----------------------------------------------------------------------------------

_DANGER = {"narrowed": DANGEROUS, "widened": SAFE, "changed": DANGEROUS}


def _rules(old: Entry, new: Entry) -> Iterator[_Told]:
    before, after = (_by_name(entry.rules) for entry in (old, new))
    for name, rule in after.items():
        if name not in before:
            yield "rule-gained", rule_text(rule), DANGEROUS
        elif before[name].values != rule.values:
            how = _ways[name](before[name].values, rule.values) if name in _ways else "changed"
            detail = f"{rule_text(before[name])} → {rule_text(rule)}"
            yield f"{name.replace('_', '-')}-{how}", detail, _DANGER[how]
    for name, rule in before.items():
        if name not in after:
            yield "rule-dropped", rule_text(rule), SAFE


def _by_name(rules: Sequence[Rule]) -> dict[str, Rule]:
    """The rules by name; several of one name are each a rule of its own."""
    names = [rule.name for rule in rules]
    return {rule.name if names.count(rule.name) == 1 else rule_text(rule): rule for rule in rules}


_Values = tuple[str | int, ...]


def _range(old: _Values, new: _Values) -> str:
    inside = _within(old, new)
    return "narrowed" if inside else "widened" if _within(new, old) else "changed"


def _within(outer: _Values, inner: _Values) -> bool:
    low, high = (int(value) for value in outer)
    return low <= int(inner[0]) and int(inner[1]) <= high


def _choice(old: _Values, new: _Values) -> str:
    if set(new) < set(old):
        return "narrowed"
    return "widened" if set(new) > set(old) else "changed"


def _limit(old: _Values, new: _Values) -> str:
    return "narrowed" if int(new[0]) < int(old[0]) else "widened"


def _forbidden(old: _Values, new: _Values) -> str:
    return _choice(tuple(str(new[0])), tuple(str(old[0])))


def _excluded(old: _Values, new: _Values) -> str:
    return _choice(new, old)


_ways: Mapping[str, Callable[[_Values, _Values], str]] = {
    "range": _range,
    "one_of": _choice,
    "allowed_enum": _choice,
    "max_length": _limit,
    "without": _forbidden,
    "exclusive_with": _excluded,
    "requires": _excluded,
}
"""How a rule with values became stricter or looser."""


def _arrow(before: object, after: object) -> str:
    return f"{before or 'nothing'} → {after or 'nothing'}"
