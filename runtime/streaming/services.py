"""What streaming needs of containers: Protocols, which `runtime.containers` satisfies."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from typing import Protocol

from runtime.store.objects import Container


class Input(Protocol):
    """Where a client's input goes."""

    async def write(self, data: bytes) -> None:
        """Raises BrokenPipeError when nothing reads it any more."""

    def close(self) -> None: ...


class Output(Protocol):
    """Where output comes from."""

    async def read(self) -> bytes:
        """b"" at the end."""


class Command(Protocol):
    """A command that was started in a container."""

    @property
    def stdin(self) -> Input | None: ...
    @property
    def stdout(self) -> Output | None:
        """To be read to its end, wanted or not: the command is blocked by a full pipe."""

    @property
    def stderr(self) -> Output | None: ...

    async def wait(self) -> int:
        """The exit code."""

    async def end_input(self) -> None: ...

    async def resize(self, width: int, height: int) -> None: ...

    async def hang_up(self) -> None:
        """SIGHUP, as from a terminal whose user leaves."""

    def close(self) -> None:
        """Leave nothing of it, killed if it still runs."""

    def leave(self) -> None:
        """Let go of it without ending it."""


class Attachment(Protocol):
    """A container's own streams, as one client sees them."""

    @property
    def closes_input(self) -> bool:
        """The container's input ends with this client's."""

    async def open_input(self) -> Input | None: ...

    def output(
        self, *, stdout: bool, stderr: bool
    ) -> AbstractAsyncContextManager[AsyncIterator[tuple[str, bytes]]]: ...

    async def end_input(self) -> None: ...

    async def resize(self, width: int, height: int) -> None: ...


class Containers(Protocol):
    """`runtime.containers.operations.Containers`."""

    async def run_command(
        self,
        container: Container,
        cmd: list[str],
        *,
        stdin: bool,
        tty: bool,
    ) -> Command:
        """Raises CriError."""

    def attachment(self, container: Container) -> Attachment: ...
