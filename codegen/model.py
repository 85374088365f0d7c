"""Every fact that a template may use, as frozen records.

Each layer is built by one module: the API itself (``Api``, from ``proto_api.py``), the
document (``Document``, from ``document_schema.py``), the mapping as written (``MappingFile``, from
``mapping_file.py``), and the mapping resolved against all three (``Mapped``, from ``resolve.py``).
"""

from __future__ import annotations

import keyword
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from codegen.errors import Place
from codegen.former import Former


def snake(name: str) -> str:
    """The module name for a message: ``OrderLine`` -> ``order_line``, ``Order.Line`` too."""
    spaced = re.sub(
        r"([a-z0-9])([A-Z])|([A-Z])([A-Z][a-z])", r"\1\3_\2\4", name.replace("UInt", "Uint")
    )
    return spaced.lower().replace("._", "_").replace(".", "_")


def split_partner(partner: str, messages: Collection[str]) -> tuple[str, str]:
    """The message in ``Message.field`` or ``Message.some.target``, which may be a nested one, and
    the rest."""
    parts = partner.split(".")
    for size in range(len(parts) - 1, 0, -1):
        if ".".join(parts[:size]) in messages:
            return ".".join(parts[:size]), ".".join(parts[size:])
    return parts[0], ".".join(parts[1:])


# --- kinds of values ------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Kind:
    """The type of a value, in any of the four type systems.

    ``name`` is a scalar (``str`` ``bytes`` ``bool`` ``float`` ``int``); a collection (``list``
    ``map`` with ``of``, and in ``ref`` the Python collection if an annotation names one); a named
    type with ``ref`` (``message`` ``enum``: the API; ``object``: the document; ``json``: a payload;
    ``record``: a class of facts.py; ``class``: any other Python class;
    ``written``: a message of another API that is written); or
    ``any``.
    """

    name: str
    ref: str = ""
    of: tuple[Kind, ...] = ()
    optional: bool = False
    """Whether None stands for absence."""
    low: int | None = None
    """Smallest value of an ``int``; None if unknown."""
    high: int | None = None
    """Largest value of an ``int``; None if unknown."""

    def __str__(self) -> str:
        text = {
            "list": lambda: f"list of {self.of[0]}",
            "map": lambda: f"map of {self.of[0]} to {self.of[1]}",
            "int": lambda: _INTEGERS.get((self.low, self.high), f"{self.low}..{self.high}"),
        }.get(self.name, lambda: self.ref or self.name)()
        return f"{text} or None" if self.optional else text

    @property
    def scalar(self) -> bool:
        return self.name in ("str", "bytes", "bool", "float", "int", "enum")


def integer(bits: int, *, signed: bool) -> Kind:
    """The kind of a machine integer."""
    if signed:
        return Kind("int", low=-(1 << (bits - 1)), high=(1 << (bits - 1)) - 1)
    return Kind("int", low=0, high=(1 << bits) - 1)


_INTEGERS: Mapping[tuple[int | None, int | None], str] = {
    (None, None): "int",
    **{
        (kind.low, kind.high): name
        for name, kind in {
            "int32": integer(32, signed=True),
            "int64": integer(64, signed=True),
            "uint32": integer(32, signed=False),
            "uint64": integer(64, signed=False),
        }.items()
    },
}


# --- the API --------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Field:
    """One field of a message."""

    name: str
    number: int
    kind: Kind
    presence: bool
    """Whether unset differs from zero (messages and ``optional`` scalars)."""
    deprecated: bool
    redacted: bool
    """``debug_redact``: its value must never be logged."""
    since: str
    """The first pinned version that has it."""

    @property
    def kind_in_words(self) -> str:
        """Its type, and whether it is optional."""
        scalar = self.presence and self.kind.name != "message"
        return f"{'optional ' * scalar}{self.kind}"

    @property
    def in_words(self) -> str:
        """Its type, and the first version that has it."""
        return f"{self.kind_in_words}, since {self.since}"

    @property
    def message(self) -> str | None:
        """The name of the message it holds (singular, repeated or as map value), if any."""
        kind = self.kind.of[-1] if self.kind.of else self.kind
        return kind.ref if kind.name == "message" else None

    @property
    def repeated(self) -> bool:
        return self.kind.name == "list"

    @property
    def mapped(self) -> bool:
        """Whether it is a map field."""
        return self.kind.name == "map"


@dataclass(frozen=True, slots=True)
class Message:
    """One message; nested messages are named ``Outer.Inner``."""

    name: str
    fields: Mapping[str, Field]
    """By name, in the order of the proto."""
    since: str

    @property
    def module(self) -> str:
        """The name of its mapping file and of its generated modules."""
        return snake(self.name)


@dataclass(frozen=True, slots=True)
class Enum:
    """One enum."""

    name: str
    values: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Method:
    """One RPC."""

    name: str
    request: str
    """Message name of the request."""
    response: str
    streams: bool
    """Whether the server answers with a stream."""
    takes_stream: bool
    """Whether the client sends a stream."""
    since: str


@dataclass(frozen=True, slots=True)
class Service:
    """One gRPC service of the API."""

    name: str
    methods: Mapping[str, Method]

    @property
    def module(self) -> str:
        return snake(self.name)


@dataclass(frozen=True, slots=True)
class Api:
    """One version of the API."""

    name: str
    """What messages call it."""
    version: str
    package: str
    messages: Mapping[str, Message]
    enums: Mapping[str, Enum]
    services: Mapping[str, Service]
    former: Former = field(default_factory=Former, compare=False, repr=False)
    """What older versions call it."""

    @property
    def rpcs(self) -> dict[str, Method]:
        """Every RPC by its key in rpc.yaml, in the order of the proto."""
        return {
            rpc_key(service.name, method.name, self.services): method
            for service in self.services.values()
            for method in service.methods.values()
        }


def rpc_key(service: str, method: str, services: Mapping[str, Service]) -> str:
    """How rpc.yaml names an RPC: by its name alone, or as ``Service.Name`` if several services
    have that name."""
    several = sum(method in one.methods for one in services.values()) > 1
    return f"{service}.{method}" if several else method


# --- the document ---------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Property:
    """One key of an object; the Python attribute has the same name."""

    name: str
    kind: Kind
    required: bool
    """Whether it is a required constructor argument; only classes used in lists and maps have
    those."""
    doc: str
    empty_counts: bool = False
    """Whether an empty object differs from an absent one, so that None means absent."""

    @property
    def attribute(self) -> str:
        """Its Python name: the key itself, with an underscore where that is a keyword."""
        return f"{self.name}_" if keyword.iskeyword(self.name) else self.name

    @property
    def absent_is_none(self) -> bool:
        """Whether the attribute is None when the key is absent."""
        return self.empty_counts or (self.kind.scalar and not self.required)


@dataclass(frozen=True, slots=True)
class ObjectType:
    """One object type of the document or of a payload."""

    name: str
    doc: str
    fields: Mapping[str, Property]
    identity: str | None
    """The field that identifies an item in a list of these, for ``merge: by-key``."""


@dataclass(frozen=True, slots=True)
class Document:
    """All object types of the document."""

    name: str
    """What messages call it."""
    root: str
    """The type of the whole document."""
    classes: Mapping[str, ObjectType]


@dataclass(frozen=True, slots=True)
class Plan:
    """The values that hand-written steps get instead of a config or request."""

    name: str
    """A noun; for a request, its verb."""
    message: str
    """The message that it is made from."""
    doc: str
    fields: Mapping[str, Property]
    places: Mapping[str, Place]
    """Where each property is written."""
    place: Place
    root: str = "plan"
    """The prefix of its values as targets."""

    @property
    def python_class(self) -> str:
        return "".join(part.capitalize() for part in self.name.split("_")) + "Plan"

    @property
    def function(self) -> str:
        """The function that creates one."""
        return f"plan_{self.name}"


# --- the mapping, as written ----------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Input:
    """One path of a ``from`` list and the keyword argument that it becomes."""

    path: str
    argument: str
    place: Place


@dataclass(frozen=True, slots=True)
class Rule:
    """One validation rule: its word and its argument."""

    name: str
    values: tuple[str | int, ...]
    place: Place


@dataclass(frozen=True, slots=True)
class Back:
    """How a field of flow ``both`` is read back."""

    by: str
    inputs: tuple[Input, ...]
    place: Place


@dataclass(frozen=True, slots=True)
class Entry:
    """One entry as written: the fate of a field, or (under ``targets``) of a target."""

    name: str
    """The field, or the target."""
    place: Place
    fate: str
    """``copy`` ``compute`` ``match`` ``handled_by`` ``unmapped``."""
    value: str
    """The value of the fate's key."""
    value_place: Place
    keys: Mapping[str, Place]
    """Every key that was written, and where."""
    why: str
    when: str = "always"
    by: str | None = None
    inputs: tuple[Input, ...] = ()
    partner: str | None = None
    """``with``: the sibling whose entry takes this field as an input; for a match, what the
    field is compared with."""
    of: Input | None = None
    """For a response message: the object whose fields are read."""
    merge: str | None = None
    rules: tuple[Rule, ...] = ()
    back: Back | None = None
    if_set: str = "ignore"
    issue: str | None = None
    like: str | None = None
    changed: str | None = None
    """Why the entry was changed, and what happens to what runs."""

    @property
    def by_fields(self) -> bool:
        """Whether the entries of the field's own message decide its fate."""
        return self.fate in ("copy", "match") and self.value == "fields"

    @property
    def with_another(self) -> bool:
        """Whether the entry that takes the field as an input belongs to another message, as in
        ``with: Order.lines``."""
        return self.partner is not None and self.partner.partition(".")[0][:1].isupper()

    @property
    def is_ignored(self) -> bool:
        """Whether a request may set the field, and it has no effect."""
        return self.fate == "unmapped" and self.if_set == "ignore"

    @property
    def by_rpc(self) -> bool:
        """Whether the generated handler of an RPC reads it."""
        return self.fate == "handled_by" and self.value.startswith("rpc.")

    @property
    def fate_in_words(self) -> str:
        """The fate in one or two words, for tables and counts."""
        if self.fate == "unmapped":
            return f"unmapped: {self.value}"
        return f"{self.fate}: fields" if self.by_fields else self.fate.replace("_", " ")

    @property
    def value_in_words(self) -> str:
        """What the field is copied to or from, and by what; who handles it; why nothing does."""
        if self.by:
            return f"{self.value} by {self.by}"
        return f"{self.value} with {self.partner}" if self.partner else self.value

    @property
    def in_words(self) -> str:
        """The entry in one line."""
        when = f" when {self.when}" if self.when != "always" else ""
        return f"{self.fate.replace('_', ' ')} {self.value_in_words}{when}"


@dataclass(frozen=True, slots=True)
class ConditionText:
    """A condition of an item: a field and a condition word."""

    field: str
    word: str
    """As in ``when`` of an entry."""
    place: Place


@dataclass(frozen=True, slots=True)
class ItemText:
    """``item`` of a file: its message is one item of a list, or one object."""

    of: tuple[Input, ...]
    """Paths of the lists or objects, all of one type."""
    when: tuple[ConditionText, ...]
    """The conditions under which a message becomes an item."""

    @property
    def in_words(self) -> str:
        """What the message becomes, in one line."""
        asked = " and ".join(f"{one.field} is {one.word}" for one in self.when)
        return " or ".join(given.path for given in self.of) + (f" when {asked}" if asked else "")


@dataclass(frozen=True, slots=True)
class MappingFile:
    """One file of spec/mapping."""

    file: str
    message: str
    message_place: Place
    flow: str
    of: str | None
    """For a filter: the message that it is compared with."""
    of_place: Place
    items: tuple[ItemText, ...]
    """Of a message whose entries write items."""
    entries: Mapping[str, Entry]
    targets: Mapping[str, Entry]
    faulty: frozenset[str] = frozenset()
    """Fields and targets whose entry violates the schema, which is reported."""
    changed: str | None = None
    """As of an entry, for what no entry is left to say it about."""

    @property
    def items_in_words(self) -> str:
        """What the message becomes, in one line."""
        return ", ".join(item.in_words for item in self.items)

    @property
    def takes(self) -> bool:
        """Whether the message is received."""
        return self.flow in ("in", "both", "match")

    @property
    def writes(self) -> bool:
        """Whether the message is received and becomes part of the document."""
        return self.flow in ("in", "both")

    @property
    def gives(self) -> bool:
        """Whether the message is part of a response."""
        return self.flow in ("out", "both")


# --- the mapping, resolved ------------------------------------------------------------------
#
# Facts only: what is read, where it goes, under which condition. Their Python is written by
# ``codegen/emit``.


@dataclass(frozen=True, slots=True)
class Source:
    """A value that an entry reads."""

    path: str
    """As written in the mapping."""
    root: str | None
    """The context root at which the steps start; None for the message itself."""
    steps: tuple[str, ...]
    kind: Kind
    presence: bool = False
    """Whether the message can distinguish an unset value from an empty one."""
    key: str | None = None
    """The key, if the value is one item of the map at ``steps``."""
    told_by: tuple[str, ...] = ()
    """The steps to the value or to the nearest enclosing message whose presence is known; empty if
    there is none."""
    fields: tuple[str, ...] = ()
    """``Message.field`` of each field on the way."""
    told_root: str | None = None
    """From what ``told_by`` leads, where that is not ``root``."""
    unset_as: str | None = None
    """The expression for its value, if the generated version of the API lacks the field."""


@dataclass(frozen=True, slots=True)
class Target:
    """The place that an entry writes."""

    path: str
    """As written in the mapping."""
    root: str
    """What is written: ``out`` (the document), ``record`` (a message of another API), ``plan``,
    ``item`` (of a list), or the prefix of a payload's targets."""
    steps: tuple[str, ...]
    kind: Kind
    key: str | None = None
    """The key, if the place is one item of the map at ``steps``."""

    @property
    def whole(self) -> str:
        """The path without a key: what other writers share."""
        return self.path.partition("[")[0]


@dataclass(frozen=True, slots=True)
class ItemsOf:
    """The builder of what messages become."""

    message: str
    function: str


@dataclass(frozen=True, slots=True)
class Argument:
    """One keyword argument of a transform."""

    name: str
    source: Source
    none_if_unset: bool
    """Whether it is None if the message does not set the field."""
    converted: str | None
    """What makes it the type of the parameter, if the source has another one: a Python collection,
    or a function."""
    items: ItemsOf | None = None
    """If the function takes the items that the source's messages become."""


@dataclass(frozen=True, slots=True)
class Call:
    """A call of a transform."""

    topic: str
    function: str
    arguments: tuple[Argument, ...]
    returns: Kind


@dataclass(frozen=True, slots=True)
class Condition:
    """A condition for copying a source."""

    source: Source
    word: str
    """``set`` ``nonzero`` ``nonempty``."""


@dataclass(frozen=True, slots=True)
class Item:
    """What a message becomes."""

    of: tuple[str, ...]
    """The paths of the lists that it is an item of, or of the objects."""
    kind: Kind
    """``object``, ``json``, ``record``, or in a list a scalar."""
    listed: bool
    """Whether it is an item of a list."""
    keys: Mapping[str, Property]
    """None for a scalar, which one entry writes as a whole."""
    conditions: tuple[Condition, ...]
    """The conditions under which a message becomes an item."""
    alone: bool
    """Whether the message becomes nothing else."""

    @property
    def function(self) -> str:
        """The function that builds one."""
        return "item" if self.alone else f"{snake(self.of[0].replace('.', '_'))}_item"

    def key(self, path: str) -> str | None:
        """What a target is of the item: the name of a key, "" for all of a scalar; None if it
        belongs to another item."""
        if not self.keys:
            return "" if path in self.of else None
        if self.alone:
            return path
        found = (path.removeprefix(f"{of}.") for of in self.of if path.startswith(f"{of}."))
        return next(found, None)


@dataclass(frozen=True, slots=True)
class Left:
    """The generated function does nothing with the field: it is unmapped, handled elsewhere, or an
    input of another entry."""

    entry: Entry


@dataclass(frozen=True, slots=True)
class Copied:
    """A builder copies a value to a target."""

    entry: Entry
    source: Source
    target: Target
    condition: Condition | None
    items: ItemsOf | None = None
    """If the items that the source's messages become are copied."""


@dataclass(frozen=True, slots=True)
class Computed:
    """A builder fills a target by a transform; None leaves the target absent."""

    entry: Entry
    call: Call
    target: Target


@dataclass(frozen=True, slots=True)
class Descended:
    """The builder or reader of the field's own message continues."""

    entry: Entry
    message: str
    each: bool = False
    """Whether it does so for each item of a list."""
    condition: Condition | None = None
    of: Source | None = None
    """For a reader: the object that the entries of the message read, addressed by the name of its
    class. None leaves the field unset; for a list the reader runs for each item."""
    parts: frozenset[str] = frozenset()
    """The context roots that are attributes of ``of``, or of an item, by name and type."""


@dataclass(frozen=True, slots=True)
class CopiedBack:
    """A reader fills a field with a known value."""

    entry: Entry
    source: Source
    unset_if_empty: bool = False
    """Whether an empty value or a zero leaves the field unset."""
    wrapper: str | None = None
    """The message that wraps the number; None leaves the field unset."""


@dataclass(frozen=True, slots=True)
class ComputedBack:
    """A reader fills a field by a transform."""

    entry: Entry
    call: Call
    by: str


@dataclass(frozen=True, slots=True)
class Compared:
    """A filter compares a field with a field of the item."""

    entry: Entry
    source: Source
    against: Source


Match = Left | Compared | Descended
"""What a filter does for one field."""
Write = Left | Copied | Computed | Descended
"""What a builder does for one entry."""
Read = Left | CopiedBack | ComputedBack | Descended
"""What a reader does for one field."""


def written(write: Write) -> Target | None:
    """The target of a write, if it has one of its own."""
    return write.target if isinstance(write, Copied | Computed) else None


def is_planned(write: Write) -> bool:
    """Whether it is part of a plan or a payload, and not of a builder."""
    target = written(write)
    return target is not None and target.root not in ("out", "record", "item")


def stored(entry: Entry, target: Target) -> str:
    """How a value is stored in its target: ``assign`` ``extend`` ``update`` ``merge``."""
    if entry.merge:
        return {"append": "extend", "update": "update", "by-key": "merge"}[entry.merge]
    if target.root == "record" and target.kind.name in ("list", "map"):
        return "extend" if target.kind.name == "list" else "update"
    return "assign"


@dataclass(frozen=True, slots=True)
class Test:
    """One test of a validator, by the word of its rule."""

    field: Field
    rule: str
    """A rule of the mapping, ``unsupported`` (must not be set), ``known_enum`` or ``no_nul``."""
    kind: Kind
    """The kind of the tested value."""
    values: tuple[str | int, ...] = ()
    """The arguments of the rule."""
    each: bool = False
    """Whether each item of a list or map is tested."""
    wrapped: bool = False
    """Whether the number is inside a message that wraps it."""
    other: Field | None = None
    """The other field, for a rule between two."""


@dataclass(frozen=True, slots=True)
class Descent:
    """A validator continues with the message of a field."""

    field: Field
    message: str


@dataclass(frozen=True, slots=True)
class Mapped:
    """One message with its resolved mapping."""

    message: Message
    file: MappingFile
    writes: tuple[Write, ...]
    reads: tuple[Read, ...]
    matches: tuple[Match, ...]
    tests: tuple[Test, ...]
    descents: tuple[Descent, ...]
    items: tuple[Item, ...] = ()
    """What the message becomes."""

    @property
    def module(self) -> str:
        return self.message.module


@dataclass(frozen=True, slots=True)
class Origin:
    """One entry that decides a target, for ``explain``."""

    field: str
    """The full path of the field; for an entry under ``targets``, of its message."""
    entry: Entry
    file: str
