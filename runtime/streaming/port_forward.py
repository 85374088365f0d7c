"""PortForward: connects a client's connections to ports of a pod."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Callable
from typing import Final

from runtime.linux import netns
from runtime.streaming.channels import Channel, Connection, Gone, PortSession

DIAL_LIMIT: Final = 10.0
"""Seconds for a port of the pod to accept a connection."""

GRACE: Final = 1.0
"""Seconds of silence, after one direction has ended, until the other is closed."""

_READ_BYTES: Final = 256 << 10
_LOCALHOST: Final = ((socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1"))


class _Refused(Exception):
    """The port refused the connection; the message is for the client."""


async def serve(session: PortSession, netns_path: str) -> None:
    """Connect every connection that the client opens to its port of the pod.

    ``netns_path`` is the pod's network namespace; "" means the node's.
    """
    forwarding: set[asyncio.Task[None]] = set()
    try:
        async for connection in session.connections():
            task = asyncio.create_task(_forward(connection, netns_path))
            forwarding.add(task)
            task.add_done_callback(forwarding.discard)
    finally:
        for task in forwarding:
            task.cancel()
        await asyncio.gather(*forwarding, return_exceptions=True)
        await session.end()


async def _forward(connection: Connection, netns_path: str) -> None:
    data, error = connection.data, connection.error
    error.discard()
    try:
        with await _dial(connection.port, netns_path) as peer:
            await _copy_both_ways(data, peer)
    except _Refused as refusal:
        try:
            await error.write(str(refusal).encode())
        except Gone:
            return
        error.end()
        data.reset()
        return
    except (OSError, Gone):  # a broken connection is handled like one that ended
        data.reset()
    finally:
        data.end()
        data.discard()
        error.end()


async def _dial(port: int, netns_path: str) -> socket.socket:
    """A connection to the port on the pod's localhost, by IPv4 or else IPv6."""
    reasons = []
    for family, address in _LOCALHOST:
        try:
            peer = await _socket_in(netns_path, family)
        except OSError as error:
            reasons.append(f"{address}: {_reason(error)}")
            continue
        try:
            async with asyncio.timeout(DIAL_LIMIT):
                await asyncio.get_running_loop().sock_connect(peer, (address, port))
        except (OSError, TimeoutError) as error:
            peer.close()
            reasons.append(f"{address}: {_reason(error)}")
        except BaseException:
            peer.close()
            raise
        else:
            return peer
    raise _Refused(f"failed to connect to port {port} of the pod: {'; '.join(reasons)}")


def _reason(error: OSError) -> str:
    """The operating system's text: asyncio replaces it with its own."""
    if isinstance(error, TimeoutError) or error.errno is None:
        return f"no response within {DIAL_LIMIT:.0f} s"
    return os.strerror(error.errno)


async def _socket_in(netns_path: str, family: socket.AddressFamily) -> socket.socket:
    """A socket created in a network namespace; it stays there whichever thread uses it."""

    def create() -> socket.socket:
        created = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        created.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return created

    return await netns.inside(netns_path, create) if netns_path else create()


async def _copy_both_ways(data: Channel, peer: socket.socket) -> None:
    """Copy both ways until both have ended, or one has ended and the other is silent."""
    moved = _Moved()
    sending = asyncio.create_task(_send(data, peer, moved.note))
    receiving = asyncio.create_task(_receive(data, peer, moved.note))
    both = {sending, receiving}
    try:
        # A server that refuses an upload may close before it has read all of it: what it answered
        # is still to be received when sending fails.
        _, waiting = await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
        while waiting and not (receiving.done() and receiving.exception()):
            before = moved.count
            _, waiting = await asyncio.wait(waiting, timeout=GRACE)
            if waiting and moved.count == before:
                break
        for task in both - waiting:
            task.result()
    finally:
        for task in both:
            task.cancel()
        await asyncio.gather(*both, return_exceptions=True)


class _Moved:
    """Counts the bytes copied on a connection."""

    def __init__(self) -> None:
        self.count = 0

    def note(self) -> None:
        self.count += 1


async def _send(data: Channel, peer: socket.socket, moved: Callable[[], None]) -> None:
    loop = asyncio.get_running_loop()
    while chunk := await data.read():
        await loop.sock_sendall(peer, chunk)
        moved()
    peer.shutdown(socket.SHUT_WR)


async def _receive(data: Channel, peer: socket.socket, moved: Callable[[], None]) -> None:
    loop = asyncio.get_running_loop()
    while chunk := await loop.sock_recv(peer, _READ_BYTES):
        await data.write(chunk)
        moved()
    data.end()
