"""Attach: connects a client to the streams of a running container."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from runtime.errors import CriError
from runtime.streaming.channels import CommandSession, Gone
from runtime.streaming.copying import cancelled, copy_input, follow_sizes
from runtime.streaming.outcome import Exited, Failed, Outcome
from runtime.streaming.services import Attachment, Input
from runtime.transforms.facts import Streams


async def serve(session: CommandSession, attachment: Attachment, streams: Streams) -> None:
    """Connect client and container until the container's output ends or the client disconnects.

    The end of the client's input also ends its session, unless it ends the container's input
    (``stdin_once``): then the client stays connected to receive the remaining output.
    """
    try:
        outcome = await _connect(session, attachment, streams)
    except CriError as error:
        outcome = Failed(str(error))
    except asyncio.CancelledError:
        await session.end(Failed("the server is shutting down"))
        raise
    await session.end(outcome)


async def _connect(session: CommandSession, attachment: Attachment, streams: Streams) -> Outcome:
    async with attachment.output(stdout=streams.stdout, stderr=streams.stderr) as output:
        target = await attachment.open_input() if session.stdin is not None else None
        if session.stdin is not None and target is None:
            session.stdin.discard()
        try:
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
    disconnecting = asyncio.create_task(_client_gone(session))
    until = {copying, disconnecting}
    others = set()
    if session.stdin is not None and target is not None:
        feeding = asyncio.create_task(_feed(session, attachment, target))
        others.add(feeding)
        if not attachment.closes_input:
            until.add(feeding)
    if session.resize is not None:
        others.add(asyncio.create_task(follow_sizes(session.resize, attachment.resize)))
    try:
        await asyncio.wait(until, return_when=asyncio.FIRST_COMPLETED)
        if copying.done():
            copying.result()
    finally:
        await cancelled(*until, *others)
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


async def _client_gone(session: CommandSession) -> None:
    await session.gone.wait()
