"""From resolved entries to the facts of one generated file: its parameters, its imports, the
names of modules in it, and the other generated files it calls.

Still facts; ``codegen/emit`` writes them as Python.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from codegen import well_known
from codegen.model import (
    Call,
    Computed,
    ComputedBack,
    Copied,
    CopiedBack,
    Descended,
    Descent,
    Field,
    Item,
    Left,
    Mapped,
    MappingFile,
    Message,
    Plan,
    Property,
    Source,
    Test,
    Write,
    is_planned,
    snake,
    stored,
    written,
)
from codegen.project import Settings
from codegen.rpc import Noun, Rpc, Rpcs, ServiceRpcs

_ALWAYS_TAKEN = frozenset({"annotations", "api_pb2", "facts", "item", "out", "src", "types"})
_DEEPEST = 16
"""Maximum nesting of messages; deeper nesting can only be a cycle, which a rule refuses."""
_LISTS = "lists"
"""The module of transforms whose ``merge`` joins lists by the identity of their items."""


@dataclass(frozen=True, slots=True, order=True)
class Import:
    """``from home import name``, or ``… as alias``."""

    home: str
    name: str
    alias: str | None = None


@dataclass(frozen=True, slots=True)
class Parameter:
    """A keyword-only parameter of a builder or reader."""

    name: str
    annotation: str


@dataclass(frozen=True, slots=True)
class Names:
    """What is known inside one builder or reader."""

    parameters: tuple[Parameter, ...]
    imports: frozenset[Import]
    modules: Mapping[tuple[str, str], str]
    """The local name of each imported module that is called, by package and module; the packages
    are ``transforms``, ``builders``, ``items`` and ``statuses``."""

    @property
    def taken(self) -> set[str]:
        """Names that a local variable must not have."""
        imported = {one.alias or one.name for one in self.imports}
        return {p.name for p in self.parameters} | _ALWAYS_TAKEN | imported


@dataclass(frozen=True, slots=True)
class Builder:
    """The builder of one message."""

    mapped: Mapped
    names: Names
    nested: Mapping[str, tuple[str, ...]]
    """The messages whose builders it calls, and the arguments of each."""


@dataclass(frozen=True, slots=True)
class Reader:
    """generated/statuses/<message>.py."""

    mapped: Mapped
    names: Names
    nested: Mapping[str, tuple[str, ...]]
    """The messages whose readers it calls, and the arguments of each."""


@dataclass(frozen=True, slots=True)
class Filter:
    """generated/filters/<message>.py."""

    mapped: Mapped
    imports: frozenset[Import]


@dataclass(frozen=True, slots=True)
class Checked:
    """Everything that a validator does with one field."""

    field: Field
    tests: tuple[Test, ...]
    nested: str | None
    """The module of the validator that continues."""


@dataclass(frozen=True, slots=True)
class Validator:
    """generated/validators/<message>.py."""

    mapped: Mapped
    imports: frozenset[Import]
    fields: tuple[Checked, ...]


@dataclass(frozen=True, slots=True)
class Service:
    """generated/handlers/<service>.py."""

    rpcs: ServiceRpcs
    nouns: tuple[Noun, ...]
    """What its handlers call."""
    imports: frozenset[Import]
    validated: frozenset[str]
    """The existing modules of generated.validators."""
    plans: Mapping[str, Plan]
    """By request: the plan that the hand-written method gets instead."""


# --- names and imports


def annotation(root: str, settings: Settings) -> str:
    """The type of a context root."""
    if root == "record" and settings.record is not None:
        return f"{settings.record.stub}.{settings.record.message}"
    return f"types.{settings.document.root}" if root == "spec" else f"facts.{_class_name(root)}"


def _parameters(roots: Iterable[str], settings: Settings) -> tuple[Parameter, ...]:
    return tuple(Parameter(root, annotation(root, settings)) for root in sorted(roots))


def _class_name(root: str) -> str:
    return "".join(part.capitalize() for part in root.split("_"))


def _api(settings: Settings) -> Import:
    return Import(settings.stubs, "api_pb2")


def _types(settings: Settings) -> Import:
    return Import(settings.builders, "types")


def _names(
    settings: Settings,
    roots: Iterable[str],
    package: str,
    nested: Iterable[str],
    topics: Iterable[str],
    always: Iterable[Import],
    items: Iterable[str] = (),
) -> Names:
    """Modules are renamed where a parameter has the same name."""
    parameters = _parameters(roots, settings)
    used = {p.name for p in parameters} | _ALWAYS_TAKEN
    if settings.record is not None:
        used.add(settings.record.stub)
    modules: dict[tuple[str, str], str] = {}
    imports = set(always)
    home = settings.builders if package == "builders" else f"{settings.output}.{package}"
    wanted = [(home, snake(message), package) for message in set(nested)]
    wanted += [(f"{settings.output}.items", snake(message), "items") for message in set(items)]
    wanted += [(settings.transforms, topic, "transforms") for topic in set(topics)]
    for home, module, role in sorted(wanted):
        name = f"{module}_{home.rpartition('.')[2]}" if module in used else module
        used.add(name)
        modules[role, module] = name
        imports.add(Import(home, module, name if name != module else None))
    homes = {"facts": settings.transforms, "types": settings.builders}
    if settings.record is not None:
        homes[settings.record.stub] = f"{settings.output}.{settings.record.folder}"
    modules_of_annotations = {p.annotation.partition(".")[0] for p in parameters}
    imports |= {Import(homes[module], module) for module in modules_of_annotations}
    return Names(parameters, frozenset(imports), modules)


# --- builders


def builders(mapped: Mapping[str, Mapped], settings: Settings) -> list[Builder]:
    """One for each received message of which some field, directly or nested, has a target."""
    writing = {name for name in mapped if _writes(mapped, name)}
    return [_builder(mapped, mapped[name], writing, settings) for name in sorted(writing)]


def _writes(mapped: Mapping[str, Mapped], name: str, above: tuple[str, ...] = ()) -> bool:
    if name not in mapped or name in above or mapped[name].items:
        return False
    return any(
        (written(w) is not None and not is_planned(w))
        or (isinstance(w, Descended) and _writes(mapped, w.message, (*above, name)))
        for w in mapped[name].writes
    )


def _roots(mapped: Mapping[str, Mapped], name: str, above: tuple[str, ...] = ()) -> frozenset[str]:
    """The context roots of a builder, including those of the builders that it calls."""
    roots: set[str] = set()
    for write in mapped[name].writes if name in mapped and name not in above else ():
        if is_planned(write):
            continue
        match write:
            case Copied(source=source, target=target):
                roots |= {source.root} if source.root else set()
                roots |= {target.root} - {"out"}
            case Computed(call=call, target=target):
                roots |= roots_of(call) | ({target.root} - {"out"})
            case Descended(message=message):
                roots |= _roots(mapped, message, (*above, name))
    return frozenset(roots)


def roots_of(call: Call) -> frozenset[str]:
    """The context roots that the arguments of a call use."""
    return frozenset(a.source.root for a in call.arguments if a.source.root)


def _builder(
    mapped: Mapping[str, Mapped], one: Mapped, writing: set[str], settings: Settings
) -> Builder:
    called = {w.message for w in one.writes if isinstance(w, Descended) and w.message in writing}
    computed = [w for w in one.writes if isinstance(w, Computed) and not is_planned(w)]
    topics = {w.call.topic for w in computed}
    if any(
        isinstance(w, Copied | Computed) and stored(w.entry, w.target) == "merge"
        for w in one.writes
    ):
        topics.add(_LISTS)
    names = _names(
        settings,
        _roots(mapped, one.message.name),
        "builders",
        called,
        topics,
        [_api(settings), _types(settings)],
        passed_items(w for w in one.writes if not is_planned(w)),
    )
    return Builder(one, names, {m: tuple(sorted(_roots(mapped, m))) for m in called})


# --- items


@dataclass(frozen=True, slots=True)
class BuiltItem:
    """One of the items that a message becomes."""

    item: Item
    parameters: tuple[Parameter, ...]
    writes: tuple[Write, ...]
    """What fills it; the fields that fill nothing are among those of the first item."""
    plural: bool
    """Whether there is a function for several messages."""


@dataclass(frozen=True, slots=True)
class ItemBuilder:
    """generated/items/<message>.py."""

    mapped: Mapped
    items: tuple[BuiltItem, ...]
    names: Names


def items(mapped: Mapping[str, Mapped], settings: Settings) -> list[ItemBuilder]:
    """One for each message that becomes an item or an object."""
    return [_item_builder(one, settings) for _, one in sorted(mapped.items()) if one.items]


def _item_builder(one: Mapped, settings: Settings) -> ItemBuilder:
    built = tuple(_built(one, item, settings) for item in one.items)
    computed = [w.call for w in one.writes if isinstance(w, Computed)]
    always = {_api(settings)}
    for made in built:
        match made.item.kind.name:
            case "json":
                always.add(Import("typing", "Any"))
            case "object":
                always.add(_types(settings))
            case "record":
                always.add(Import(settings.transforms, "facts"))
        if made.plural:
            always.add(Import("collections.abc", "Iterable"))
    roots = {root for w in one.writes for root in _roots_of_write(w)}
    nested = passed_items(one.writes)
    names = _names(settings, roots, "items", nested, {call.topic for call in computed}, always)
    return ItemBuilder(one, built, names)


def _built(one: Mapped, item: Item, settings: Settings) -> BuiltItem:
    writes = tuple(w for w in one.writes if _fills(one, item, w))
    roots = {root for w in writes for root in _roots_of_write(w)}
    plural = item.listed and (bool(item.conditions) or not roots)
    return BuiltItem(item, _parameters(roots, settings), writes, plural)


def _fills(one: Mapped, item: Item, write: Write) -> bool:
    """Whether the write is shown with the item."""
    target, first = written(write), item is one.items[0]
    if target is not None:
        return item.key(target.path) is not None
    entry = write.entry
    if entry.partner is not None and not entry.with_another:
        return item.key(entry.value) is not None
    return first


def _roots_of_write(write: Write) -> frozenset[str]:
    match write:
        case Copied(source=source):
            return frozenset({source.root} if source.root else ())
        case Computed(call=call):
            return roots_of(call)
    return frozenset()


def passed_items(writes: Iterable[Write]) -> set[str]:
    """The messages whose items are copied or given to functions."""
    found: set[str] = set()
    for write in writes:
        match write:
            case Copied(items=made) if made is not None:
                found.add(made.message)
            case Computed(call=call):
                found |= {a.items.message for a in call.arguments if a.items is not None}
    return found


# --- plans


@dataclass(frozen=True, slots=True)
class Planned:
    """One value of a plan."""

    field: Property
    path: tuple[str, ...]
    """The fields that lead from the plan's message to the entry's."""
    write: Copied | Computed
    secret: bool
    """Whether it is computed from a field that must never be logged."""


@dataclass(frozen=True, slots=True)
class PlanOf:
    """One plan and the entries that fill it."""

    plan: Plan
    names: Names
    values: tuple[Planned, ...]


def plans(
    mapped: Mapping[str, Mapped], known: Mapping[str, Plan], settings: Settings
) -> list[PlanOf]:
    """One for each schema of spec/plan."""
    return [plan_of(mapped, plan, settings) for plan in known.values()]


def plan_of(mapped: Mapping[str, Mapped], plan: Plan, settings: Settings) -> PlanOf:
    found = {p.field.name: p for p in planned(mapped, plan, plan.message, ())}
    values = tuple(found[name] for name in plan.fields if name in found)
    calls = [v.write.call for v in values if isinstance(v.write, Computed)]
    roots = {root for call in calls for root in roots_of(call)}
    roots |= {v.write.source.root for v in values if isinstance(v.write, Copied)} - {None}  # type: ignore[arg-type]
    always = {_api(settings)}
    if any("record" in (v.field.kind.name, *(k.name for k in v.field.kind.of)) for v in values):
        always.add(Import(settings.transforms, "facts"))
    nested = passed_items(v.write for v in values)
    names = _names(settings, roots, "items", nested, {call.topic for call in calls}, always)
    return PlanOf(plan, names, values)


def planned(
    mapped: Mapping[str, Mapped], plan: Plan, name: str, path: tuple[str, ...]
) -> Iterator[Planned]:
    """The values of ``plan`` that are decided by the entries of a message and of the messages in
    it."""
    if name not in mapped or len(path) > _DEEPEST:
        return
    for write in mapped[name].writes:
        if isinstance(write, Descended) and not write.each:
            yield from planned(mapped, plan, write.message, (*path, write.entry.name))
        elif isinstance(write, Copied | Computed) and is_planned(write):
            [step] = write.target.steps
            if step in plan.fields and write.target.root == plan.root:
                yield Planned(plan.fields[step], path, write, _is_secret(mapped, name, write))


def _is_secret(mapped: Mapping[str, Mapped], name: str, write: Copied | Computed) -> bool:
    if isinstance(write, Copied):
        sources = [write.source]
        made = mapped.get(write.items.message) if write.items is not None else None
        if made is not None and secrets(made.message, made.file):
            return True
    else:
        sources = [argument.source for argument in write.call.arguments]
    if write.target.kind.name == "message":  # something below it may be secret
        return True
    return any(_has_secret(mapped, name, s.steps) for s in sources if s.root is None)


def _has_secret(mapped: Mapping[str, Mapped], name: str, steps: tuple[str, ...]) -> bool:
    if not steps or name not in mapped:
        return False
    if steps[0] in secrets(mapped[name].message, mapped[name].file):
        return True
    return _has_secret(mapped, mapped[name].message.fields[steps[0]].message or "", steps[1:])


def secrets(message: Message, file: MappingFile | None) -> list[str]:
    """The fields that must never be logged, because the API marks them ``debug_redact`` or their
    entry has the rule ``secret``."""
    entries = file.entries if file is not None else {}

    def is_secret(field: Field) -> bool:
        ruled = entries[field.name].rules if field.name in entries else ()
        return field.redacted or any(rule.name == "secret" for rule in ruled)

    return [field.name for field in message.fields.values() if is_secret(field)]


# --- readers


def readers(mapped: Mapping[str, Mapped], settings: Settings) -> list[Reader]:
    """One for each response message with a field that is copied or computed."""
    reading = {name for name in mapped if _reads(mapped, name)}
    return [_reader(mapped, mapped[name], reading, settings) for name in sorted(reading)]


def _reads(mapped: Mapping[str, Mapped], name: str, above: tuple[str, ...] = ()) -> bool:
    if name not in mapped or name in above:
        return False
    return any(
        isinstance(r, CopiedBack | ComputedBack)
        or (isinstance(r, Descended) and _reads(mapped, r.message, (*above, name)))
        for r in mapped[name].reads
    )


def _read_roots(
    mapped: Mapping[str, Mapped], name: str, above: tuple[str, ...] = ()
) -> frozenset[str]:
    roots: set[str] = set()
    for read in mapped[name].reads if name in mapped and name not in above else ():
        match read:
            case CopiedBack(source=source):
                roots |= {source.root} if source.root else set()
            case ComputedBack(call=call):
                roots |= roots_of(call)
            case Descended(message=message, of=of, parts=parts):
                below = _read_roots(mapped, message, (*above, name))
                roots |= below if of is None else (below - {called(of)} - parts) | {of.root or ""}
    return frozenset(roots)


def called(of: Source) -> str:
    """The name by which entries of a nested message address the object whose fields they read:
    that of its class; "" for anything but a record, which only decides whether the message is
    present."""
    kind = of.kind.of[0] if of.kind.name == "list" else of.kind
    return snake(kind.ref) if kind.name == "record" else ""


def _reader(
    mapped: Mapping[str, Mapped], one: Mapped, reading: set[str], settings: Settings
) -> Reader:
    called = {r.message for r in one.reads if isinstance(r, Descended) and r.message in reading}
    names = _names(
        settings,
        _read_roots(mapped, one.message.name),
        "statuses",
        called,
        {r.call.topic for r in one.reads if isinstance(r, ComputedBack)},
        [_api(settings)],
    )
    return Reader(one, names, {m: tuple(sorted(_read_roots(mapped, m))) for m in called})


# --- filters


def filters(mapped: Mapping[str, Mapped], settings: Settings) -> list[Filter]:
    """One for each message of flow match with a field that is compared."""
    return [
        _filter(one, settings)
        for _, one in sorted(mapped.items())
        if any(not isinstance(match, Left) for match in one.matches)
    ]


def _filter(one: Mapped, settings: Settings) -> Filter:
    nested = {snake(m.message) for m in one.matches if isinstance(m, Descended)}
    imports = {Import(f"{settings.output}.filters", name) for name in nested}
    always = {_api(settings), Import("collections.abc", "Sequence")}
    return Filter(one, frozenset(always | imports))


# --- validators


def validators(mapped: Mapping[str, Mapped], settings: Settings) -> list[Validator]:
    """One for each received message that has something to check, in itself or below."""
    checking = {name for name in mapped if _checks(mapped, name)}
    return [_validator(mapped[name], checking, settings) for name in sorted(checking)]


def _checks(mapped: Mapping[str, Mapped], name: str, above: tuple[str, ...] = ()) -> bool:
    if name not in mapped or name in above:
        return False
    one = mapped[name]
    return bool(one.tests) or any(_checks(mapped, d.message, (*above, name)) for d in one.descents)


def _validator(one: Mapped, checking: set[str], settings: Settings) -> Validator:
    descents: dict[str, Descent] = {d.field.name: d for d in one.descents if d.message in checking}
    fields = [
        Checked(
            field,
            tuple(test for test in one.tests if test.field is field),
            snake(descents[field.name].message) if field.name in descents else None,
        )
        for field in one.message.fields.values()
    ]
    imports = {
        _api(settings),
        Import(f"{settings.code}.errors", "Violation"),
        *(Import(f"{settings.output}.validators", f.nested) for f in fields if f.nested),
    }
    return Validator(one, frozenset(imports), tuple(f for f in fields if f.tests or f.nested))


# --- services


def services(
    rpcs: Rpcs, mapped: Mapping[str, Mapped], known: Mapping[str, Plan], settings: Settings
) -> list[Service]:
    """One for each gRPC service of the API."""
    validated = frozenset(v.mapped.module for v in validators(mapped, settings))
    by_request = plans_of_requests(rpcs, known)
    return [_service(service, rpcs, validated, by_request, settings) for service in rpcs.services]


def plans_of_requests(rpcs: Rpcs, known: Mapping[str, Plan]) -> dict[str, Plan]:
    """By request: the plan that is computed from it."""
    requests = {rpc.method.request for rpc in rpcs.all if rpc.operation}
    return {plan.message: plan for plan in known.values() if plan.message in requests}


def well_known_imports(rpcs: Iterable[Rpc]) -> set[Import]:
    """The modules of protobuf's own messages that RPCs are about."""
    about = (name for rpc in rpcs for name in (rpc.method.request, rpc.method.response))
    found = {module for name in about if (module := well_known.module(name)) is not None}
    return {Import(well_known.PACKAGE, module) for module in found}


def _service(
    service: ServiceRpcs,
    rpcs: Rpcs,
    validated: frozenset[str],
    by_request: Mapping[str, Plan],
    settings: Settings,
) -> Service:
    called = {rpc.operation.noun for rpc in service.rpcs if rpc.operation}
    nouns = tuple(noun for noun in rpcs.nouns if noun.name in called)
    checking = {rpc.validator for rpc in service.rpcs if not rpc.issue} & validated
    protocols = {noun.protocol for noun in nouns}
    protocols |= {subject.type_variable for subject in service.subjects}
    framed = {"Frame"} | {rpc.frame for rpc in service.rpcs}
    output, code = settings.output, settings.code
    imports = {Import(settings.stubs, name) for name in ("api_pb2", "api_pb2_grpc")}
    if service.subjects:
        imports.add(Import("typing", "Generic"))
        protocols.add("Lookup")
    if any(rpc.method.streams or rpc.method.takes_stream for rpc in service.rpcs):
        imports.add(Import("collections.abc", "AsyncIterator"))
    imports |= well_known_imports(service.rpcs)
    if any(rpc.batches for rpc in service.rpcs):
        framed.add("batches")
    if checking:
        framed.add("refuse_if_any")
    imports |= {Import(f"{output}.handlers.protocols", name) for name in protocols}
    imports |= {Import(f"{output}.lifecycle", name) for name in service.state_classes}
    imports |= {Import(f"{output}.validators", name) for name in checking}
    imports |= {Import(f"{code}.errors", name) for rpc in service.rpcs for name in rpc.errors}
    imports |= {Import(f"{code}.frame", name) for name in framed}
    own = {
        rpc.method.request: by_request[rpc.method.request]
        for rpc in service.rpcs
        if rpc.operation and rpc.method.request in by_request
    }
    batched = {r.batches.of.method.request for r in service.rpcs if r.batches is not None}
    own |= {name: by_request[name] for name in batched & by_request.keys()}
    imports |= {Import(f"{output}.plans", plan.function) for plan in own.values()}
    streamed = {rpc.method.request for rpc in service.rpcs if rpc.method.takes_stream}
    imports |= {Import(f"{output}.plans", own[name].python_class) for name in streamed & own.keys()}
    return Service(service, nouns, frozenset(imports), validated, own)
