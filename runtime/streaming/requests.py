"""What an Exec, Attach or PortForward call requested, kept until a client uses its URL."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal, TypeAlias

from runtime.transforms.facts import Streams

Kind: TypeAlias = Literal["exec", "attach", "portforward"]
"""The first segment of the URL's path."""


@dataclass(frozen=True, slots=True)
class Exec:
    """A command in a container."""

    kind: ClassVar[Kind] = "exec"

    container_id: str
    cmd: tuple[str, ...]
    streams: Streams


@dataclass(frozen=True, slots=True)
class Attach:
    """The streams of a container's first process."""

    kind: ClassVar[Kind] = "attach"

    container_id: str
    streams: Streams


@dataclass(frozen=True, slots=True)
class PortForward:
    """Ports of a pod; empty if the client names the ports itself."""

    kind: ClassVar[Kind] = "portforward"

    sandbox_id: str
    ports: tuple[int, ...]


StreamRequest: TypeAlias = Exec | Attach | PortForward
