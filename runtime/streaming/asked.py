"""What a call of the CRI asked for, kept for as long as its URL waits for a client."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal, TypeAlias

from runtime.streaming.channels import Wanted

Kind: TypeAlias = Literal["exec", "attach", "portforward"]
"""The first part of a URL's path."""


@dataclass(frozen=True, slots=True)
class Exec:
    """A command in a container."""

    kind: ClassVar[Kind] = "exec"

    container_id: str
    cmd: tuple[str, ...]
    wanted: Wanted


@dataclass(frozen=True, slots=True)
class Attach:
    """The streams of a container's first process."""

    kind: ClassVar[Kind] = "attach"

    container_id: str
    wanted: Wanted


@dataclass(frozen=True, slots=True)
class PortForward:
    """Ports of a pod; none where the client names them itself."""

    kind: ClassVar[Kind] = "portforward"

    sandbox_id: str
    ports: tuple[int, ...]


Asked: TypeAlias = Exec | Attach | PortForward
