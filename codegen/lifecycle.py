"""spec/lifecycle.yaml as a model: two state machines, each complete and without contradiction."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from codegen import load
from codegen.errors import Problems, nearest, one_of
from codegen.load import ListNode, MappingNode, Node, ScalarNode

FILE = "spec/lifecycle.yaml"
SCHEMA = "spec/lifecycle.schema.json"
GONE = "GONE"

_EVENT_ENUM = "ContainerEventType"
_STATE_ENUM = {"sandbox": "PodSandboxState", "container": "ContainerState"}


@dataclass(frozen=True, slots=True)
class State:
    """A state and the CRI state that stands for it."""

    name: str
    cri: str
    why: str


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happens to an object."""

    name: str
    why: str

    @property
    def constant(self) -> str:
        """Its name in the generated enum."""
        return self.name.upper()


@dataclass(frozen=True, slots=True)
class Transition:
    """What ``event`` does in state ``source``; ``target`` is None when the object is gone."""

    source: str
    event: Event
    target: str | None
    emits: str | None
    persists: str | None


@dataclass(frozen=True, slots=True)
class Machine:
    """All states, events and transitions of one kind of object."""

    noun: str
    states: tuple[State, ...]
    events: tuple[Event, ...]
    transitions: tuple[Transition, ...]
    created: str
    created_emits: tuple[str, ...]

    @property
    def kind(self) -> str:
        """The prefix of the generated class names, e.g. ``Sandbox``."""
        return self.noun.capitalize()

    @property
    def cri_enum(self) -> str:
        """The CRI enum that the states map to."""
        return _STATE_ENUM[self.noun]

    def mermaid(self) -> str:
        """The machine as a Mermaid state diagram."""
        lines = ["stateDiagram-v2", f"    [*] --> {self.created}: created"]
        for move in self.transitions:
            if move.source != move.target:
                lines.append(f"    {move.source} --> {move.target or '[*]'}: {move.event.name}")
        return "\n".join(lines)


@dataclass(frozen=True, slots=True)
class Lifecycle:
    """Both machines."""

    sandbox: Machine
    container: Machine

    @property
    def machines(self) -> tuple[Machine, Machine]:
        return self.sandbox, self.container


def read(root: Path, cri_enums: Mapping[str, Collection[str]], problems: Problems) -> Lifecycle:
    """The lifecycle in ``root``; ``cri_enums`` gives the values of the CRI's enums by enum name.

    Faults of meaning go to ``problems``; a file that breaks its schema raises, as no more can be
    said of it.
    """
    node = load.yaml_file(root, FILE)
    schema_faults = Problems()
    load.check_schema(node, load.json_file(root, SCHEMA), schema_faults)
    schema_faults.stop_if_any()
    return Lifecycle(
        sandbox=_machine("sandbox", _child(node, "sandbox"), cri_enums, problems),
        container=_machine("container", _child(node, "container"), cri_enums, problems),
    )


def _machine(
    noun: str, node: Node, cri_enums: Mapping[str, Collection[str]], problems: Problems
) -> Machine:
    states = tuple(
        State(name, _text(_child(body, "cri")), _text(_child(body, "why")))
        for name, body in _items(_child(node, "states"))
    )
    for _, body in _items(_child(node, "states")):
        _known(_child(body, "cri"), cri_enums[_STATE_ENUM[noun]], "CRI state", problems)
    created = _child(node, "created")
    _known(_child(created, "state"), [state.name for state in states], "state", problems)
    for value in _values(_child(created, "emits")):
        _known(value, cri_enums[_EVENT_ENUM], "CRI event", problems)
    events = tuple(
        Event(name, _text(_child(body, "why"))) for name, body in _items(_child(node, "events"))
    )
    transitions: list[Transition] = []
    for event, (_, body) in zip(events, _items(_child(node, "events")), strict=True):
        for row in _values(_child(body, "transitions")):
            transitions += _transitions(row, event, states, transitions, cri_enums, problems)
    _unreachable(
        noun, _child(node, "states"), _text(_child(created, "state")), transitions, problems
    )
    return Machine(
        noun=noun,
        states=states,
        events=events,
        transitions=tuple(transitions),
        created=_text(_child(created, "state")),
        created_emits=tuple(_text(value) for value in _values(_child(created, "emits"))),
    )


def _transitions(
    row: Node,
    event: Event,
    states: tuple[State, ...],
    before: Collection[Transition],
    cri_enums: Mapping[str, Collection[str]],
    problems: Problems,
) -> Iterator[Transition]:
    names = [state.name for state in states]
    target = _child(row, "to")
    emits = row.get("emits") if isinstance(row, MappingNode) else None
    persists = row.get("persists") if isinstance(row, MappingNode) else None
    _known(target, [*names, GONE], "state", problems)
    if emits is not None:
        _known(emits, cri_enums[_EVENT_ENUM], "CRI event", problems)
    for source in _values(_child(row, "from")):
        _known(source, names, "state", problems)
        if any(move.source == _text(source) and move.event == event for move in before):
            problems.add(
                f"two transitions say what {event.name} does in {_text(source)}",
                source.place,
                "keep one of them",
            )
            continue
        yield Transition(
            source=_text(source),
            event=event,
            target=None if _text(target) == GONE else _text(target),
            emits=_text(emits) if emits is not None else None,
            persists=_text(persists) if persists is not None else None,
        )


def _unreachable(
    noun: str, states: Node, created: str, transitions: Collection[Transition], problems: Problems
) -> None:
    reached = {created} | {move.target for move in transitions}
    for key, _ in states.items() if isinstance(states, MappingNode) else ():
        if key.value not in reached:
            problems.add(
                f"no transition leads to the {noun} state {key.value}",
                key.place,
                "add the event that brings it about, or remove the state",
            )


def _known(node: Node, known: Collection[str], what: str, problems: Problems) -> None:
    word = _text(node)
    if word not in known:
        problems.add(
            f"{word!r} is no {what}", node.place, nearest(word, known) or one_of(sorted(known))
        )


# The schema has been checked before these are used: what they assert is true.


def _child(node: Node, name: str) -> Node:
    assert isinstance(node, MappingNode)
    child = node.get(name)
    assert child is not None
    return child


def _items(node: Node) -> Iterator[tuple[str, Node]]:
    assert isinstance(node, MappingNode)
    return ((key.value, value) for key, value in node.items())


def _values(node: Node) -> tuple[Node, ...]:
    assert isinstance(node, ListNode)
    return node.values


def _text(node: Node) -> str:
    assert isinstance(node, ScalarNode)
    return str(node.value)
