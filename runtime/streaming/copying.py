"""Copy between channels and the streams of a process.

While a copy waits for data, what arrives is passed to the other side by the callback that received
it. So a byte typed on a terminal, and its echo, wake no task: a copy wakes up only for what the
other side has no room for, and at the end.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from runtime.streaming.channels import Channel, Gone
from runtime.streaming.services import Input, Output
from runtime.streaming.terminal_size import Sizes


async def copy_output(source: Output, channel: Channel | None) -> None:
    """Copy until the source ends. Without a receiver the data is dropped, so the source never
    blocks."""
    while data := await source.read(channel.write_now if channel else None):
        if channel is not None:
            try:
                await channel.write(data)
            except Gone:
                channel = None


async def copy_input(channel: Channel, target: Input) -> None:
    """Copy until the client closes its input or disconnects, or the target has no reader."""
    try:
        while data := await channel.read(target.write_now):
            await target.write(data)
    except BrokenPipeError:
        channel.discard()


async def follow_sizes(channel: Channel, resize: Callable[[int, int], Awaitable[None]]) -> None:
    """Apply every terminal size the client sends; invalid data ends this."""
    sizes = Sizes()
    try:
        while data := await channel.read():
            for size in sizes.receive(data):
                await resize(size.width, size.height)
    except ValueError:
        channel.discard()


async def cancelled(*tasks: asyncio.Task[None]) -> None:
    """Cancel tasks, and wait until they have ended."""
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
