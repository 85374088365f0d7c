"""The connections of the log keeper's clients: requests received, replies and live output sent."""

from __future__ import annotations

import select
import socket

from runtime.logs.keeper.protocol import Facts, encode, frame

TYPE_CHECKING = False  # without typing, to save the import
if TYPE_CHECKING:
    from collections.abc import Callable

_READ_BYTES = 65536

_REQUEST_BYTES = 1 << 20
"""Maximum length of a request; a client that sends more without a line end is dropped."""

_BACKLOG_BYTES = 4 << 20
"""Unread bytes at which an attached client is dropped, so that it cannot block the container."""


class Client:
    """One connection: received bytes of an incomplete line, and bytes that wait to be sent."""

    __slots__ = ("detach", "incoming", "outgoing", "socket", "streams")

    def __init__(self, connection: socket.socket) -> None:
        self.socket = connection
        self.socket.setblocking(False)
        self.incoming = bytearray()
        self.outgoing = bytearray()
        self.detach: Callable[[Client], None] | None = None
        """Set once the connection is attached to a container; called when it is dropped."""
        self.streams: tuple[str, ...] = ()
        """The streams that an attached client receives."""


class Clients:
    """All connections, registered with the loop's epoll."""

    def __init__(self, epoll: select.epoll, answer: Callable[[Client, bytes], None]) -> None:
        """``answer`` serves one request, given as a line."""
        self._epoll = epoll
        self._answer = answer
        self._by_fd: dict[int, Client] = {}

    def __bool__(self) -> bool:
        """Whether there is a connection."""
        return bool(self._by_fd)

    def accept(self, listener: socket.socket) -> None:
        """Accept a connection, if one is waiting."""
        try:
            connection, _ = listener.accept()
        except OSError:
            return
        self._by_fd[connection.fileno()] = Client(connection)
        self._epoll.register(connection.fileno(), select.EPOLLIN)

    def serve(self, fd: int, event: int) -> None:
        """Handle an event of a connection; ignored if it was dropped meanwhile."""
        client = self._by_fd.get(fd)
        if client is None:
            return
        if event & select.EPOLLOUT:
            self.send(client, b"")
        if event & ~select.EPOLLOUT:
            try:
                data = client.socket.recv(_READ_BYTES)
            except BlockingIOError:
                return
            except OSError:
                data = b""
            if not data:
                self.drop(client)
                return
            client.incoming += data
            while (end := client.incoming.find(b"\n")) >= 0:
                line = bytes(client.incoming[:end])
                del client.incoming[: end + 1]
                self._answer(client, line)
            if len(client.incoming) > _REQUEST_BYTES:
                self.drop(client)

    def send(self, client: Client, data: bytes) -> None:
        """Send, or buffer until the socket is writable; drops a broken connection."""
        waiting = bool(client.outgoing)
        client.outgoing += data
        try:
            while client.outgoing:
                del client.outgoing[: client.socket.send(client.outgoing)]
        except BlockingIOError:
            pass
        except OSError:
            self.drop(client)
            return
        if waiting != bool(client.outgoing):
            mask = select.EPOLLIN | (select.EPOLLOUT if client.outgoing else 0)
            self._epoll.modify(client.socket.fileno(), mask)

    def reply(self, client: Client, reply: Facts) -> None:
        """Send a reply."""
        self.send(client, encode(reply))

    def feed(self, client: Client, stream: str, data: bytes) -> None:
        """Send live output to an attached client; one that does not read is dropped."""
        if stream not in client.streams:
            return
        if len(client.outgoing) > _BACKLOG_BYTES:
            self.drop(client)
        else:
            self.send(client, frame(stream, data))

    def notify(self, news: Facts) -> None:
        """Send a notification to every client that is not attached to a container."""
        for client in list(self._by_fd.values()):
            if client.detach is None:
                self.reply(client, news)

    def drop(self, client: Client) -> None:
        """Close a connection. Idempotent."""
        fd = client.socket.fileno()
        if self._by_fd.pop(fd, None) is None:
            return
        if client.detach is not None:
            client.detach(client)
        self._epoll.unregister(fd)
        client.socket.close()
