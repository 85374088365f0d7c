"""Paths of the mapping as Python expressions with kinds; an invalid path is an error that names the
invalid step."""

from __future__ import annotations

import keyword
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace

from codegen.errors import Place, SpecError, nearest, one_of
from codegen.model import Api, Document, Kind, Message, ObjectType, Plan, Property, Source, Target
from codegen.plan_schema import FOLDER as PLANS
from codegen.python_source import Sources

UNREAD = "unread-payload"
"""The rule of what only follows from a fault that is told where the payload is described."""
_ELEMENT = re.compile(r"(?P<whole>[\w.]+)\[(?P<key>[^\[\]]+)\]\Z")


@dataclass(frozen=True, slots=True)
class Paths:
    """What paths may refer to."""

    api: Api
    document: Document
    sources: Sources
    records: Mapping[str, Message]
    """Messages of other APIs that are written too, by name."""
    plans: Mapping[str, Plan]
    json_types: Mapping[str, ObjectType]
    """The objects of payloads."""
    payloads: tuple[Plan, ...] = ()

    def source(self, path: str, place: Place, own: Message | None) -> Source:
        """The value at ``path``; with ``own``, it may start with a field of that message.

        If a context root has the name of the field, the one is meant that has the next step.
        """
        head, *rest = path.split(".")
        roots = self.sources.roots(reading=own is None)
        if head in roots and not (rest and own and self._only_in_field(own, head, rest[0], place)):
            start = Source(head, head, (), roots[head])
        elif own is not None and head in own.fields:
            start = self._step(Source("", None, (), Kind("message", own.name)), head, place)
        else:
            raise SpecError(
                (f"{path} is " if path == head else f"{path} begins with {head}, which is ")
                + (f"neither a field of {own.name} nor " if own else "no ")
                + ("a context root" if own else "context root"),
                place,
                (self.api.former.hint(f"{own.name}.{head}") if own else None)
                or nearest(head, [*roots, *(own.fields if own else ())])
                or one_of(sorted(roots)),
                "unknown-source",
            )
        found = start
        for step in rest:
            if found.kind.optional:
                raise SpecError(
                    f"{found.path} may be None, so {path} may lead nowhere",
                    place,
                    f"give {found.path} to a transform and let it decide",
                    "unknown-source",
                )
            known = self._members(found.kind)
            if step not in known:
                raise self._no_step(found.path, found.kind, step, known, place)
            found = self._step(found, step, place)
        return found

    def _only_in_field(self, own: Message, head: str, step: str, place: Place) -> bool:
        """Whether the field ``head`` has the ``step``, and the context root ``head`` lacks it."""
        if head not in own.fields or step not in self._members(own.fields[head].kind):
            return False
        if step in self._members(self.sources.roots(reading=False)[head]):
            raise SpecError(
                f"{head}.{step} is in the field {head} of {own.name} and in the context root",
                place,
                "rename the attribute of the class in facts.py",
                "ambiguous-source",
            )
        return True

    def of_message(self, name: str, root: str, path: str, place: Place) -> Source:
        """The field at ``path`` of the message ``name``, which is called ``root`` in generated
        code."""
        found = Source("", root, (), Kind("message", name))
        for step in path.split("."):
            known = self._members(found.kind)
            if step not in known:
                raise self._no_step(found.path or name, found.kind, step, known, place)
            found = self._step(found, step, place)
        return found

    def _no_step(
        self, walked: str, kind: Kind, step: str, known: Mapping[str, Kind], place: Place
    ) -> SpecError:
        """The refusal of a source whose next step does not exist."""
        return SpecError(
            f"{walked} ({kind}) has no {step}",
            place,
            (self.api.former.hint(f"{kind.ref}.{step}") if kind.name == "message" else None)
            or nearest(step, known)
            or (one_of(known) if known else "it has no parts")
            + (f"; or give the class {kind.ref} this attribute" if kind.name == "record" else ""),
            "unknown-source",
        )

    def target(self, path: str, place: Place) -> Target:
        """The place at ``path`` in the document, in a record after its name, in a plan after
        ``plan.``, or in a payload after its word."""
        if path.startswith("plan."):
            return self._planned(path, place)
        prefix = self.payload_of(path)
        if prefix is not None:
            return self._payload(path, prefix, place)
        element = _ELEMENT.match(path)
        whole = element["whole"] if element else path
        head, *steps = whole.split(".")
        in_record = head in self.records and bool(steps)
        if in_record:
            root, kind, begun = "record", Kind("written", head), head
        else:
            root, kind, begun = "out", Kind("object", self.document.root), self._document
            steps.insert(0, head)
        walked = begun
        for step in steps:
            known = self._members(kind)
            if step not in known:
                raise SpecError(
                    (
                        f"{walked} has no {step}"
                        if known
                        else f"{walked} ({replace(kind, optional=False)}) has no parts"
                    ),
                    place,
                    nearest(step, known) or (one_of(known) if known else None),
                    "unknown-target",
                )
            if kind.optional:
                raise SpecError(
                    f"{walked} may be absent, so {path} may lead nowhere",
                    place,
                    f"compute the whole of {walked}",
                    "unknown-target",
                )
            kind = known[step]
            walked = step if walked == begun else f"{walked}.{step}"
        kind = replace(kind, optional=False)
        if element is None:
            return Target(path, root, tuple(steps), kind)
        if kind.name != "map":
            raise SpecError(
                f"{whole} is {kind}, which has no keys",
                place,
                "only a map takes [key]",
                "unknown-target",
            )
        return Target(path, root, tuple(steps), kind.of[1], element["key"])

    def item_at(self, path: str, place: Place) -> tuple[Kind, bool]:
        """The type of the object at ``path`` of the document, of a plan or of a payload, and
        whether the path is a list of it; a list may be of scalars."""
        head = path.partition(".")[0]
        payload = self.sources.settings.payloads.get(head)
        if payload is not None and head != path:
            kind, walked = Kind("json", payload.root), f"the {payload.name}"
            for step in path.split(".")[1:]:
                known = self._members(kind)
                if step not in known:
                    raise SpecError(
                        f"{walked} has no {step}",
                        place,
                        nearest(step, known) or (one_of(known) if known else None),
                        "unknown-target",
                    )
                kind, walked = known[step], step
        else:
            kind = self.target(path, place).kind
        one = kind.of[0] if kind.name == "list" else kind
        if one.name not in ("object", "json", "record") and not (one.scalar and one is not kind):
            raise SpecError(
                f"{path} is {kind}, which has no keys that entries could write",
                place,
                "name a list, or an object",
                "item-does-not-fit",
            )
        return replace(one, optional=False), kind.name == "list"

    def keys_of(self, kind: Kind) -> Mapping[str, Property]:
        """The keys of an object of the document or of a payload, or of a record; a scalar has
        none."""
        if kind.scalar:
            return {}
        if kind.name == "record":
            record = self.sources.records.get(kind.ref)
            if record is None:  # reported where the plan names it
                return {}
            return {
                name: Property(name, record.fields[name], required, "")
                for name, required in record.arguments.items()
            }
        return (self.json_types if kind.name == "json" else self.document.classes)[kind.ref].fields

    def _planned(self, path: str, place: Place) -> Target:
        name = path.removeprefix("plan.")
        known: dict[str, Kind] = {}
        for plan in self.plans.values():
            for field in plan.fields.values():
                known.setdefault(field.name, field.kind)
        if name not in known:
            raise SpecError(
                f"no plan of {PLANS} has {name}",
                place,
                nearest(name, known)
                or nearest(name.partition(".")[0], known)
                or f"describe it in {PLANS}, in a plan whose x-message leads to the field",
                "unknown-plan",
            )
        return Target(path, "plan", (name,), known[name])

    def payload_of(self, path: str) -> str | None:
        """The payload that a path leads into, as the prefix of its targets."""
        settings = self.sources.settings.payloads
        prefixes = [f"{word}.{inner}" for word, one in settings.items() for inner in one.also]
        begun = (p for p in [*prefixes, *settings] if path.startswith((f"{p}.", f"{p}[")))
        return next(begun, None)

    def _payload(self, path: str, prefix: str, place: Place) -> Target:
        word = prefix.partition(".")[0]
        name = path.removeprefix(prefix).strip(".[]")
        known = next((one.fields for one in self.payloads if one.root == prefix), None)
        if known is None:
            raise SpecError(f"{path} is of an object with faults", place, rule=UNREAD)
        if name not in known:
            called = self.sources.settings.payloads[word].name
            raise SpecError(
                f"the {called} has no {path.removeprefix(word).strip('.[]')}",
                place,
                nearest(name, known) or (one_of(known) if known else None),
                "unknown-target",
            )
        return Target(path, prefix, (name,), known[name].kind)

    @property
    def _document(self) -> str:
        return f"the {self.document.name}"

    def _record_members(self, name: str) -> Mapping[str, Kind]:
        return {
            name: field.kind
            for name, field in self.records[name].fields.items()
            if field.kind.scalar or (field.kind.of and all(part.scalar for part in field.kind.of))
        }

    def _members(self, kind: Kind) -> Mapping[str, Kind]:
        match kind.name:
            case "written":
                return self._record_members(kind.ref)
            case "record":
                return self.sources.records[kind.ref].fields
            case "message":
                if kind.ref not in self.api.messages:
                    return {}
                return {n: f.kind for n, f in self.api.messages[kind.ref].fields.items()}
            case "object" | "json":
                return {
                    name: replace(field.kind, optional=field.absent_is_none)
                    for name, field in self.keys_of(kind).items()
                }
        return {}

    def _step(self, before: Source, step: str, place: Place) -> Source:
        if before.kind.name == "message" and keyword.iskeyword(step):
            raise SpecError(
                f"{before.kind.ref}.{step} is a word of Python, so generated code cannot read it",
                place,
                "give the message around it to the function",
                "keyword-field",
            )
        kind = self._members(before.kind)[step]
        steps = (*before.steps, step)
        received = before.kind.name == "message"
        presence = received and self.api.messages[before.kind.ref].fields[step].presence
        return Source(
            f"{before.path}.{step}" if before.path else step,
            before.root,
            steps,
            kind,
            presence,
            told_by=steps if presence else before.told_by,
            fields=(*before.fields, f"{before.kind.ref}.{step}") if received else before.fields,
        )
