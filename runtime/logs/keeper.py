"""The log keeper: a small separate process that drains containers' output into CRI log files.

A container's shim writes the output to FIFOs and blocks when one is full, so their reader must
outlive a restart of the server.  This process does nothing else.  The server starts it
(``runtime.logs.client``), passes it a listening socket, and talks to it in JSON lines:

    {"seq": 1, "op": "open", "id": ..., "stdout": PATH, "stderr": PATH, "stdin": PATH,
     "tty": bool, "log": PATH, "limit": BYTES, "tolerant": bool}
    {"seq": 1, "ok": {...}}        or        {"seq": 1, "error": "sentence", "kind": "not-found"}

=========  ====================================================================================
hello      protocol facts: build, pid, number of containers
open       creates the named FIFOs, opens their read ends and the log file; idempotent
reopen     writes a partial line to the old file, later text to a new one at the same path
drained    answers once every stream of the container has ended; called after its task's exit
close      drains what is left in the FIFOs, then removes the container; idempotent
list       every container with its paths, open streams, bytes read and bytes lost
attach     after the answer, this connection carries the container's live output as frames:
           one byte stream (1 stdout, 2 stderr, 0 the end), four bytes length, the bytes
retire     flushes, releases everything and exits, so that a newer build can take over
=========  ====================================================================================

Every connected client is also notified when a log file cannot be written, and when it can again:

    {"seq": null, "id": ..., "lost": BYTES, "problem": "sentence, or empty"}

Rules: draining never stops, whatever happens to a log file (lost bytes are counted and reported,
and the file is retried). There is one write per batch of lines. Standard input is not handled here,
because the shim itself holds a write end of that FIFO and an attached client can open it. An
invalid request gets an error and never ends the process. The process exits by itself when it holds
no open FIFO and its last client has disconnected.

A batch is read and written before the next one is read. If this process is killed, at most the
current batch (64 KiB of one stream) is lost, and the beginning of an unfinished line of each
stream. The next keeper terminates a partly written record, so that the next record starts on a new
line.

Only regular files are accepted as log files. Otherwise a process that can write to the log
directory could block the keeper with a FIFO, or make it write to a device or, through a link, to
any file.

A log file can be on a file system that hangs. The loop still calls into it directly, because
passing each call to another thread would halve the throughput. The thread that runs the loop holds
the
*turn*, a lock for all state, and releases it during such a call. If the call takes longer than
`PATIENCE`, a watchdog thread starts another thread that continues the loop; the blocked thread
finishes its call and exits when the file system answers. Meanwhile the container's FIFOs are not
read, so the container waits as for a slow disk. After `STALL_SECONDS` its output is read again, and
counted as lost.

This relies on two properties of Linux FIFOs: a non-blocking read end opens without a writer, and
epoll reports a hang-up only after a writer has opened and closed it, so "no writer yet" is never
mistaken for the end.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import resource
import select
import socket
import stat
import sys
import threading
import time

from runtime.logs.format import DEFAULT_LINE_LIMIT, Clock, LineFormatter

TYPE_CHECKING = False  # without typing, to save the import
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import TypeAlias

    Facts: TypeAlias = dict[str, object]
    """The content of an answer: a JSON object."""

FIRST_CLIENT_SECONDS = 60.0
"""How long a new keeper waits for its first client."""

REOPEN_SECONDS = 1.0
"""Seconds between attempts to open a log file that could not be opened."""

PATIENCE = 0.25
"""Seconds after which a blocked call into a log's file system loses the loop to another thread."""

STALL_SECONDS = 10.0
"""How long a container waits for its log's file system before its output counts as lost."""

RETIRE_SECONDS = 2.0
"""How long a keeper that retires waits for a log's file system."""

_READ_BYTES = 65536
_READS_PER_TURN = 4
"""Reads of one FIFO before the other FIFOs are read."""

_FIFO_BYTES = 262144
"""Requested capacity of each FIFO: what a container can write while a dead keeper is replaced."""

_BACKLOG_BYTES = 4 << 20
"""Unread bytes at which an attached client is dropped, so that it cannot block the container."""

_REQUEST_BYTES = 1 << 20
"""Maximum length of a request; a client that sends more without a line end is dropped."""

_STACK_BYTES = 1 << 20
_STREAMS = ("stdout", "stderr")


class RequestError(Exception):
    """A request that is refused; the sentence is for the client's error message."""

    def __init__(self, sentence: str, kind: str = "failed") -> None:
        super().__init__(sentence)
        self.kind = kind


class Request:
    """The fields of one request, read with type checks; raises RequestError."""

    __slots__ = ("_fields",)

    def __init__(self, fields: Mapping[str, object]) -> None:
        self._fields = fields

    @property
    def sequence(self) -> object:
        """The number that the answer repeats."""
        return self._fields.get("seq")

    def text(self, key: str) -> str:
        """Return a required string."""
        value = self._fields.get(key)
        if value is None:
            raise RequestError(f"{key!r} is missing")
        if not isinstance(value, str):
            raise RequestError(f"{key!r} must be a string, not {value!r}")
        return value

    def path(self, key: str) -> str | None:
        """Return a path, or None if it is missing."""
        if not self._fields.get(key):
            return None
        path = self.text(key)
        try:
            unusable = "\0" in path or not os.fsencode(path)
        except UnicodeEncodeError:
            unusable = True
        if unusable:
            raise RequestError(f"{key!r} cannot be a path: {path!r}")
        return path

    def flag(self, key: str) -> bool:
        """Return a flag; false if it is missing."""
        value = self._fields.get(key, False)
        if not isinstance(value, bool):
            raise RequestError(f"{key!r} must be true or false, not {value!r}")
        return value

    def number(self, key: str, default: int) -> int:
        """Return an integer."""
        value = self._fields.get(key, default)
        if not isinstance(value, int) or isinstance(value, bool):
            raise RequestError(f"{key!r} must be an integer, not {value!r}")
        return value


class Output:
    """The parameters of ``open``: a container's FIFOs and log file."""

    __slots__ = ("container_id", "limit", "log", "stderr", "stdin", "stdout", "tty")

    def __init__(self, request: Request) -> None:
        self.container_id = request.text("id")
        self.stdin = request.path("stdin")
        self.stdout = request.path("stdout")
        self.stderr = request.path("stderr")
        self.tty = request.flag("tty")
        self.log = request.path("log")
        self.limit = request.number("limit", DEFAULT_LINE_LIMIT)

    def fifos(self) -> dict[str, str]:
        """Return the FIFO of each output stream; a terminal has only one."""
        paths = (self.stdout, None if self.tty else self.stderr)
        return {stream: path for stream, path in zip(_STREAMS, paths, strict=True) if path}

    def facts(self) -> Facts:
        """Return the request with which a new keeper can open it."""
        return {
            "id": self.container_id,
            "stdin": self.stdin,
            "stdout": self.stdout,
            "stderr": self.stderr,
            "tty": self.tty,
            "log": self.log,
            "limit": self.limit,
        }


class LogFile:
    """One container's log file; ``write`` records and counts errors instead of raising them.

    Its methods block if the file system hangs.
    """

    __slots__ = ("_fd", "_retry_at", "_torn", "device", "lost", "path", "problem")

    def __init__(self, path: str) -> None:
        self.path = path
        self.problem = ""
        self.lost = 0
        self.device = 0
        """The device number of the file system; 0 until the file was opened."""
        self._fd = -1
        self._retry_at = 0.0
        self._torn = False

    def open(self) -> None:
        """Open the file, created with mode 0640 in directories 0755 if absent; raises OSError."""
        directory = os.path.dirname(self.path)
        if directory:
            os.makedirs(directory, 0o755, exist_ok=True)
        fd, found = open_regular(self.path)
        self.close()
        self._fd = fd
        self.device = found.st_dev
        self._torn = found.st_size > 0 and not ends_a_line(self.path, found.st_size)
        self.problem = ""

    def try_open(self) -> None:
        """Open the file, or record the error and when to retry."""
        try:
            self.open()
        except OSError as error:
            self.problem = f"cannot open {self.path}: {error.strerror}"
            self._retry_at = time.monotonic() + REOPEN_SECONDS

    def write(self, records: bytes) -> None:
        """Append records; what does not fit is counted as lost."""
        if self._fd < 0:
            if time.monotonic() >= self._retry_at:
                self.try_open()
            if self._fd < 0:
                self.lost += len(records)
                return
        if self._torn:  # terminate a record that a full disk or a kill has truncated
            records = b"\n" + records
        view = memoryview(records)
        try:
            while view:
                view = view[os.write(self._fd, view) :]
            self._torn = False
            self.problem = ""
        except OSError as error:
            self.problem = f"cannot write {self.path}: {error.strerror}"
            self.lost += len(view)
            self._torn = self._torn or len(view) < len(records)

    def close(self) -> None:
        """Close the file. Idempotent."""
        if self._fd >= 0:
            fd, self._fd = self._fd, -1
            os.close(fd)


class Container:
    """The open streams, the log file and the listeners of one container."""

    __slots__ = (
        "asked",
        "bytes_read",
        "call_since",
        "dropped",
        "feeds",
        "finish_later",
        "formatters",
        "log",
        "parked",
        "stalled",
        "streams",
        "told",
        "wait",
    )

    def __init__(self, asked: Output) -> None:
        self.asked = asked
        self.log = LogFile(asked.log) if asked.log else None
        self.formatters = {stream: LineFormatter(stream, asked.limit) for stream in _STREAMS}
        self.streams: dict[str, int] = {}
        self.bytes_read = 0
        self.dropped = 0
        """Bytes of records that could not be written."""
        self.feeds: list[Client] = []
        self.wait: list[Callable[[], None]] = []
        self.call_since = 0.0
        """Monotonic time at which a call into the log's file system began; 0 if there is none."""
        self.stalled = ""
        """Why the output is read and discarded, if that call takes too long."""
        self.parked = False
        """Whether the FIFOs are not read until that call ends."""
        self.finish_later = False
        """Whether all streams ended during that call."""
        self.told = ""
        """The problem that clients were last notified of."""

    @property
    def identity(self) -> str:
        return self.asked.container_id

    @property
    def lost(self) -> int:
        return self.dropped + (self.log.lost if self.log else 0)

    @property
    def problem(self) -> str:
        return self.stalled or (self.log.problem if self.log else "")

    def facts(self) -> Facts:
        return {
            "request": self.asked.facts(),
            "open": list(self.streams),
            "read": self.bytes_read,
            "lost": self.lost,
            "problem": self.problem,
        }


class Client:
    """One connection: received bytes of an incomplete line, and bytes that wait to be sent."""

    __slots__ = ("attached", "incoming", "outgoing", "socket", "streams")

    def __init__(self, connection: socket.socket) -> None:
        self.socket = connection
        self.socket.setblocking(False)
        self.incoming = bytearray()
        self.outgoing = bytearray()
        self.attached: Container | None = None
        self.streams: tuple[str, ...] = ()


class Keeper:
    """The loop: one epoll over the listening socket, the clients and the FIFOs.

    Only the thread that holds the turn accesses this state.
    """

    def __init__(self, listener: int, build: str) -> None:
        self._build = build
        self._clock = Clock()
        self._epoll = select.epoll()
        self._listener = socket.socket(fileno=listener)
        self._listener.setblocking(False)
        self._containers: dict[str, Container] = {}
        self._opening: set[str] = set()
        """Containers whose log file is being opened for the first time."""
        self._fifos: dict[int, tuple[Container, str]] = {}
        self._clients: dict[int, Client] = {}
        self._retired = False
        self._retire_by = 0.0
        """Monotonic time until which a retiring keeper waits for flushes; 0 if it is not
        retiring."""
        self._turn = threading.Lock()
        self._looping = 0
        """The thread that runs the loop."""
        self._call: tuple[Container, float] | None = None
        """The loop's current call into a file system, and its start (monotonic seconds)."""
        self._hung: list[Container] = []
        """Containers for which other threads are blocked in a call."""
        self._ended = threading.Event()
        self._epoll.register(listener, select.EPOLLIN)

    def run(self) -> None:
        """Serve until retired, or until there is nothing left to drain and no client left."""
        # in another thread, because the thread that runs the loop can block forever
        loop = threading.Thread(target=self._have_loop, args=(FIRST_CLIENT_SECONDS,), daemon=True)
        loop.start()
        self._watch()

    def _have_loop(self, patience: float | None = None) -> None:
        """Run the loop until it ends, or another thread has taken it over."""
        with self._turn:
            self._looping = threading.get_ident()
            try:
                events = self._events(patience)
                while events and not self._retired:
                    self._deal_with(events)
                    if not self._mine():
                        return
                    events = self._events()
            except BaseException:
                self._ended.set()
                raise
            self._ended.set()

    def _events(self, patience: float | None = None) -> list[tuple[int, int]]:
        """Wait for events; returns none if nothing is left to do, or after ``patience``."""
        while not self._retired and (patience or self._clients or self._fifos or self._hung):
            # after a blocked thread has returned, there can be nothing left to do
            seconds = patience or (1.0 if self._hung else None)
            self._turn.release()
            try:
                events = self._epoll.poll(seconds)
            finally:
                self._turn.acquire()
            if events or patience:
                return events
        return []

    def _deal_with(self, events: list[tuple[int, int]]) -> None:
        # Output first: a request can open a FIFO with a descriptor number that an earlier event of
        # this round refers to, and reading a FIFO that never had a writer looks like its end.
        for fd, _ in events:
            if fd in self._fifos:
                self._drain(fd, _READS_PER_TURN)
                if not self._mine():
                    return  # these events are outdated; the new loop thread gets them again
        for fd, event in events:
            if fd in self._clients:
                self._serve(self._clients[fd], event)
            elif fd == self._listener.fileno():
                self._accept()
            if not self._mine():
                return

    # file systems that hang

    def _mine(self) -> bool:
        """Return whether this thread runs the loop."""
        return self._looping == threading.get_ident()

    def _in_file_system(self, container: Container, call: Callable[[], None]) -> None:
        """Make a call that can block, without the turn.  Any state can change meanwhile."""
        now = time.monotonic()
        container.call_since = now
        if self._mine():
            self._call = container, now
        else:
            self._hung.append(container)
        self._turn.release()
        try:
            call()
        finally:
            self._turn.acquire()
            container.call_since = 0.0
            if self._mine():
                self._call = None
            else:
                self._hung.remove(container)
            container.stalled = ""
            self._read_again(container)
        if container.finish_later:
            self._finish(container)

    def _in_own_thread(self, work: Callable[..., None], *arguments: object) -> None:
        """Run ``work``, which is likely to block, in a thread that waits for the turn."""

        def with_turn() -> None:
            with self._turn:
                work(*arguments)

        threading.Thread(target=with_turn, daemon=True).start()

    def _watch(self) -> None:
        """Let another thread continue the loop whenever the current one is blocked."""
        while not self._ended.wait(PATIENCE):
            if self._call is not None or self._hung:
                with self._turn:
                    self._look_after_calls(time.monotonic())

    def _look_after_calls(self, now: float) -> None:
        if self._call is not None and now - self._call[1] > PATIENCE:
            self._hung.append(self._call[0])
            self._call = None
            self._looping = 0
            threading.Thread(target=self._have_loop, daemon=True).start()
        self._retired = self._retired or 0 < self._retire_by < now
        for container in list(self._hung):
            if container.log is None or container.stalled or not container.call_since:
                continue
            if now - container.call_since > STALL_SECONDS:
                container.stalled = (
                    f"the file system of {container.log.path} does not answer for "
                    f"{STALL_SECONDS:g} s"
                )
                self._read_again(container)
                if container.finish_later:
                    self._finish(container)
                self._tell(container)

    def _hangs(self, file: LogFile) -> bool:
        """Return whether a call into a log's file system is known to be blocked."""
        now = time.monotonic()
        return any(
            container.log is not None
            and now - container.call_since > PATIENCE
            and file.device in (0, container.log.device)
            for container in self._hung
        )

    def _park(self, container: Container) -> None:
        """Do not read the FIFOs while the log's file system does not answer."""
        if not container.parked:
            container.parked = True
            for fd in container.streams.values():
                self._epoll.unregister(fd)

    def _read_again(self, container: Container) -> None:
        if container.parked:
            container.parked = False
            for fd in container.streams.values():
                self._epoll.register(fd, select.EPOLLIN)

    # containers' output

    def _drain(self, fd: int, reads: int) -> None:
        entry = self._fifos[fd]
        container, stream = entry
        for _ in range(reads):
            if container.call_since and not container.stalled:
                self._park(container)
                return
            try:
                data = os.read(fd, _READ_BYTES)
            except BlockingIOError:
                return
            except OSError:
                data = b""
            if not data:
                self._end_stream(fd)
                return
            container.bytes_read += len(data)
            for client in list(container.feeds):
                self._feed(client, stream, data)
            if container.log is not None:
                stamp = self._clock.stamp(time.time_ns())
                records = container.formatters[stream].feed(data, stamp)
                if records:
                    self._write(container, container.log, records)
            if len(data) < _READ_BYTES or self._fifos.get(fd) is not entry:
                return

    def _end_stream(self, fd: int) -> None:
        container, stream = self._fifos.pop(fd)
        if not container.parked:
            self._epoll.unregister(fd)
        os.close(fd)
        del container.streams[stream]
        self._flush(container, stream)
        if not container.streams:
            self._finish(container)

    def _flush(self, container: Container, stream: str) -> None:
        if container.log is not None:
            records = container.formatters[stream].flush(self._clock.stamp(time.time_ns()))
            if records:
                self._write(container, container.log, records)

    def _write(self, container: Container, file: LogFile, records: bytes) -> None:
        if container.call_since:
            container.dropped += len(records)
        elif self._hung and self._hangs(file):
            container.call_since = time.monotonic()  # by now, and not only once the thread runs
            self._in_own_thread(self._write_now, container, file, records)
        else:
            self._write_now(container, file, records)

    def _write_now(self, container: Container, file: LogFile, records: bytes) -> None:
        self._in_file_system(container, lambda: file.write(records))
        if container.problem != container.told:
            self._tell(container)

    def _tell(self, container: Container) -> None:
        """Notify every client of a log file's problem, or that it is solved."""
        container.told = container.problem
        news: Facts = {"seq": None, "id": container.identity, "lost": container.lost}
        for client in list(self._clients.values()):
            if client.attached is None:
                self._reply(client, {**news, "problem": container.problem})

    def _finish(self, container: Container) -> None:
        """All streams have ended: answer waiting requests, end attached clients, close the file."""
        container.finish_later = bool(container.call_since)
        if container.finish_later and not container.stalled:
            return
        waiting, container.wait = container.wait, []
        for answer in waiting:
            answer()
        for client in list(container.feeds):
            self._send(client, b"\0\0\0\0\0")
        container.feeds.clear()
        if container.log is not None and not container.call_since:
            self._in_file_system(container, container.log.close)

    def _feed(self, client: Client, stream: str, data: bytes) -> None:
        if stream not in client.streams:
            return
        if len(client.outgoing) > _BACKLOG_BYTES:
            self._drop(client)
            return
        number = 1 + _STREAMS.index(stream)
        self._send(client, bytes((number,)) + len(data).to_bytes(4, "big") + data)

    # clients

    def _accept(self) -> None:
        try:
            connection, _ = self._listener.accept()
        except OSError:
            return
        self._clients[connection.fileno()] = Client(connection)
        self._epoll.register(connection.fileno(), select.EPOLLIN)

    def _drop(self, client: Client) -> None:
        fd = client.socket.fileno()
        if self._clients.pop(fd, None) is None:
            return
        if client.attached is not None and client in client.attached.feeds:
            client.attached.feeds.remove(client)
        self._epoll.unregister(fd)
        client.socket.close()

    def _serve(self, client: Client, event: int) -> None:
        if event & select.EPOLLOUT:
            self._send(client, b"")
        if event & ~select.EPOLLOUT:
            try:
                data = client.socket.recv(_READ_BYTES)
            except BlockingIOError:
                return
            except OSError:
                data = b""
            if not data:
                self._drop(client)
                return
            client.incoming += data
            while (end := client.incoming.find(b"\n")) >= 0:
                line = bytes(client.incoming[:end])
                del client.incoming[: end + 1]
                self._answer(client, line)
            if len(client.incoming) > _REQUEST_BYTES:
                self._drop(client)

    def _answer(self, client: Client, line: bytes) -> None:
        """Serve one request; in a separate thread if it can block and others are blocked."""
        try:
            fields = decode(line)
        except RequestError as error:
            self._refuse(client, None, error)
            return
        request = Request(fields)
        name = fields.get("op")
        if self._hung and name in ("open", "reopen"):
            self._in_own_thread(self._perform, client, name, request)
        else:
            self._perform(client, name, request)

    def _perform(self, client: Client, name: object, request: Request) -> None:
        try:
            operation = _OPERATIONS.get(name) if isinstance(name, str) else None
            if operation is None:
                raise RequestError(f"unknown op; known are {', '.join(_OPERATIONS)}")
            facts = operation(self, client, request)
        except RequestError as error:
            self._refuse(client, request.sequence, error)
        except Exception as error:  # a bug must not end the process that drains the containers
            sys.excepthook(type(error), error, error.__traceback__)
            self._refuse(client, request.sequence, RequestError(f"a fault: {error!r}"))
        else:
            if facts is not None:
                self._reply(client, {"seq": request.sequence, "ok": facts})

    def _refuse(self, client: Client, sequence: object, error: RequestError) -> None:
        self._reply(client, {"seq": sequence, "error": str(error), "kind": error.kind})

    def _reply(self, client: Client, reply: Facts) -> None:
        self._send(client, encode(reply))

    def _send(self, client: Client, data: bytes) -> None:
        """Send, or buffer until the socket is writable; drops a broken connection."""
        waiting = bool(client.outgoing)
        client.outgoing += data
        try:
            while client.outgoing:
                del client.outgoing[: client.socket.send(client.outgoing)]
        except BlockingIOError:
            pass
        except OSError:
            self._drop(client)
            return
        if waiting != bool(client.outgoing):
            mask = select.EPOLLIN | (select.EPOLLOUT if client.outgoing else 0)
            self._epoll.modify(client.socket.fileno(), mask)

    # operations: each returns the facts for the answer, or None if it answers itself

    def _hello(self, client: Client, request: Request) -> Facts:
        return {"build": self._build, "pid": os.getpid(), "containers": len(self._containers)}

    def _open(self, client: Client, request: Request) -> Facts:
        asked = Output(request)
        known = self._containers.get(asked.container_id)
        if known is not None and known.asked.fifos() == asked.fifos():
            return known.facts()
        if asked.container_id in self._opening:
            raise RequestError(
                f"the log file {asked.log} is being opened; its file system does not answer", "busy"
            )
        self._opening.add(asked.container_id)
        try:
            if known is not None:
                self._let_go(known)  # the container was recreated, with other FIFOs
            container = Container(asked)
            if container.log is not None and not request.flag("tolerant"):
                self._open_log(container, container.log)
            if asked.container_id not in self._opening:
                self._finish(container)
                raise RequestError(f"container {asked.container_id} was closed meanwhile")
        finally:
            self._opening.discard(asked.container_id)
        self._open_fifos(container)
        self._containers[asked.container_id] = container
        return container.facts()

    def _open_log(self, container: Container, file: LogFile) -> None:
        try:
            self._in_file_system(container, file.open)
        except OSError as error:
            raise RequestError(f"cannot open the log file {file.path}: {error.strerror}") from None

    def _open_fifos(self, container: Container) -> None:
        try:
            if container.asked.stdin:
                make_fifo(container.asked.stdin)
            for stream, path in container.asked.fifos().items():
                container.streams[stream] = open_fifo(path)
        except OSError as error:
            for fd in container.streams.values():
                os.close(fd)
            container.streams.clear()
            self._finish(container)
            raise RequestError(f"cannot open FIFO {error.filename}: {error.strerror}") from None
        for stream, fd in container.streams.items():
            self._fifos[fd] = (container, stream)
            self._epoll.register(fd, select.EPOLLIN)

    def _reopen(self, client: Client, request: Request) -> Facts:
        container = self._find(request)
        if container.log is None:
            return {}
        if not container.call_since:
            for stream in list(container.streams):
                self._flush(container, stream)
        if container.call_since:
            raise RequestError(
                f"the file system of the log file {container.log.path} does not answer", "busy"
            )
        try:
            self._in_file_system(container, container.log.open)
        except OSError as error:
            raise RequestError(
                f"cannot reopen the log file {container.log.path}: {error.strerror}; "
                "output continues in the old one"
            ) from None
        if not container.streams:
            self._finish(container)
        return {}

    def _drained(self, client: Client, request: Request) -> Facts | None:
        container = self._containers.get(request.text("id"))
        if container is None:
            return {}
        in_hand = container.finish_later and not container.stalled
        if not container.streams and not in_hand:
            return {}
        sequence = request.sequence
        container.wait.append(lambda: self._reply(client, {"seq": sequence, "ok": {}}))
        for fd in container.streams.values():
            touch_fifo(fd)
        return None

    def _close(self, client: Client, request: Request) -> Facts:
        identity = request.text("id")
        self._opening.discard(identity)
        container = self._containers.get(identity)
        if container is None:
            return {}
        self._let_go(container)
        return container.facts()

    def _list(self, client: Client, request: Request) -> Facts:
        return {name: container.facts() for name, container in self._containers.items()}

    def _attach(self, client: Client, request: Request) -> Facts | None:
        container = self._find(request)
        client.attached = container
        client.streams = tuple(stream for stream in _STREAMS if request.flag(stream))
        self._reply(client, {"seq": request.sequence, "ok": {}})
        if container.streams:
            container.feeds.append(client)
        else:
            self._send(client, b"\0\0\0\0\0")
        return None

    def _retire(self, client: Client, request: Request) -> Facts:
        self._retire_by = time.monotonic() + RETIRE_SECONDS
        for container in list(self._containers.values()):
            self._let_go(container, drain=False)
        self._retired = True
        return {}

    def _find(self, request: Request) -> Container:
        container = self._containers.get(request.text("id"))
        if container is None:
            raise RequestError(f"container {request.text('id')} is not open here", "not-found")
        return container

    def _let_go(self, container: Container, drain: bool = True) -> None:
        """Remove a container; by default, first write what is left in its FIFOs to the log."""
        for stream, fd in list(container.streams.items()):
            if drain:
                self._drain(fd, reads=_FIFO_BYTES // _READ_BYTES + 1)
            if container.streams.get(stream) == fd:
                self._end_stream(fd)
        self._finish(container)
        if self._containers.get(container.identity) is container:
            del self._containers[container.identity]


_OPERATIONS: dict[str, Callable[[Keeper, Client, Request], Facts | None]] = {
    "hello": Keeper._hello,
    "open": Keeper._open,
    "reopen": Keeper._reopen,
    "drained": Keeper._drained,
    "close": Keeper._close,
    "list": Keeper._list,
    "attach": Keeper._attach,
    "retire": Keeper._retire,
}


def open_regular(path: str) -> tuple[int, os.stat_result]:
    """Open a regular file for appending, created 0640 if absent; raises OSError for other types.

    Non-blocking, because a FIFO would block until it has a reader.
    """
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOFOLLOW
    try:
        fd = os.open(path, flags, 0o640)
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.ENXIO, errno.EISDIR):
            raise OSError(error.errno, "it is not a regular file", path) from None
        raise
    found = os.fstat(fd)
    if not stat.S_ISREG(found.st_mode):
        os.close(fd)
        raise OSError(errno.EINVAL, "it is not a regular file", path)
    return fd, found


def ends_a_line(path: str, size: int) -> bool:
    """Return whether a file ends with a line end, or has no such byte; raises OSError."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOFOLLOW)
    try:
        return os.pread(fd, 1, size - 1) in (b"\n", b"")
    finally:
        os.close(fd)


def make_fifo(path: str) -> None:
    """Create a FIFO with mode 0700 (as containerd's clients do) if it does not exist."""
    os.makedirs(os.path.dirname(path), 0o700, exist_ok=True)
    try:
        os.mkfifo(path, 0o700)
    except FileExistsError:
        if not stat.S_ISFIFO(os.stat(path).st_mode):
            raise OSError(errno.EEXIST, "it exists and is not a FIFO", path) from None


def open_fifo(path: str) -> int:
    """Open the read end, creating the FIFO if absent; a writer can then open it."""
    make_fifo(path)
    fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        fcntl.fcntl(fd, fcntl.F_SETPIPE_SZ, _FIFO_BYTES)
    except OSError:  # above the user's pipe limit; the default of 64 KiB works too
        return fd
    return fd


def touch_fifo(fd: int) -> None:
    """Open and close a write end, so that a FIFO without other writers reports its end.

    Otherwise a FIFO that was reopened after its last writer had closed it would never report it. A
    FIFO that still has a writer is not affected.
    """
    os.close(os.open(f"/proc/self/fd/{fd}", os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC))


def decode(line: bytes) -> dict[str, object]:
    """Return the JSON object in one line; raises RequestError for anything else."""
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise RequestError("a request is one JSON object on one line")
    return value


def encode(value: Facts) -> bytes:
    """Encode a JSON object as one line."""
    return json.dumps(value, separators=(",", ":")).encode() + b"\n"


def main(arguments: list[str]) -> None:
    """Run a keeper. Arguments: inherited listening socket and lock, build, state directory.

    The state directory only identifies the keeper in the list of processes.
    """
    listener, lock, build, _ = arguments
    with open("/proc/self/comm", "w") as name:
        name.write("log-keeper")
    os.chdir("/")
    threading.stack_size(_STACK_BYTES)
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    Keeper(int(listener), build).run()
    os.close(int(lock))  # a thread that is blocked forever would keep the lock from the next keeper
    os._exit(0)
