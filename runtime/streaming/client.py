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
"""Seconds that a client has to send its request."""

BUFFERED: Final = 256 << 10
"""Bytes that may be buffered for sending to one client."""

_REPLIES_LIMIT: Final = 3 * BUFFERED
"""Stop reading a client while this many bytes are buffered for it: it causes replies (to pings and
refused streams) without reading them. Channel data alone never reaches this limit."""

_LOGGED_FAULTS: Final = 5
"""Faults logged per client; all are counted."""

_READ_BYTES: Final = 128 << 10

HUNG_UP_LIMIT: Final = 20.0
"""Seconds allowed for a slow reader to consume what a client sent before it disconnected, and for a
client to read some of what it is sent before its connection is closed."""

_KEEPALIVE: Final = {
    socket.TCP_KEEPIDLE: 10,
    socket.TCP_KEEPINTVL: 5,
    socket.TCP_KEEPCNT: 3,
}
"""Seconds, seconds, probes: an idle client that vanished is detected after 25 s."""

_SILENCE_LIMIT: Final = 20_000
"""Milliseconds that a client with unacknowledged bytes may stay silent."""
_LIVENESS_INTERVAL: Final = 5.0
"""Seconds between two liveness checks of a client that has data to acknowledge."""
_TCP_INFO_UNACKED: Final = struct.Struct("24xI")
_TCP_INFO_LAST_ACK: Final = struct.Struct("56xI")
_TCP_INFO_BYTES: Final = 104

_buffer = memoryview(bytearray(_READ_BYTES))
"""The receive buffer shared by all sockets: each read is consumed before the next one."""


class Session(Protocol):
    """The protocol on a connection after its upgrade."""

    def receive(self, data: memoryview) -> None: ...

    def lost(self) -> None: ...


StartedSession: TypeAlias = tuple[Session, Coroutine[Any, Any, None]]
"""A session and the coroutine that serves it."""

Decide: TypeAlias = Callable[["Client", Request], tuple[Upgrade, Callable[[], StartedSession]]]
"""Decides about a request: the upgrade, and a function that starts the session once the client has
been sent the 101 response. Raises Refusal."""


class Client(asyncio.BufferedProtocol):
    """One connection; acts as `runtime.streaming.wire.Wire` once it is upgraded."""

    def __init__(
        self,
        decide: Decide,
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
        self._decide = decide
        self._clients = clients
        self._idle_limit = idle_limit
        self._metrics = metrics
        self._http: Http | None = Http()
        self._session: Session | None = None
        self._transport: asyncio.Transport
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle
        self._liveness: asyncio.TimerHandle | None = None
        self._departure: asyncio.TimerHandle | None = None
        self._active = 0.0
        self._faults = 0
        self._paused_for: set[str] = set()
        """Why reading is paused."""
        self._room = asyncio.Event()
        self._room.set()
        self._ended = asyncio.Event()
        self.serving: asyncio.Task[None] | None = None
        """The task that serves the session."""

    # Called by asyncio

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
            if self._transport.get_write_buffer_size() > _REPLIES_LIMIT:
                self._stop_reading("replies")
        elif self._http is not None:
            self._receive_request(bytes(data))

    def eof_received(self) -> bool:
        self.close()  # clients of these protocols never half-close their connection
        return False

    def pause_writing(self) -> None:
        self._room.clear()

    def resume_writing(self) -> None:
        self._resume("replies")
        self._room.set()

    def connection_lost(self, error: Exception | None) -> None:
        self._hangups.forget(self._fd)
        if self._hung_up is not None:
            self._hung_up.cancel()
        self._clients.discard(self)
        self._timer.cancel()
        self._ended.set()
        self.resume_writing()
        for timer in (self._liveness, self._departure):
            if timer is not None:
                timer.cancel()
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
            upgrade, begin = self._decide(self, request)
        except Refusal as refusal:
            self._refuse(http, refusal)
            return
        self._http = None
        self._timer.cancel()
        self._watch_idle()
        response, early = http.switched(upgrade)
        self._transport.write(response)
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
            reason = f"no request received within {REQUEST_LIMIT:.0f} s"
            self._refuse(self._http, Refusal(HTTPStatus.REQUEST_TIMEOUT, reason))
        self._timer = self._loop.call_later(REQUEST_LIMIT, self._transport.abort)

    # Idle and vanished clients

    def _watch_idle(self) -> None:
        if not self._idle_limit:
            return
        idle = self._loop.time() - self._active
        if idle >= self._idle_limit:
            self.report(f"idle for {self._idle_limit:.0f} s")
            self._transport.abort()
        else:
            self._timer = self._loop.call_later(self._idle_limit - idle, self._watch_idle)

    def _check_liveness(self) -> None:
        """Check that the client acknowledges what was sent to it.

        TCP keepalive is inactive while data is unacknowledged, and retransmission gives up only
        after 15 minutes. A client that merely does not read still acknowledges.
        """
        self._liveness = None
        peer: socket.socket = self._transport.get_extra_info("socket")
        try:
            info = peer.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _TCP_INFO_BYTES)
        except OSError:
            return
        (unacked,) = _TCP_INFO_UNACKED.unpack_from(info)
        (silent,) = _TCP_INFO_LAST_ACK.unpack_from(info)
        if unacked and silent > _SILENCE_LIMIT:
            self.report("the client vanished: it no longer acknowledges data")
            self._transport.abort()
        elif unacked or self.full:
            self._liveness = self._loop.call_later(_LIVENESS_INTERVAL, self._check_liveness)

    # Used by the session, as `Wire`

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
        if self._liveness is None:
            self._liveness = self._loop.call_later(_LIVENESS_INTERVAL, self._check_liveness)

    def pause_reading(self) -> None:
        self._stop_reading("channels")

    def resume_reading(self) -> None:
        self._resume("channels")

    def _stop_reading(self, reason: str) -> None:
        if not (self._paused_for or self._ended.is_set()):
            self._transport.pause_reading()
            self._hangups.watch(self._fd, self._client_left)
        self._paused_for.add(reason)

    def _resume(self, reason: str) -> None:
        was_paused = bool(self._paused_for)
        self._paused_for.discard(reason)
        if was_paused and not (self._paused_for or self._ended.is_set()):
            self._hangups.forget(self._fd)
            if self._hung_up is not None:
                self._hung_up.cancel()
            self._transport.resume_reading()

    def _client_left(self) -> None:
        """The data sent before it left may still be consumed, but only for a limited time."""
        self._hung_up = self._loop.call_later(HUNG_UP_LIMIT, self._transport.abort)

    def close(self) -> None:
        if self._departure is None and not self._ended.is_set():
            self._await_departure()
        self._transport.close()

    def _await_departure(self) -> None:
        """Cut off a client that stops reading while its last bytes are being sent."""
        unsent = self._transport.get_write_buffer_size()
        self._departure = self._loop.call_later(HUNG_UP_LIMIT, self._check_departure, unsent)

    def _check_departure(self, unsent: int) -> None:
        if self._transport.get_write_buffer_size() < unsent:
            self._await_departure()
        else:
            self.report(f"the client read nothing for {HUNG_UP_LIMIT:.0f} s while it was closed")
            self._transport.abort()

    def abort(self) -> None:
        """Close without sending what is buffered."""
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
