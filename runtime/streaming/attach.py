"""Attach: a client and a container's own streams, joined by channels."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from runtime.errors import CriError
from runtime.streaming.channels import CommandSession, Gone, Wanted
from runtime.streaming.copying import cancelled, copy_input, follow_sizes
from runtime.streaming.outcome import Exited, Failed, Outcome
from runtime.streaming.services import Attachment, Input


async def serve(session: CommandSession, attachment: Attachment, wanted: Wanted) -> None:
    """Let the client see and feed the container until its output ends or the client leaves.

    The end of the client's input ends its session too, except where it ends the container's input
    (``stdin_once``): the client then waits for what the container makes of it.
    """
    try:
        outcome = await _joined(session, attachment, wanted)
    except CriError as error:
        outcome = Failed(str(error))
    except asyncio.CancelledError:
        await session.end(Failed("the server stops"))
        raise
    await session.end(outcome)


async def _joined(session: CommandSession, attachment: Attachment, wanted: Wanted) -> Outcome:
    target = await attachment.open_input() if session.stdin is not None else None
    if session.stdin is not None and target is None:  # the container was made without an input
        session.stdin.discard()
    try:
        async with attachment.output(stdout=wanted.stdout, stderr=wanted.stderr) as output:
            await _until_one_ends(session, attachment, target, output)
    finally:
        if target is not None:
            target.close()
    return Exited(0)


async def _until_one_ends(
    session: CommandSession,
    attachment: Attachment,
    target: Input | None,
    output: AsyncIterator[tuple[str, bytes]],
) -> None:
    copying = asyncio.create_task(_copy_output(session, output))
    leaving = asyncio.create_task(_gone(session))
    enough = {copying, leaving}
    others = set()
    if session.stdin is not None and target is not None:
        feeding = asyncio.create_task(_feed(session, attachment, target))
        others.add(feeding)
        if not attachment.closes_input:
            enough.add(feeding)
    if session.resize is not None:
        others.add(asyncio.create_task(follow_sizes(session.resize, attachment.resize)))
    try:
        await asyncio.wait(enough, return_when=asyncio.FIRST_COMPLETED)
        if copying.done():
            copying.result()
    finally:
        await cancelled(*enough, *others)
        if session.gone.is_set() and attachment.closes_input and target is not None:
            target.close()
            await attachment.end_input()


async def _copy_output(session: CommandSession, output: AsyncIterator[tuple[str, bytes]]) -> None:
    channels = {"stdout": session.stdout, "stderr": session.stderr}
    try:
        async for stream, data in output:
            channel = channels[stream]
            if channel is not None:
                await channel.write(data)
    except Gone:
        return


async def _feed(session: CommandSession, attachment: Attachment, target: Input) -> None:
    assert session.stdin is not None
    await copy_input(session.stdin, target)
    if attachment.closes_input:
        target.close()
        await attachment.end_input()


async def _gone(session: CommandSession) -> None:
    await session.gone.wait()
