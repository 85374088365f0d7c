"""Every fact that a template may ask for, as frozen records.

Three layers, each made by one module: the CRI itself (``Api``, from ``cri_api.py``), the OCI runtime
spec (``OciSpec``, from ``oci_schema.py``), and the mapping resolved against both (``Mapping`` and below,
from ``resolve.py``). Templates print these; they decide nothing.
"""

from __future__ import annotations

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

    ``name`` is a scalar (``str`` ``bytes`` ``bool`` ``float`` ``int`` ``int32`` ``int64``
    ``uint32`` ``uint64``), a container (``list`` ``map`` with ``of``), a named type (``message``
    ``enum``: CRI; ``oci``: OCI runtime spec; ``record``: runtime/transforms/facts.py; ``class``: any
    other Python class) with ``ref``, or ``any``.
    """

    name: str
    ref: str = ""
    of: tuple[Kind, ...] = ()
    optional: bool = False
    """Whether None stands for absence."""

    def __str__(self) -> str:
        text = {
            "list": lambda: f"list of {self.of[0]}",
            "map": lambda: f"map of {self.of[0]} to {self.of[1]}",
        }.get(self.name, lambda: self.ref or self.name)()
        return f"{text} or None" if self.optional else text


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
