"""Exec: connects a client to a command."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import Any

from runtime.errors import CriError
from runtime.store.objects import Container
from runtime.streaming.channels import CommandSession
from runtime.streaming.copying import cancelled, copy_input, copy_output, follow_sizes
from runtime.streaming.outcome import Exited, Failed, Outcome
from runtime.streaming.services import Command, Containers
from runtime.transforms.facts import Streams


async def serve(
    opening: Awaitable[CommandSession],
    containers: Containers,
    container: Container,
    cmd: list[str],
    streams: Streams,
    output_limit: float,
) -> None:
    """Run ``cmd`` for the client; it continues to its end if the client disconnects.

    The command is prepared while the client opens its streams, and runs when they are open. Raises
    what ``opening`` raises; the command never runs then.

    ``output_limit``: for how many seconds after the command has exited its output may be held open
    by processes it left behind; 0 means as long as the client stays.
    """
    preparing = asyncio.create_task(
        containers.prepare_command(container, cmd, stdin=streams.stdin, tty=streams.tty)
    )
    try:
        session = await opening
    except BaseException:
        _discard(preparing)
        raise
    try:
        command = await preparing
        await command.start()
    except CriError as error:
        await session.end(Failed(str(error)))
        return
    try:
        outcome = await _joined(session, command, streams.tty, output_limit)
    except asyncio.CancelledError:  # the server is shutting down: as if the client disconnected
        if streams.tty:
            await asyncio.shield(command.hang_up())
        command.leave()
        await session.end(Failed("the server is shutting down"))
        raise
    except BaseException:
        command.close()
        raise
    command.close()
    await session.end(outcome)


def _discard(preparing: asyncio.Task[Command]) -> None:
    """Delete a command that never starts, once it is ready."""

    def delete(done: asyncio.Task[Command]) -> None:
        if not done.cancelled() and done.exception() is None:
            done.result().close()

    preparing.cancel()  # if it is not ready yet, it deletes itself
    preparing.add_done_callback(delete)


async def _joined(
    session: CommandSession, command: Command, tty: bool, output_limit: float
) -> Outcome:
    outputs = [
        asyncio.create_task(copy_output(source, channel))
        for source, channel in ((command.stdout, session.stdout), (command.stderr, session.stderr))
        if source is not None
    ]
    others = [asyncio.create_task(_watch(session, command, tty))]
    if session.stdin is not None:
        others.append(asyncio.create_task(_feed(session, command)))
    if session.resize is not None:
        others.append(asyncio.create_task(follow_sizes(session.resize, command.resize)))
    try:
        try:
            outcome: Outcome = Exited(await command.wait())
        except CriError as error:
            outcome = Failed(str(error))
        if outputs:
            await _drain(session, outputs, output_limit)
        return outcome
    finally:
        await cancelled(*outputs, *others)


async def _feed(session: CommandSession, command: Command) -> None:
    assert session.stdin is not None
    if command.stdin is None:  # it has already exited
        session.stdin.discard()
        return
    await copy_input(session.stdin, command.stdin)
    await command.end_input()


async def _watch(session: CommandSession, command: Command, tty: bool) -> None:
    """A client that leaves its terminal hangs up; otherwise abandoned shells would pile up."""
    await session.gone.wait()
    if tty:
        await command.hang_up()


async def _drain(session: CommandSession, outputs: list[asyncio.Task[None]], limit: float) -> None:
    """Wait for the end of the output; a process left behind may hold it open."""
    gone = asyncio.create_task(session.gone.wait())
    all_read = asyncio.create_task(asyncio.wait(outputs))
    both: set[asyncio.Future[Any]] = {gone, all_read}
    try:
        await asyncio.wait(both, timeout=limit or None, return_when=asyncio.FIRST_COMPLETED)
    finally:
        gone.cancel()
        all_read.cancel()
