"""Every fact that a template may ask for, as frozen records.

Three layers, each made by one module: the CRI itself (``Api``, from ``cri_api.py``), the OCI runtime
spec (``OciSpec``, from ``oci_schema.py``), and the mapping resolved against both (``Mapping`` and below,
from ``resolve.py``). Templates print these; they decide nothing.
"""

from __future__ import annotations

import keyword
import re
from collections.abc import Mapping
from dataclasses import dataclass


def snake(name: str) -> str:
    """The module name for a message: ``LinuxContainerResources`` -> ``linux_container_resources``."""
    spaced = re.sub(
        r"([a-z0-9])([A-Z])|([A-Z])([A-Z][a-z])", r"\1\3_\2\4", name.replace("UInt", "Uint")
    )
    return spaced.lower()


# --- kinds of values ------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Kind:
    """The type of a value, in whichever of the four worlds it lives.

    ``name`` is a scalar (``str`` ``bytes`` ``bool`` ``float`` ``int``), a container (``list`` ``map``
    with ``of``), a named type (``message`` ``enum``: CRI; ``oci``: OCI runtime spec; ``record``:
    runtime/transforms/facts.py; ``class``: any other Python class) with ``ref``, or ``any``.
    """

    name: str
    ref: str = ""
    of: tuple[Kind, ...] = ()
    optional: bool = False
    """Whether None stands for absence."""
    low: int | None = None
    """Smallest value of an ``int``; None when unknown."""
    high: int | None = None
    """Largest value of an ``int``; None when unknown."""

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


def python_type(kind: Kind) -> str:
    """The annotation of a kind inside generated/oci/types.py."""
    match kind.name:
        case "list":
            return f"list[{python_type(kind.of[0])}]"
        case "map":
            return f"dict[{python_type(kind.of[0])}, {python_type(kind.of[1])}]"
        case "enum":
            return "int"
        case "any":
            return "Any"
    return kind.ref or kind.name


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


# --- the CRI --------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Field:
    """One field of a CRI message."""

    name: str
    number: int
    kind: Kind
    presence: bool
    """Whether unset differs from zero (messages and ``optional`` scalars)."""
    deprecated: bool
    redacted: bool
    """``debug_redact``: its value never reaches a log."""
    since: str
    """The first pinned CRI version that has it."""

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
    """One CRI message; nested messages are named ``Outer.Inner``."""

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
    """One CRI enum."""

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
    since: str


@dataclass(frozen=True, slots=True)
class Service:
    """One gRPC service of the CRI."""

    name: str
    methods: Mapping[str, Method]

    @property
    def module(self) -> str:
        return snake(self.name)


@dataclass(frozen=True, slots=True)
class Api:
    """One version of the CRI."""

    version: str
    package: str
    """``runtime.v1``."""
    messages: Mapping[str, Message]
    enums: Mapping[str, Enum]
    services: Mapping[str, Service]


# --- the OCI runtime spec -------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class OciField:
    """One key of an OCI object; the Python attribute has the same name."""

    name: str
    kind: Kind
    required: bool
    """Whether the constructor demands it; only classes that live in lists and maps do."""
    doc: str

    @property
    def attribute(self) -> str:
        """Its Python name: the key itself, with an underscore where that is a keyword."""
        return f"{self.name}_" if keyword.iskeyword(self.name) else self.name

    @property
    def annotation(self) -> str:
        """The type of the attribute."""
        text = python_type(self.kind)
        return text if self.required or not self.kind.scalar else f"{text} | None"


@dataclass(frozen=True, slots=True)
class OciClass:
    """One object type of the OCI runtime spec, named as in the specification's Go types."""

    name: str
    doc: str
    fields: Mapping[str, OciField]
    identity: str | None
    """The field by which a list of it knows an item, for ``merge: by-key``."""


@dataclass(frozen=True, slots=True)
class OciSpec:
    """All object types; the document's root is ``Spec``."""

    classes: Mapping[str, OciClass]
