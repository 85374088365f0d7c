"""spec/lifecycle.yaml as a model: complete and consistent state machines."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from codegen import load, project
from codegen.errors import Place, Problems, nearest, one_of
from codegen.former import Former
from codegen.load import MappingNode, Node
from codegen.nodes import child, items, mapping, optional, text, values, word_or_number
from codegen.project import Settings

FILE = "spec/lifecycle.yaml"
GONE = "GONE"


@dataclass(frozen=True, slots=True)
class State:
    """A state and the API's state that clients see."""

    name: str
    shown: str
    why: str


@dataclass(frozen=True, slots=True)
class Event:
    """An event of an object."""

    name: str
    why: str
    place: Place

    @property
    def constant(self) -> str:
        """Its name in the generated enum."""
        return self.name.upper()


@dataclass(frozen=True, slots=True)
class Transition:
    """The effect of ``event`` in state ``source``; ``target`` is None if the object is removed."""

    source: str
    event: Event
    target: str | None
    emits: str | None
    persists: str | None


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a status says after something that nothing reports."""

    name: str
    values: tuple[tuple[str, str | int], ...]
    why: str

    @property
    def constants(self) -> tuple[tuple[str, str], ...]:
        """Name and Python literal of each generated constant, without the noun."""
        return tuple((f"{self.name}_{key}".upper(), repr(value)) for key, value in self.values)


@dataclass(frozen=True, slots=True)
class Machine:
    """All states, events and transitions of one kind of object."""

    noun: str
    enum: str
    """The enum of the API that the states map to."""
    states: tuple[State, ...]
    events: tuple[Event, ...]
    transitions: tuple[Transition, ...]
    created: str
    created_emits: tuple[str, ...]
    recovered: tuple[str, ...]
    """States in which an object may appear that was not just created."""
    outcomes: tuple[Outcome, ...] = ()

    @property
    def kind(self) -> str:
        """The prefix of the generated class names."""
        return self.noun.capitalize()

    @property
    def state_class(self) -> str:
        """The generated enum of its states."""
        return f"{self.kind}State"

    @property
    def event_class(self) -> str:
        """The generated enum of its events."""
        return f"{self.kind}Event"

    def mermaid(self) -> str:
        """The machine as a Mermaid state diagram."""
        lines = ["stateDiagram-v2", f"    [*] --> {self.created}: created"]
        lines += [f"    [*] --> {state}: recovered" for state in self.recovered]
        for move in self.transitions:
            if move.source != move.target:
                lines.append(f"    {move.source} --> {move.target or '[*]'}: {move.event.name}")
        return "\n".join(lines)


@dataclass(frozen=True, slots=True)
class Lifecycle:
    """The machines of all objects that spec/project.yaml names."""

    machines: tuple[Machine, ...]


def read(
    root: Path,
    enums: Mapping[str, Collection[str]] | None,
    problems: Problems,
    former: Former | None = None,
) -> Lifecycle:
    """The lifecycle in ``root``; ``enums`` has the values of the API's enums by enum name,
    or is None if the API could not be read.

    Semantic faults go to ``problems``, and so do events that violate the schema. A file that
    violates it elsewhere raises SpecError, because it cannot be checked further.
    """
    schema = load.language_schema("lifecycle")
    node, faulty = load.checked_parts(root, FILE, schema, [("*", "events", "*")], problems)
    settings = project.read(root)
    known = _Known(settings, enums, former or Former(), problems, whole=not faulty)
    written = mapping(node)
    for key, _ in written.items():
        if key.value not in settings.objects:
            hint = nearest(key.value, settings.objects) or one_of(settings.objects)
            message = f"{project.FILE} names no object {key.value}"
            problems.add(message, key.place, hint, "unknown-object")
    missing = [noun for noun in settings.objects if written.get(noun) is None]
    for noun in missing:
        message = f"the object {noun} has no states"
        problems.add(message, node.place, f"add the key {noun}", "object-without-states")
    return Lifecycle(
        tuple(
            _machine(noun, enum, child(node, noun), known)
            for noun, enum in settings.objects.items()
            if noun not in missing
        )
    )


@dataclass(frozen=True, slots=True)
class _Known:
    """The allowed values of words."""

    settings: Settings
    enums: Mapping[str, Collection[str]] | None
    former: Former
    problems: Problems
    whole: bool
    """Whether no event was omitted because it violates the schema."""
    lost: set[str] = field(default_factory=set)
    """Enums that the API lacks, each reported once."""

    def check(
        self, node: Node, known: Collection[str], what: str, rule: str, enum: str = ""
    ) -> None:
        """Record a word that is not allowed; it may be an old name of a value of ``enum``."""
        word = text(node)
        if word not in known:
            old = self.former.hint(f"{enum}.{word}") if enum else None
            hint = old or nearest(word, known) or one_of(sorted(known))
            self.problems.add(f"{word!r} is not a {what}", node.place, hint, rule)

    def check_shown(self, node: Node, enum: str) -> None:
        """Record a word that is not a value of the API's enum of states."""
        self._check_value(node, enum, "state")

    def check_event(self, node: Node) -> None:
        """Record a word that is not a value of the API's enum of events."""
        if self.settings.events is None:
            self.problems.add(
                f"{project.FILE} names no enum of events", node.place, "add events: there"
            )
            return
        self._check_value(node, self.settings.events, "event")

    def _check_value(self, node: Node, enum: str, what: str) -> None:
        api = self.settings.api.name
        if self.enums is None:
            return
        if enum in self.enums:
            self.check(node, self.enums[enum], f"{api} {what}", "unknown-enum-value", enum)
        elif enum not in self.lost:
            self.lost.add(enum)
            hint = nearest(enum, self.enums) or f"name another enum in {project.FILE}"
            self.problems.add(f"the {api} has no enum {enum}", node.place, hint, "unknown-enum")


def _machine(noun: str, enum: str, node: Node, known: _Known) -> Machine:
    states = tuple(
        State(name, text(child(body, "shown")), text(child(body, "why")))
        for name, body in items(child(node, "states"))
    )
    for _, body in items(child(node, "states")):
        known.check_shown(child(body, "shown"), enum)
    names = [state.name for state in states]
    created, recovered = child(node, "created"), optional(node, "recovered")
    later = values(child(recovered, "states")) if recovered is not None else ()
    for state in later:
        known.check(state, names, "state", "unknown-state")
    known.check(child(created, "state"), names, "state", "unknown-state")
    for value in values(child(created, "emits")):
        known.check_event(value)
    events = tuple(
        Event(key.value, text(child(body, "why")), key.place)
        for key, body in mapping(child(node, "events")).items()
    )
    transitions: list[Transition] = []
    for event, (_, body) in zip(events, items(child(node, "events")), strict=True):
        for row in values(child(body, "transitions")):
            transitions += _transitions(row, event, states, transitions, known)
    begin = [text(child(created, "state")), *map(text, later)]
    if known.whole:
        _unreachable(noun, child(node, "states"), begin, transitions, known.problems)
    return Machine(
        noun=noun,
        enum=enum,
        states=states,
        events=events,
        transitions=tuple(transitions),
        created=text(child(created, "state")),
        created_emits=tuple(text(value) for value in values(child(created, "emits"))),
        recovered=tuple(map(text, later)),
        outcomes=tuple(_outcomes(optional(node, "outcomes"))),
    )


def _outcomes(node: Node | None) -> Iterator[Outcome]:
    for name, body in items(node) if node is not None else ():
        values = tuple((key, word_or_number(value)) for key, value in items(child(body, "values")))
        yield Outcome(name, values, text(child(body, "why")))


def _transitions(
    row: Node,
    event: Event,
    states: tuple[State, ...],
    before: Collection[Transition],
    known: _Known,
) -> Iterator[Transition]:
    names = [state.name for state in states]
    target = child(row, "to")
    emits = row.get("emits") if isinstance(row, MappingNode) else None
    persists = row.get("persists") if isinstance(row, MappingNode) else None
    known.check(target, [*names, GONE], "state", "unknown-state")
    if emits is not None:
        known.check_event(emits)
    for source in values(child(row, "from")):
        known.check(source, names, "state", "unknown-state")
        if any(move.source == text(source) and move.event == event for move in before):
            known.problems.add(
                f"two transitions say what {event.name} does in {text(source)}",
                source.place,
                "keep one of them",
                "two-transitions",
            )
            continue
        yield Transition(
            source=text(source),
            event=event,
            target=None if text(target) == GONE else text(target),
            emits=text(emits) if emits is not None else None,
            persists=text(persists) if persists is not None else None,
        )


def _unreachable(
    noun: str,
    states: Node,
    begin: Collection[str],
    transitions: Collection[Transition],
    problems: Problems,
) -> None:
    reached = {*begin, *(move.target for move in transitions if move.target is not None)}
    names = {key.value for key, _ in states.items()} if isinstance(states, MappingNode) else set()
    if reached - names:  # a word that is no state, which is reported, may mean any of them
        return
    for key, _ in states.items() if isinstance(states, MappingNode) else ():
        if key.value not in reached:
            problems.add(
                f"no transition leads to the {noun} state {key.value}",
                key.place,
                "add the event that brings it about, or remove the state",
                "unreachable-state",
            )
