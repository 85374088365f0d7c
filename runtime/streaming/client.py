"""One client: a TCP connection, from its HTTP request to the end of its session."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from collections.abc import Callable, Coroutine
from http import HTTPStatus
from typing import Any, Final, Protocol, TypeAlias

import structlog

from runtime.streaming.hangups import Hangups
from runtime.streaming.http import Http, Refusal, Request, Upgrade
from runtime.streaming.metrics import Metrics

log = structlog.get_logger(__name__)

REQUEST_LIMIT: Final = 10.0
"""Seconds for a client to send its request."""

BUFFERED: Final = 256 << 10
"""Bytes that may wait to be sent to one client."""

_ANSWERS: Final = 3 * BUFFERED
"""Bytes that wait at which a client is not read any more: it asks (pings, refused streams) and does
not take the answers. Channels alone never come so far."""

_LOGGED_FAULTS: Final = 5
"""Faults of one client that are logged; all are counted."""

_READ_BYTES: Final = 128 << 10

HUNG_UP_LIMIT: Final = 20.0
"""Seconds for what a client sent before it left to be taken, where its reader is slow."""

_KEEPALIVE: Final = {
    socket.TCP_KEEPIDLE: 10,
    socket.TCP_KEEPINTVL: 5,
    socket.TCP_KEEPCNT: 3,
}
"""Seconds, seconds, probes: an idle client that vanished is noticed after 25 s."""

_UNANSWERED_LIMIT: Final = 20_000
"""Milliseconds without a sign of life from a client that has bytes to acknowledge."""
_LOOK: Final = 5.0
"""Seconds between two looks at a client that takes no bytes."""
_TCP_INFO_UNACKED: Final = struct.Struct("24xI")
_TCP_INFO_LAST_ACK: Final = struct.Struct("56xI")
_TCP_INFO_BYTES: Final = 104

_buffer = memoryview(bytearray(_READ_BYTES))
"""What sockets are read into: one for all, as what was read is taken out before the next read."""


class Session(Protocol):
    """What a connection carries after its upgrade."""

    def receive(self, data: memoryview) -> None: ...

    def lost(self) -> None: ...


Begun: TypeAlias = tuple[Session, Coroutine[Any, Any, None]]
"""A session, and the work on it."""

Answer: TypeAlias = Callable[["Client", Request], tuple[Upgrade, Callable[[], Begun]]]
"""Decides on a request: the upgrade, and what to begin once it is told. Raises Refusal."""


class Client(asyncio.BufferedProtocol):
    """A connection; a `runtime.streaming.wire.Wire` once it is upgraded."""

    def __init__(
        self,
        answer: Answer,
        clients: set[Client],
        idle_limit: float,
        metrics: Metrics,
        hangups: Hangups,
        sessions: set[asyncio.Task[None]],
    ) -> None:
        self._sessions = sessions
        self._hangups = hangups
        self._fd = -1
        self._hung_up: asyncio.TimerHandle | None = None
        self._answer = answer
        self._clients = clients
        self._idle_limit = idle_limit
        self._metrics = metrics
        self._http: Http | None = Http()
        self._session: Session | None = None
        self._transport: asyncio.Transport
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle
        self._look: asyncio.TimerHandle | None = None
        self._active = 0.0
        self._faults = 0
        self._unread_for: set[str] = set()
        """Why the connection is not read now."""
        self._room = asyncio.Event()
        self._room.set()
        self._ended = asyncio.Event()
        self.serving: asyncio.Task[None] | None = None
        """The work on the session."""

    # asyncio's side

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._clients.add(self)
        transport.set_write_buffer_limits(high=BUFFERED, low=BUFFERED // 4)
        peer: socket.socket = transport.get_extra_info("socket")
        self._fd = peer.fileno()
        peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for option, value in _KEEPALIVE.items():
            peer.setsockopt(socket.IPPROTO_TCP, option, value)
        self._timer = self._loop.call_later(REQUEST_LIMIT, self._no_request)

    def get_buffer(self, sizehint: int) -> memoryview:
        return _buffer

    def buffer_updated(self, count: int) -> None:
        self._active = self._loop.time()
        data = _buffer[:count]
        if self._session is not None:
            self._session.receive(data)
            if self._transport.get_write_buffer_size() > _ANSWERS:
                self._stop_reading("answers")
        elif self._http is not None:
            self._receive_request(bytes(data))

    def eof_received(self) -> bool:
        return False  # clients of these protocols do not half-close their connection

    def pause_writing(self) -> None:
        self._room.clear()

    def resume_writing(self) -> None:
        self._read_again("answers")
        self._room.set()

    def connection_lost(self, error: Exception | None) -> None:
        self._hangups.forget(self._fd)
        if self._hung_up is not None:
            self._hung_up.cancel()
        self._clients.discard(self)
        self._timer.cancel()
        self._ended.set()
        self.resume_writing()
        if self._look is not None:
            self._look.cancel()
        if self._session is not None:
            self._session.lost()
        self._session = None

    # The request

    def _receive_request(self, data: bytes) -> None:
        http = self._http
        assert http is not None
        try:
            request = http.receive(data)
            if request is None:
                return
            upgrade, begin = self._answer(self, request)
        except Refusal as refusal:
            self._refuse(http, refusal)
            return
        self._http = None
        self._timer.cancel()
        self._watch_idle()
        answer, early = http.switched(upgrade)
        self._transport.write(answer)
        self._session, work = begin()
        self.serving = asyncio.create_task(work)
        self._sessions.add(self.serving)
        self.serving.add_done_callback(self._sessions.discard)
        if early:
            self._session.receive(memoryview(early))

    def _refuse(self, http: Http, refusal: Refusal) -> None:
        self._http = None
        self.report(str(refusal))
        self._transport.write(http.refused(refusal))
        self._transport.close()

    def _no_request(self) -> None:
        if self._http is not None:
            reason = f"no request came within {REQUEST_LIMIT:.0f} s"
            self._refuse(self._http, Refusal(HTTPStatus.REQUEST_TIMEOUT, reason))
        self._timer = self._loop.call_later(REQUEST_LIMIT, self._transport.abort)

    # Idle clients, and those that vanished

    def _watch_idle(self) -> None:
        if not self._idle_limit:
            return
        idle = self._loop.time() - self._active
        if idle >= self._idle_limit:
            self.report(f"idle for {self._idle_limit:.0f} s")
            self._transport.abort()
        else:
            self._timer = self._loop.call_later(self._idle_limit - idle, self._watch_idle)

    def _look_for_life(self) -> None:
        """Whether the client acknowledges what was written to it.

        Keepalive does not work while bytes wait for that, and retransmission gives up after 15
        minutes. A client that merely reads nothing acknowledges all the same.
        """
        self._look = None
        peer: socket.socket = self._transport.get_extra_info("socket")
        try:
            info = peer.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _TCP_INFO_BYTES)
        except OSError:
            return
        (unacked,) = _TCP_INFO_UNACKED.unpack_from(info)
        (silent,) = _TCP_INFO_LAST_ACK.unpack_from(info)
        if unacked and silent > _UNANSWERED_LIMIT:
            self.report("the client vanished: it acknowledges nothing")
            self._transport.abort()
        elif unacked or self.full:
            self._look = self._loop.call_later(_LOOK, self._look_for_life)

    # The wire's side

    @property
    def full(self) -> bool:
        return not self._room.is_set()

    async def drained(self) -> None:
        await self._room.wait()

    def write(self, data: bytes) -> None:
        if self._ended.is_set():
            return
        self._active = self._loop.time()
        self._transport.write(data)
        if self._look is None:
            self._look = self._loop.call_later(_LOOK, self._look_for_life)

    def pause_reading(self) -> None:
        self._stop_reading("channels")

    def resume_reading(self) -> None:
        self._read_again("channels")

    def _stop_reading(self, reason: str) -> None:
        if not (self._unread_for or self._ended.is_set()):
            self._transport.pause_reading()
            self._hangups.watch(self._fd, self._client_left)
        self._unread_for.add(reason)

    def _read_again(self, reason: str) -> None:
        was_unread = bool(self._unread_for)
        self._unread_for.discard(reason)
        if was_unread and not (self._unread_for or self._ended.is_set()):
            self._hangups.forget(self._fd)
            if self._hung_up is not None:
                self._hung_up.cancel()
            self._transport.resume_reading()

    def _client_left(self) -> None:
        """What it sent before may still be taken, but not for ever."""
        self._hung_up = self._loop.call_later(HUNG_UP_LIMIT, self._transport.abort)

    def close(self) -> None:
        self._transport.close()

    def abort(self) -> None:
        """Close without sending what waits."""
        self._transport.abort()

    async def closed_by_client(self, seconds: float) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._ended.wait()

    def report(self, fault: str) -> None:
        self._metrics.stream_fault()
        self._faults += 1
        if self._faults <= _LOGGED_FAULTS:
            peer: Any = self._transport.get_extra_info("peername")
            more = {"more": "not logged"} if self._faults == _LOGGED_FAULTS else {}
            log.info("streaming client", client=peer, problem=fault, **more)
