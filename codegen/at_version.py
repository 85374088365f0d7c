"""The specification as it would be if an older version of the API were the current one.

Mapping, RPCs and plans are written for the current version. What they decide about fields, messages
and RPCs that an older version lacks is left out, and a function that also takes such a field as an
input gets the value of an unset one. Everything else stays as it is.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from codegen import checks, lifecycle
from codegen.errors import Place, Problems, SpecError
from codegen.lifecycle import Lifecycle, Machine
from codegen.model import (
    Api,
    Argument,
    Call,
    Compared,
    Computed,
    ComputedBack,
    Copied,
    CopiedBack,
    Descended,
    Entry,
    Item,
    Kind,
    Mapped,
    MappingFile,
    Match,
    Plan,
    Property,
    Read,
    Rule,
    Source,
    Target,
    Test,
    Write,
    split_partner,
)
from codegen.older import OlderService
from codegen.plan import planned
from codegen.rpc import Rpc, Rpcs, ServiceRpcs

_UNSET: Mapping[str, str] = {
    "bool": "False",
    "bytes": 'b""',
    "enum": "0",
    "float": "0.0",
    "int": "0",
    "list": "()",
    "map": "{}",
    "str": '""',
}
_CONVERTED: Mapping[tuple[str, str], str] = {
    ("bytes", "str"): "bytes.decode",
    ("str", "bytes"): "str.encode",
}
"""By the type of a field in the older and in the current version: the function between them. Both
types have the same bytes on the wire."""


@dataclass(frozen=True, slots=True)
class Restricted:
    """What both versions have, of the resolved mapping."""

    api: Api
    """The older version."""
    current: Api
    files: Mapping[str, MappingFile]
    problems: Problems

    def mapped(self, one: Mapped) -> Mapped:
        """One message that the older version has."""
        message, file = self.api.messages[one.message.name], self.files[one.message.name]
        taking = [e for name, e in file.entries.items() if name in message.fields and file.takes]
        tests = [self._tests(file, entry) for entry in taking]
        return replace(
            one,
            message=message,
            file=file,
            writes=tuple(self._writes(one)),
            reads=tuple(self._reads(one)),
            matches=tuple(self._matches(one)),
            tests=tuple(test for found in tests for test in found),
            descents=tuple(checks.descents(message, self.files)) if file.takes else (),
            items=tuple(item for item in one.items if not self._never(item)),
        )

    def _tests(self, file: MappingFile, entry: Entry) -> tuple[Test, ...]:
        message = self.api.messages[file.message]
        found = self.problems.attempt(lambda: checks.tests(message, entry, self.api))
        return found or ()

    def _never(self, item: Item) -> bool:
        """Whether a condition of the item needs a field that the older version lacks."""
        return any(self._lacks(condition.source) for condition in item.conditions)

    def _writes(self, one: Mapped) -> Iterator[Write]:
        for write in one.writes:
            match write:
                case Copied(source=source, target=target, condition=condition):
                    if not self._lacks(source):
                        self._must_be_same(write.entry, source)
                        yield write
                    elif condition is None and self._is_demanded(one, target):
                        yield replace(write, source=self._unset(write.entry, source), items=None)
                case Computed(call=call, target=target):
                    if (
                        not self._lacks_all(call)
                        or write.entry.name in one.file.targets
                        or self._is_demanded(one, target)
                    ):
                        yield replace(write, call=self._call(write.entry, call))
                case _:
                    if self._has(one, write.entry):
                        yield write

    def _reads(self, one: Mapped) -> Iterator[Read]:
        for read in one.reads:
            if not self._has(one, read.entry):
                continue
            match read:
                case CopiedBack(source=source):
                    if not self._lacks(source):
                        self._must_be_same(read.entry, source)
                        yield read
                case ComputedBack(call=call):
                    if not self._lacks_all(call):
                        yield replace(read, call=self._call(read.entry, call))
                case Descended(of=of) if of is not None and self._lacks(of):
                    pass
                case _:
                    yield read

    def _matches(self, one: Mapped) -> Iterator[Match]:
        for match in one.matches:
            if self._has(one, match.entry) and not (
                isinstance(match, Compared)
                and (self._lacks(match.source) or self._lacks(match.against))
            ):
                yield match

    def _has(self, one: Mapped, entry: Entry) -> bool:
        """Whether the older version has the field, and the message whose entry takes it."""
        found = self.files[one.message.name]
        return found.entries.get(entry.name) is not None or entry.name in found.targets

    def _lacks(self, source: Source) -> bool:
        return any(self._kind(self.api, field) is None for field in source.fields)

    def _lacks_all(self, call: Call) -> bool:
        """Whether a call has inputs of messages, and all of them are lacking."""
        read = [argument.source for argument in call.arguments if argument.source.fields]
        return bool(read) and all(self._lacks(source) for source in read)

    @staticmethod
    def _kind(api: Api, field: str) -> Kind | None:
        message, _, name = field.rpartition(".")
        found = api.messages[message].fields.get(name) if message in api.messages else None
        return found.kind if found is not None else None

    def _call(self, entry: Entry, call: Call) -> Call:
        return replace(call, arguments=tuple(self._argument(entry, a) for a in call.arguments))

    def _argument(self, entry: Entry, argument: Argument) -> Argument:
        source = argument.source
        if self._lacks(source):
            unset = self._unset(entry, source)
            if argument.none_if_unset:
                unset = replace(unset, unset_as="None")
            return replace(argument, source=unset, none_if_unset=False, converted=None, items=None)
        change = self._change(source)
        if change is None:
            return argument
        between = _CONVERTED.get((change[0].name, change[1].name))
        if between is None or argument.none_if_unset:
            raise self._refusal(entry, source, change)
        return replace(argument, converted=between)

    def _unset(self, entry: Entry, source: Source) -> Source:
        """What an unset field reads as."""
        text = "None" if source.key is not None else _UNSET.get(source.kind.name)
        if text is None and source.kind.ref in self.api.messages:
            text = f"api_pb2.{source.kind.ref}()"
        if text is None:
            raise SpecError(
                f"{source.path} is {source.kind}, which the {_named(self.api)} lacks, so there is"
                " no value of an unset one",
                entry.place,
                "give the function a field of it",
            )
        return replace(source, root=None, steps=(), told_by=(), fields=(), key=None, unset_as=text)

    def _change(self, source: Source) -> tuple[Kind, Kind] | None:
        """The types of a value in both versions, if they differ."""
        if not source.fields:
            return None
        before, after = (self._kind(api, source.fields[-1]) for api in (self.api, self.current))
        same = before is None or after is None or before == after
        return None if same or before is None or after is None else (before, after)

    def _must_be_same(self, entry: Entry, source: Source) -> None:
        change = self._change(source)
        if change is not None:
            raise self._refusal(entry, source, change)

    def _refusal(self, entry: Entry, source: Source, change: tuple[Kind, Kind]) -> SpecError:
        return SpecError(
            f"{source.path} is {change[0]} in the {_named(self.api)}, but its entry is written for"
            f" {change[1]}, as in {self.current.version}",
            entry.place,
            "this version cannot be generated",
        )

    def _is_demanded(self, one: Mapped, target: Target) -> bool:
        """Whether an item cannot exist without the target."""
        for item in one.items:
            key = item.key(target.path)
            if key is not None and (not key or item.keys[key].required):
                return True
        return False


def files(current: Mapping[str, MappingFile], api: Api) -> dict[str, MappingFile]:
    """The mapping files without the fields, rules and messages that ``api`` lacks."""
    known = {name: file for name, file in current.items() if name in api.messages}
    return {
        name: replace(
            file,
            entries={
                field: _entry(entry, name, api)
                for field, entry in file.entries.items()
                if field in api.messages[name].fields and _is_taken(entry, known)
            },
        )
        for name, file in known.items()
    }


def decided(api: Api, current: Api, known: Mapping[str, MappingFile]) -> Api:
    """``api`` without what newer versions removed, because no entry is left that decides about it.

    What only newer versions mark as secret is not logged either.
    """
    messages = {}
    for name, message in api.messages.items():
        if name in known:
            now = current.messages[name].fields
            fields = {
                field: replace(found, redacted=found.redacted or now[field].redacted)
                for field, found in message.fields.items()
                if field in known[name].entries
            }
            messages[name] = replace(message, fields=fields)
    return replace(api, messages=messages)


def _is_taken(entry: Entry, known: Mapping[str, MappingFile]) -> bool:
    """Whether the message whose entry takes the field exists, if another one's does."""
    if entry.partner is None or not entry.with_another:
        return True
    return split_partner(entry.partner, known)[0] in known


def _entry(entry: Entry, message: str, api: Api) -> Entry:
    found = (_rule(rule, entry.name, message, api) for rule in entry.rules)
    rules = tuple(rule for rule in found if rule is not None)
    return entry if rules == entry.rules else replace(entry, rules=rules)


def _rule(rule: Rule, field: str, message: str, api: Api) -> Rule | None:
    """The rule without the fields and enum values that ``api`` lacks; None if nothing is left."""
    known: Mapping[str, object]
    if rule.name in checks.BETWEEN:
        known = api.messages[message].fields
    elif rule.name == "allowed_enum":
        kind = api.messages[message].fields[field].kind
        known = api.enums[(kind.of[-1] if kind.of else kind).ref].values
    else:
        return rule
    left = tuple(value for value in rule.values if str(value) in known)
    return replace(rule, values=left) if left else None


def rpcs(whole: Rpcs, api: Api) -> Rpcs:
    """The RPCs that ``api`` has, as it has them."""
    return replace(
        whole,
        services=tuple(
            ServiceRpcs(service, tuple(_rpcs_of(one, service.name, api)))
            for one in whole.services
            if (service := api.services.get(one.name)) is not None
        ),
    )


def _rpcs_of(one: ServiceRpcs, service: str, api: Api) -> Iterator[Rpc]:
    methods = api.services[service].methods
    for found in one.rpcs:
        method = methods.get(found.method.name)
        if method is None:
            continue
        subject, batches = found.subject, found.batches
        request = api.messages[method.request].fields if method.request in api.messages else {}
        if subject is not None and subject.field.partition(".")[0] not in request:
            raise SpecError(
                f"{method.request} has no {subject.field} in the {_named(api)}",
                found.place,
                f"the handler of {found.name} finds its object by it; this version cannot be"
                " generated",
            )
        if batches is not None:
            batches = replace(
                batches, shared=tuple(name for name in batches.shared if name in request)
            )
        log = tuple(path for path in found.log if path.partition(".")[0] in request)
        yield replace(found, method=method, batches=batches, log=log)


def plans(known: Mapping[str, Plan], mapped: Mapping[str, Mapped]) -> dict[str, Plan]:
    """The plans of messages that exist, with the properties that an entry still fills."""
    return {
        name: replace(plan, fields=fields)
        for name, plan in known.items()
        if plan.message in mapped and (fields := _filled(plan, mapped))
    }


def _filled(plan: Plan, mapped: Mapping[str, Mapped]) -> dict[str, Property]:
    filled = {value.field.name for value in planned(mapped, plan, plan.message, ())}
    return {name: field for name, field in plan.fields.items() if name in filled}


def machines(whole: Lifecycle, api: Api) -> Lifecycle:
    """The lifecycle, which emits no event that ``api`` lacks; raises SpecError if it lacks a
    state."""
    return Lifecycle(tuple(_machine(machine, api) for machine in whole.machines))


def _machine(machine: Machine, api: Api) -> Machine:
    shown = api.enums[machine.enum].values if machine.enum in api.enums else {}
    for state in machine.states:
        if state.shown not in shown:
            raise SpecError(
                f"the {_named(api)} has no state {state.shown}, which a {machine.noun} has",
                Place(lifecycle.FILE),
                "this version cannot be generated",
            )
    names = {name for enum in api.enums.values() for name in enum.values}
    return replace(
        machine,
        transitions=tuple(
            move if move.emits in names else replace(move, emits=None)
            for move in machine.transitions
        ),
        created_emits=tuple(name for name in machine.created_emits if name in names),
    )


def former(services: tuple[OlderService, ...], api: Api) -> tuple[OlderService, ...]:
    """The services of older packages, with the methods that ``api`` has too."""
    known = {name for service in api.services.values() for name in service.methods}
    return tuple(
        replace(one, methods=tuple(method for method in one.methods if method.name in known))
        for one in services
    )


def _named(api: Api) -> str:
    return f"{api.name} {api.version}"
