"""spec/rpc.yaml as a model: every RPC of the API, each served, batched or deliberately unserved."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from codegen import load, project, well_known
from codegen.errors import Place, Problems, misspelt, nearest, one_of
from codegen.lifecycle import Lifecycle
from codegen.load import MappingNode, Node
from codegen.model import Api, Field, Message, Method, Service, rpc_key, snake
from codegen.nodes import child, mapping, optional, text, values
from codegen.project import Settings
from codegen.well_known import python_class

FILE = "spec/rpc.yaml"


@dataclass(frozen=True, slots=True)
class Operation:
    """The hand-written method that does the work: ``noun.method``."""

    noun: str
    method: str
    place: Place

    def __str__(self) -> str:
        return f"{self.noun}.{self.method}"


@dataclass(frozen=True, slots=True)
class Subject:
    """The object that a field of the request identifies."""

    kind: str
    """An object of spec/project.yaml."""
    field: str
    absent_is_ok: bool

    @property
    def type_variable(self) -> str:
        """The type of the object in the generated code, as a type variable."""
        return f"{self.kind.capitalize()}T"


@dataclass(frozen=True, slots=True)
class Allowed:
    """The allowed states, and the answer in other states."""

    states: tuple[str, ...]
    otherwise: str

    @property
    def otherwise_is_ok(self) -> bool:
        return self.otherwise == "ok"

    @property
    def error(self) -> str:
        """The class of errors.py for the refusal."""
        return "".join(word.capitalize() for word in self.otherwise.split("_"))


@dataclass(frozen=True, slots=True)
class Batches:
    """A streaming list, split from the response of a unary one."""

    of: Rpc
    shared: tuple[str, ...]
    """Request fields that both have."""
    source: str
    """The repeated field of the unary answer."""
    target: str
    """The repeated field of each message of the stream."""
    size: int | None
    """The number of items in a message; None: as in other streams."""


@dataclass(frozen=True, slots=True)
class Rpc:
    """One RPC and how it is answered; exactly one of the three ways is set."""

    name: str
    """Its key in rpc.yaml."""
    method: Method
    operation: Operation | None
    batches: Batches | None
    issue: str | None
    """The issue in which an unserved RPC will be served."""
    subject: Subject | None
    allowed: Allowed | None
    mutates: bool
    log: tuple[str, ...]
    why: str
    place: Place
    """Where its entry begins."""

    @property
    def answered(self) -> bool:
        """Whether one of the three ways is set; if not, its entry has a fault."""
        return self.operation is not None or self.batches is not None or self.issue is not None

    @property
    def constant(self) -> str:
        """The prefix of its constants."""
        return snake(self.name).upper()

    @property
    def answer(self) -> str:
        """The annotation of the result of its handler and its hand-written method."""
        response = python_class(self.method.response)
        return f"AsyncIterator[{response}]" if self.method.streams else response

    def asked(self, request: str) -> str:
        """The annotation of the parameter with the request, or with a stream of them."""
        return f"AsyncIterator[{request}]" if self.method.takes_stream else request

    @property
    def validator(self) -> str:
        """The module of generated.validators that checks its request, if it has any rule."""
        return snake(self.method.request)

    @property
    def frame(self) -> str:
        """The decorator of frame.py that wraps its handler."""
        return "stream" if self.method.streams else "unary"

    @property
    def shown(self) -> tuple[str, ...]:
        """The request fields in its log line."""
        return (*([self.subject.field] if self.subject else []), *self.log)

    @property
    def errors(self) -> Iterator[str]:
        """The classes of errors.py that its handler raises."""
        if self.issue:
            yield "Unimplemented"
        if self.subject and not self.subject.absent_is_ok:
            yield "NotFound"
        if self.allowed and not self.allowed.otherwise_is_ok:
            yield self.allowed.error


@dataclass(frozen=True, slots=True)
class Noun:
    """The operations of one hand-written class."""

    name: str
    singular: str
    rpcs: tuple[Rpc, ...]

    @property
    def operations(self) -> tuple[Rpc, ...]:
        """The first RPC of each of its methods: one method can serve RPCs of several services."""
        return tuple({str(rpc.operation): rpc for rpc in reversed(self.rpcs)}.values())[::-1]

    @property
    def protocol(self) -> str:
        return f"{self.singular.capitalize()}Operations"

    @property
    def python_class(self) -> str:
        """The hand-written class."""
        return self.name.capitalize()

    @property
    def type_variables(self) -> tuple[str, ...]:
        """The types of the objects that its methods receive, sorted."""
        return tuple(sorted({r.subject.type_variable for r in self.rpcs if r.subject}))


@dataclass(frozen=True, slots=True)
class ServiceRpcs:
    """One gRPC service with all its RPCs, in the order of the proto."""

    service: Service
    rpcs: tuple[Rpc, ...]

    @property
    def name(self) -> str:
        return self.service.name

    @property
    def subjects(self) -> tuple[Subject, ...]:
        """One for each kind of object that it looks up, sorted by kind."""
        found = {rpc.subject.kind: rpc.subject for rpc in self.rpcs if rpc.subject}
        return tuple(found[kind] for kind in sorted(found))

    @property
    def state_classes(self) -> tuple[str, ...]:
        """The enums of the states that it tests, sorted."""
        tested = {r.subject.kind for r in self.rpcs if r.subject and r.allowed}
        return tuple(f"{kind.capitalize()}State" for kind in sorted(tested))


@dataclass(frozen=True, slots=True)
class Rpcs:
    """All RPCs."""

    services: tuple[ServiceRpcs, ...]
    singular: Mapping[str, str] = field(default_factory=dict)
    """Of nouns whose singular is not the noun without its s."""
    keys: frozenset[str] = frozenset()
    """Every key of rpc.yaml, also what is no RPC of the version that is read."""

    @property
    def nouns(self) -> tuple[Noun, ...]:
        """Every noun with its operations, sorted by name."""
        every = [rpc for rpc in self.all if rpc.operation]
        names = sorted({rpc.operation.noun for rpc in every if rpc.operation})
        return tuple(
            Noun(
                name,
                self.singular.get(name, name.removesuffix("s")),
                tuple(r for r in every if r.operation and r.operation.noun == name),
            )
            for name in names
        )

    @property
    def all(self) -> tuple[Rpc, ...]:
        """Every RPC of every service."""
        return tuple(rpc for service in self.services for rpc in service.rpcs)

    def find(self, name: str) -> Rpc | None:
        """The RPC with this key."""
        return next((rpc for rpc in self.all if rpc.name == name), None)


def read(root: Path, api: Api | None, lifecycle: Lifecycle | None, problems: Problems) -> Rpcs:
    """The RPCs of ``api`` as defined by rpc.yaml in ``root``; semantic faults go to ``problems``.

    Entries that violate the schema are omitted. If ``api`` or ``lifecycle`` could not be read, what
    depends on them is omitted too.
    """
    schema = load.language_schema("rpc")
    node, faulty = load.checked_parts(root, FILE, schema, [("*",)], problems)
    if api is None:
        return Rpcs(())
    entries = {key.value: (key.place, entry) for key, entry in mapping(node).items()}
    methods = api.rpcs
    _same_names(node, api, {name for [name] in faulty}, problems)
    settings = project.read(root)
    without = methods.keys() - entries.keys()
    reader = _Reader(api, settings, lifecycle, without, problems)
    unary = {
        name: reader.rpc(name, place, entry, {})
        for name, (place, entry) in entries.items()
        if name in methods and optional(entry, "batches_of") is None
    }
    rpcs = unary | {
        name: reader.rpc(name, place, entry, unary)
        for name, (place, entry) in entries.items()
        if name in methods and name not in unary
    }
    services = tuple(
        ServiceRpcs(
            service,
            tuple(
                rpcs[key]
                for name in service.methods
                if (key := rpc_key(service.name, name, api.services)) in rpcs
            ),
        )
        for service in api.services.values()
    )
    return Rpcs(services, settings.singular, frozenset(entries))


def _same_names(node: Node, api: Api, faulty: Collection[str], problems: Problems) -> None:
    """Record each key that is no RPC, and each RPC without an entry; once if one is the other."""
    assert isinstance(node, MappingNode)
    named, methods = {key.value: key for key, _ in node.items()}, api.rpcs
    meant = misspelt(named, methods) | set(faulty)
    for name, key in named.items():
        if name in methods:
            continue
        several = [one for one in methods if one.rpartition(".")[2] == name]
        if several:
            problems.add(
                f"the RPC {name} is of several services, and the entry could mean any",
                key.place,
                f"write {' and '.join(several)}",
                "rpc-of-several-services",
            )
            meant.update(several)
            continue
        was = [f"{service}.{name.rpartition('.')[2]}" for service in api.services]
        now = next((path for one in was if (path := api.former.now(one)) is not None), None)
        if now is not None:
            service, _, renamed = now.rpartition(".")
            meant.add(rpc_key(service, renamed, api.services))
        said = (hint for one in was if (hint := api.former.hint(one)) is not None)
        problems.add(
            f"the {api.name} has no RPC {name}",
            key.place,
            next(said, None) or nearest(name.rpartition(".")[2], methods) or one_of(methods),
            "unknown-rpc",
        )
    for name in methods:
        if name not in named and name not in meant:
            problems.add(
                f"the RPC {name} has no entry",
                node.place,
                "say who serves it, or that it is unserved and in which issue it will be"
                " (cri-codegen stubs adds an entry)",
                "rpc-without-entry",
            )


@dataclass(frozen=True, slots=True)
class _Reader:
    """Turns entries into RPCs."""

    api: Api
    settings: Settings
    lifecycle: Lifecycle | None
    without: Collection[str]
    """RPCs without an entry that could be read, which is reported."""
    problems: Problems

    def rpc(self, name: str, place: Place, entry: Node, unary: Mapping[str, Rpc]) -> Rpc:
        method = self.api.rpcs[name]
        subject = optional(entry, "object")
        states = optional(entry, "states")
        served_by = optional(entry, "served_by")
        unserved = optional(entry, "unserved")
        if unserved is not None and text(child(unserved, "issue")) == "undecided":
            self.problems.add(
                f"the RPC {name} (since {method.since}) is undecided",
                unserved.place,
                "say who serves it, or in which issue it will be served",
                "undecided-rpc",
            )
        mutates = optional(entry, "mutates")
        for message in {method.request, method.response} - self.api.messages.keys():
            if well_known.module(message) is None:
                self.problems.add(
                    f"{name} is about {message}, which is not a message of {self.api.package}",
                    place,
                    f"teach codegen/well_known.py in which module of protobuf {message} is",
                    "foreign-message",
                )
        request = self.api.messages.get(method.request, Message(method.request, {}, method.since))
        if (method.streams or method.takes_stream) and subject is not None:
            verb = "takes a stream" if method.takes_stream else "streams"
            self.problems.add(
                f"{name} {verb}, so its handler can look up no object",
                subject.place,
                "leave out object and states; the method that serves it can look it up",
                "stream-with-object",
            )
        log = optional(entry, "log")
        if method.takes_stream and log is not None:
            self.problems.add(
                f"{name} takes a stream, so there is no single request to log fields of",
                log.place,
                "leave out log",
                "stream-with-log",
            )
        for path in values(optional(entry, "log")):
            self._loggable(request, path)
        return Rpc(
            name=name,
            method=method,
            operation=_operation(served_by) if served_by else None,
            batches=self._batches(method, entry, unary),
            issue=text(child(unserved, "issue")) if unserved else None,
            subject=self._subject(request, subject) if subject else None,
            allowed=(
                self._allowed(child(child(entry, "object"), "kind"), states) if states else None
            ),
            mutates=mutates is not None and mutates.plain() is True,
            log=tuple(text(path) for path in values(optional(entry, "log"))),
            why=text(child(entry, "why")),
            place=place,
        )

    def _subject(self, request: Message, node: Node) -> Subject:
        path = child(node, "field")
        field = self._field(request, path)
        if field is not None and field.kind.name != "str":
            self.problems.add(
                f"{text(path)} is not an ID: it is {field.kind}",
                path.place,
                "name a string field of the request",
                "object-is-no-id",
            )
        kind = child(node, "kind")
        if text(kind) not in self.settings.objects:
            self.problems.add(
                f"{project.FILE} names no object {text(kind)}",
                kind.place,
                nearest(text(kind), self.settings.objects) or one_of(self.settings.objects),
                "unknown-object",
            )
        return Subject(
            kind=text(kind),
            field=text(path),
            absent_is_ok=text(child(node, "absent")) == "ok",
        )

    def _allowed(self, kind: Node, node: Node) -> Allowed:
        machines = self.lifecycle.machines if self.lifecycle is not None else ()
        known = [
            s.name for machine in machines if machine.noun == text(kind) for s in machine.states
        ]
        for state in values(child(node, "allowed")):
            if known and text(state) not in known:
                self.problems.add(
                    f"{text(state)} is not a state of a {text(kind)}",
                    state.place,
                    nearest(text(state), known) or one_of(known),
                    "unknown-state",
                )
        return Allowed(
            states=tuple(text(state) for state in values(child(node, "allowed"))),
            otherwise=text(child(node, "otherwise")),
        )

    def _batches(self, method: Method, entry: Node, unary: Mapping[str, Rpc]) -> Batches | None:
        node = optional(entry, "batches_of")
        if node is None:
            return None
        of = unary.get(text(node))
        if text(node) in self.without:
            return None
        if of is None or of.operation is None or of.subject is not None:
            lists = [
                name
                for name, one in unary.items()
                if one.operation and self._only_list(one.method.response) is not None
            ]
            self.problems.add(
                f"{text(node)} is not a served list",
                node.place,
                nearest(text(node), lists) or one_of(lists),
                "batches-do-not-fit",
            )
            return None
        source = self._only_list(of.method.response)
        target = self._only_list(method.response)
        fits = method.streams and not method.takes_stream and not of.method.takes_stream
        if source is None or target is None or source.kind != target.kind or not fits:
            self.problems.add(
                f"{method.response} cannot carry parts of {of.method.response}",
                node.place,
                "both must hold one repeated field of the same type, and only this RPC may have a"
                " stream, its response",
                "batches-do-not-fit",
            )
            return None
        ours, theirs = (
            self.api.messages[name].fields if name in self.api.messages else {}
            for name in (method.request, of.method.request)
        )
        shared = tuple(
            name for name, f in ours.items() if name in theirs and theirs[name].kind == f.kind
        )
        size = optional(entry, "batch")
        return Batches(
            of, shared, source.name, target.name, int(text(size)) if size is not None else None
        )

    def _only_list(self, message: str) -> Field | None:
        if message not in self.api.messages:
            return None
        fields = list(self.api.messages[message].fields.values())
        return fields[0] if len(fields) == 1 and fields[0].repeated else None

    def _loggable(self, request: Message, path: Node) -> None:
        field = self._field(request, path)
        if field is None:
            return
        if field.redacted:
            self.problems.add(
                f"{text(path)} must never reach a log",
                path.place,
                "it is debug_redact in the proto",
                "not-for-the-log",
            )
        elif field.message or field.repeated or field.mapped:
            self.problems.add(
                f"{text(path)} is not a single value",
                path.place,
                "name a field below it",
                "not-for-the-log",
            )

    def _field(self, message: Message, path: Node) -> Field | None:
        """The field at a dotted path, or None after recording where the path is invalid."""
        steps = text(path).split(".")
        found: Field | None = None
        for number, step in enumerate(steps):
            found = message.fields.get(step)
            if found is None:
                self.problems.add(
                    f"{message.name} has no field {step}",
                    path.place,
                    nearest(step, message.fields) or one_of(message.fields),
                    "unknown-field",
                )
                return None
            if number + 1 < len(steps):
                if found.message is None or found.repeated or found.mapped:
                    self.problems.add(
                        f"{step} of {message.name} is not a message",
                        path.place,
                        "only a message has fields",
                        "unknown-field",
                    )
                    return None
                if found.message not in self.api.messages:
                    self.problems.add(
                        f"{found.message} is not a message of {self.api.package}",
                        path.place,
                        "name another field",
                        "foreign-message",
                    )
                    return None
                message = self.api.messages[found.message]
        return found


def _operation(node: Node) -> Operation:
    noun, _, method = text(node).partition(".")
    return Operation(noun, method, node.place)
