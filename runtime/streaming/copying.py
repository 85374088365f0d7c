"""Copies between channels and what runs on the node."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from runtime.streaming.channels import Channel, Gone
from runtime.streaming.services import Input, Output
from runtime.streaming.terminal_size import Sizes


async def copy_output(source: Output, channel: Channel | None) -> None:
    """Copy to the end. What nobody takes is dropped, so that the source is never blocked."""
    while data := await source.read():
        if channel is not None:
            try:
                await channel.write(data)
            except Gone:
                channel = None


async def copy_input(channel: Channel, target: Input) -> None:
    """Copy until the client sends no more or has left, or nothing reads the target."""
    try:
        while data := await channel.read():
            await target.write(data)
    except BrokenPipeError:
        channel.discard()


async def follow_sizes(channel: Channel, resize: Callable[[int, int], Awaitable[None]]) -> None:
    """Resize with every size that the client sends; what is no size ends this."""
    sizes = Sizes()
    try:
        while data := await channel.read():
            for size in sizes.receive(data):
                await resize(size.width, size.height)
    except ValueError:
        channel.discard()


async def cancelled(*tasks: asyncio.Task[None]) -> None:
    """End tasks, and wait until they have."""
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
