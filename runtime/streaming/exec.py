"""Exec: a client and a command, joined by channels."""

from __future__ import annotations

import asyncio
from typing import Any

from runtime.errors import CriError
from runtime.store.objects import Container
from runtime.streaming.channels import CommandSession, Wanted
from runtime.streaming.copying import cancelled, copy_input, copy_output, follow_sizes
from runtime.streaming.outcome import Exited, Failed, Outcome
from runtime.streaming.services import Command, Containers


async def serve(
    session: CommandSession,
    containers: Containers,
    container: Container,
    cmd: list[str],
    wanted: Wanted,
    output_limit: float,
) -> None:
    """Run ``cmd`` for the client, and on to its end should the client leave.

    ``output_limit`` is how many seconds output may be held open after the command's end by what it
    left behind; 0: for ever, as long as the client stays.
    """
    try:
        command = await containers.run_command(container, cmd, stdin=wanted.stdin, tty=wanted.tty)
    except CriError as error:
        await session.end(Failed(str(error)))
        return
    try:
        outcome = await _joined(session, command, wanted.tty, output_limit)
    except asyncio.CancelledError:  # the server stops: as if the client had left
        if wanted.tty:
            await asyncio.shield(command.hang_up())
        command.leave()
        await session.end(Failed("the server stops"))
        raise
    except BaseException:
        command.close()
        raise
    command.close()
    await session.end(outcome)


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
    if command.stdin is None:  # it has ended already
        session.stdin.discard()
        return
    await copy_input(session.stdin, command.stdin)
    await command.end_input()


async def _watch(session: CommandSession, command: Command, tty: bool) -> None:
    """The user of a terminal hangs up by leaving; without that, shells pile up unseen."""
    await session.gone.wait()
    if tty:
        await command.hang_up()


async def _drain(session: CommandSession, outputs: list[asyncio.Task[None]], limit: float) -> None:
    """Wait for the end of the output; a process left behind may hold it open."""
    gone = asyncio.create_task(session.gone.wait())
    all_read = asyncio.ensure_future(asyncio.gather(*outputs))
    both: set[asyncio.Future[Any]] = {gone, all_read}
    try:
        await asyncio.wait(both, timeout=limit or None, return_when=asyncio.FIRST_COMPLETED)
    finally:
        gone.cancel()
        all_read.cancel()
