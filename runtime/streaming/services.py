"""What streaming needs from containers, as Protocols that `runtime.containers` implements."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from typing import Protocol

from runtime.store.objects import Container


class Input(Protocol):
    """Where a client's input is written."""

    async def write(self, data: bytes) -> None:
        """Raises BrokenPipeError if it has no reader any more."""

    def write_now(self, data: bytes) -> bytes:
        """Write what there is room for and return the rest."""

    def close(self) -> None: ...


class Output(Protocol):
    """Where output is read from."""

    async def read(self, take: Callable[[bytes], bytes] | None = None) -> bytes:
        """The next bytes that ``take`` does not take; b"" at the end."""


class Command(Protocol):
    """A command in a container."""

    @property
    def stdin(self) -> Input | None: ...
    @property
    def stdout(self) -> Output | None:
        """Must be read to its end even if it is not needed: a full pipe blocks the command."""

    @property
    def stderr(self) -> Output | None: ...

    async def start(self) -> None:
        """Run it; if that fails, it is deleted. Raises CriError."""

    async def wait(self) -> int:
        """Wait for the command and return its exit code."""

    async def end_input(self) -> None: ...

    async def resize(self, width: int, height: int) -> None: ...

    async def hang_up(self) -> None:
        """Send SIGHUP, as a terminal does when its user disconnects."""

    def close(self) -> None:
        """Delete the command, killing it if it still runs."""

    def leave(self) -> None:
        """Stop watching the command without ending it."""


class Attachment(Protocol):
    """The streams of a container, as one client sees them."""

    @property
    def closes_input(self) -> bool:
        """Whether the end of the client's input ends the container's input."""

    async def open_input(self) -> Input | None: ...

    def output(
        self, *, stdout: bool, stderr: bool
    ) -> AbstractAsyncContextManager[AsyncIterator[tuple[str, bytes]]]: ...

    async def end_input(self) -> None: ...

    async def resize(self, width: int, height: int) -> None: ...


class Containers(Protocol):
    """`runtime.containers.operations.Containers`."""

    async def prepare_command(
        self,
        container: Container,
        cmd: list[str],
        *,
        stdin: bool,
        tty: bool,
    ) -> Command:
        """A command that is ready to start; `Command.close` deletes it. Raises CriError."""

    def attachment(self, container: Container) -> Attachment: ...
