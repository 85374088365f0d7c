"""The log keeper: a small process of its own that drains containers' output into CRI log files.

A container's shim writes its output to FIFOs and blocks once one is full; whoever reads them must
therefore outlive a restart of the server.  This process does nothing else.  The server starts it
(``log_keeper_client``), hands it a listening socket, and talks to it in JSON lines:

    {"seq": 1, "op": "open", "id": ..., "stdout": PATH, "stderr": PATH, "stdin": PATH,
     "tty": bool, "log": PATH, "limit": BYTES, "tolerant": bool}
    {"seq": 1, "ok": {...}}        or        {"seq": 1, "error": "sentence", "kind": "not-found"}

=========  ====================================================================================
hello      protocol facts: build, pid, number of containers
open       makes the FIFOs that are named, opens their read ends and the log file; repeatable
reopen     a partial line goes to the old file, later text to a new one at the same path
drained    answered once every stream of the container has ended; to be asked after its task's exit
close      takes what the FIFOs still hold, then forgets the container; repeatable
list       every container with its paths, open streams, bytes read and bytes lost
attach     from the answer on, this connection carries the container's live output as frames:
           one byte stream (1 stdout, 2 stderr, 0 the end), four bytes length, the bytes
retire     flushes, lets go of everything and ends, so that a newer build can take over
=========  ====================================================================================

Every connected client is also told when a log file cannot be written, and when it can be again:

    {"seq": null, "id": ..., "lost": BYTES, "problem": "sentence, or empty"}

Rules: draining never stops, whatever happens to a log file (what could not be written is counted
and reported, and the file is tried again); one write per batch of lines; standard input is not kept
here, since the shim itself holds a write end of that FIFO and an attached client can open it.
The process ends by itself as soon as it holds no open FIFO and its last client has left.

FIFO facts this relies on (Linux): a non-blocking read end opens without a writer, and epoll reports
a hang-up only after a writer has come and gone, so "nobody yet" is never taken for the end.

Memory is why ``_socket`` and ``_json`` are used: ``socket`` and ``json`` import enum, re and more,
which would add a fifth to the resident set of the process (10.5 MB instead of 8.9).
"""

from __future__ import annotations

import _json
import _socket
import errno
import fcntl
import os
import select
import time

from runtime.logs.format import DEFAULT_LINE_LIMIT, Clock, LineFormatter

TYPE_CHECKING = False  # typing is another import that the process does not need
if TYPE_CHECKING:
    from collections.abc import Callable

    Request = dict[str, object]
    Facts = dict[str, object]

FIRST_CLIENT_SECONDS = 60.0
"""How long a new keeper waits for whoever started it."""

REOPEN_SECONDS = 1.0
"""How long a log file that could not be opened is left alone before the next attempt."""

_READ_BYTES = 65536
_READS_PER_TURN = 4
"""Reads of one FIFO before the others get their turn."""

_FIFO_BYTES = 262144
"""Capacity asked of each FIFO: what a container can write while a crashed keeper is restarted."""

_BACKLOG_BYTES = 4 << 20
"""Unread output at which an attached client is let go, so that it cannot hold up the container."""

_F_SETPIPE_SZ = 1031
_STREAMS = ("stdout", "stderr")


class RequestError(Exception):
    """A request that is refused; the sentence is for the client's error message."""

    def __init__(self, sentence: str, kind: str = "failed") -> None:
        super().__init__(sentence)
        self.kind = kind


class LogFile:
    """One container's log file; ``write`` remembers and counts its errors instead of raising."""

    __slots__ = ("_fd", "_retry_at", "_torn", "lost", "path", "problem")

    def __init__(self, path: str) -> None:
        self.path = path
        self.problem = ""
        self.lost = 0
        self._fd = -1
        self._retry_at = 0.0
        self._torn = False

    def open(self) -> None:
        """Open the file, made 0640 in directories 0755 where absent; raises OSError."""
        directory = os.path.dirname(self.path)
        if directory:
            os.makedirs(directory, 0o755, exist_ok=True)
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
        fd = os.open(self.path, flags, 0o640)
        self.close()
        self._fd = fd
        self._torn = False
        self.problem = ""

    def try_open(self) -> None:
        """Open the file, or remember why not and when to try again."""
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
        if self._torn:  # a record cut short by a full disk must not run into the next one
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
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


class Container:
    """The open streams, the log file and the listeners of one container."""

    __slots__ = (
        "bytes_read",
        "feeds",
        "formatters",
        "identity",
        "log",
        "request",
        "streams",
        "wait",
    )

    def __init__(self, request: Request) -> None:
        self.identity = str(request["id"])
        self.request = {key: value for key, value in request.items() if key not in ("seq", "op")}
        limit = request.get("limit", DEFAULT_LINE_LIMIT)
        if not isinstance(limit, int):
            raise RequestError("limit must be a number of bytes")
        path = request.get("log")
        self.log = LogFile(str(path)) if path else None
        self.formatters = {stream: LineFormatter(stream, limit) for stream in _STREAMS}
        self.streams: dict[str, int] = {}
        self.bytes_read = 0
        self.feeds: list[Client] = []
        self.wait: list[Callable[[], None]] = []

    def facts(self) -> Facts:
        return {
            "request": self.request,
            "open": list(self.streams),
            "read": self.bytes_read,
            "lost": self.log.lost if self.log else 0,
            "problem": self.log.problem if self.log else "",
        }


class Client:
    """One connection: received bytes up to a whole line, and sent bytes that wait for room."""

    __slots__ = ("attached", "incoming", "outgoing", "socket", "streams")

    def __init__(self, fd: int) -> None:
        self.socket = _socket.socket(fileno=fd)
        self.socket.setblocking(False)
        self.incoming = bytearray()
        self.outgoing = bytearray()
        self.attached: Container | None = None
        self.streams: tuple[str, ...] = ()


class Keeper:
    """The loop: one epoll over the listening socket, the clients and the FIFOs."""

    def __init__(self, listener: int, build: str) -> None:
        self._build = build
        self._clock = Clock()
        self._epoll = select.epoll()
        self._listener = _socket.socket(fileno=listener)
        self._listener.setblocking(False)
        self._containers: dict[str, Container] = {}
        self._fifos: dict[int, tuple[Container, str]] = {}
        self._clients: dict[int, Client] = {}
        self._retired = False
        self._epoll.register(listener, select.EPOLLIN)

    def run(self) -> None:
        """Serve until retired, or until there is nothing left to drain and nobody to serve."""
        listener = self._listener.fileno()
        events = self._epoll.poll(FIRST_CLIENT_SECONDS)
        while events and not self._retired:
            # Output first: a request of this turn may open a FIFO under a number that an event of
            # this turn was for, and reading a FIFO that has had no writer looks like its end.
            for fd, _ in events:
                if fd in self._fifos:
                    self._drain(fd, _READS_PER_TURN)
            for fd, event in events:
                if fd in self._clients:
                    self._serve(self._clients[fd], event)
                elif fd == listener:
                    self._accept()
            events = self._epoll.poll() if self._clients or self._fifos else []

    # containers' output

    def _drain(self, fd: int, reads: int) -> None:
        container, stream = self._fifos[fd]
        for _ in range(reads):
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
            if container.log is not None:
                stamp = self._clock.stamp(time.time_ns())
                records = container.formatters[stream].feed(data, stamp)
                if records:
                    self._write(container, container.log, records)
            for client in list(container.feeds):
                self._feed(client, stream, data)
            if len(data) < _READ_BYTES:
                return

    def _end_stream(self, fd: int) -> None:
        container, stream = self._fifos.pop(fd)
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
        before = file.problem
        file.write(records)
        if file.problem != before:
            news = {"seq": None, "id": container.identity, "lost": file.lost}
            for client in list(self._clients.values()):
                if client.attached is None:
                    self._reply(client, {**news, "problem": file.problem})

    def _finish(self, container: Container) -> None:
        """All streams have ended: close the file, tell who waits and who listens."""
        if container.log is not None:
            container.log.close()
        waiting, container.wait = container.wait, []
        for answer in waiting:
            answer()
        for client in list(container.feeds):
            self._send(client, b"\0\0\0\0\0")
        container.feeds.clear()

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
            fd, _ = self._listener._accept()  # type: ignore[attr-defined]
        except OSError:
            return
        self._clients[fd] = Client(fd)
        self._epoll.register(fd, select.EPOLLIN)

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

    def _answer(self, client: Client, line: bytes) -> None:
        sequence: object = None
        try:
            request = decode(line)
            sequence = request.get("seq")
            operation = _OPERATIONS.get(str(request.get("op")))
            if operation is None:
                raise RequestError(f"unknown op; known are {', '.join(_OPERATIONS)}")
            facts = operation(self, client, request)
        except RequestError as error:
            self._reply(client, {"seq": sequence, "error": str(error), "kind": error.kind})
        except KeyError as error:
            self._reply(client, {"seq": sequence, "error": f"{error} is missing", "kind": "failed"})
        else:
            if facts is not None:
                self._reply(client, {"seq": sequence, "ok": facts})

    def _reply(self, client: Client, reply: Facts) -> None:
        self._send(client, encode(reply))

    def _send(self, client: Client, data: bytes) -> None:
        """Send, or keep for when the socket has room; a broken connection is dropped."""
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

    # operations: each returns the facts of its answer, or None when it answers by itself

    def _hello(self, client: Client, request: Request) -> Facts:
        return {"build": self._build, "pid": os.getpid(), "containers": len(self._containers)}

    def _open(self, client: Client, request: Request) -> Facts:
        identity = str(request["id"])
        known = self._containers.get(identity)
        if known is not None:
            wanted = [request.get(stream) for stream in _STREAMS]
            if wanted == [known.request.get(stream) for stream in _STREAMS]:
                return known.facts()
            self._let_go(known)  # the container was made anew, with other FIFOs
        container = Container(request)
        if container.log is not None:
            if request.get("tolerant"):
                container.log.try_open()
            else:
                try:
                    container.log.open()
                except OSError as error:
                    raise RequestError(
                        f"cannot open the log file {container.log.path}: {error.strerror}"
                    ) from None
        try:
            if request.get("stdin"):
                make_fifo(str(request["stdin"]))
            for stream in ("stdout",) if request.get("tty") else _STREAMS:
                if request.get(stream):
                    container.streams[stream] = open_fifo(str(request[stream]))
        except OSError as error:
            for fd in container.streams.values():
                os.close(fd)
            if container.log is not None:
                container.log.close()
            raise RequestError(f"cannot open FIFO {error.filename}: {error.strerror}") from None
        for stream, fd in container.streams.items():
            self._fifos[fd] = (container, stream)
            self._epoll.register(fd, select.EPOLLIN)
        self._containers[identity] = container
        return container.facts()

    def _reopen(self, client: Client, request: Request) -> Facts:
        container = self._find(request)
        if container.log is not None:
            for stream in container.streams:
                self._flush(container, stream)
            try:
                container.log.open()
            except OSError as error:
                raise RequestError(
                    f"cannot reopen the log file {container.log.path}: {error.strerror}; "
                    "output goes on into the old one"
                ) from None
            if not container.streams:
                container.log.close()
        return {}

    def _drained(self, client: Client, request: Request) -> Facts | None:
        container = self._containers.get(str(request["id"]))
        if container is None or not container.streams:
            return {}
        sequence = request.get("seq")
        container.wait.append(lambda: self._reply(client, {"seq": sequence, "ok": {}}))
        for fd in container.streams.values():
            touch_fifo(fd)
        return None

    def _close(self, client: Client, request: Request) -> Facts:
        container = self._containers.get(str(request["id"]))
        if container is None:
            return {}
        self._let_go(container)
        return container.facts()

    def _list(self, client: Client, request: Request) -> Facts:
        return {name: container.facts() for name, container in self._containers.items()}

    def _attach(self, client: Client, request: Request) -> Facts | None:
        container = self._find(request)
        client.attached = container
        client.streams = tuple(stream for stream in _STREAMS if request.get(stream))
        self._reply(client, {"seq": request.get("seq"), "ok": {}})
        if container.streams:
            container.feeds.append(client)
        else:
            self._send(client, b"\0\0\0\0\0")
        return None

    def _retire(self, client: Client, request: Request) -> Facts:
        for container in list(self._containers.values()):
            self._let_go(container, drain=False)
        self._retired = True
        return {}

    def _find(self, request: Request) -> Container:
        container = self._containers.get(str(request["id"]))
        if container is None:
            raise RequestError(f"container {request['id']} is not open here", "not-found")
        return container

    def _let_go(self, container: Container, drain: bool = True) -> None:
        """Forget a container, by default with what its FIFOs hold now written to its log."""
        for fd in list(container.streams.values()):
            if drain:
                self._drain(fd, reads=_FIFO_BYTES // _READ_BYTES + 1)
            if fd in self._fifos:
                self._end_stream(fd)
        self._finish(container)
        self._containers.pop(container.identity, None)


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


def make_fifo(path: str) -> None:
    """Make a FIFO of mode 0700 (as containerd's clients do) unless there is one."""
    os.makedirs(os.path.dirname(path), 0o700, exist_ok=True)
    try:
        os.mkfifo(path, 0o700)
    except FileExistsError:
        if not (os.stat(path).st_mode & 0o170000) == 0o010000:
            raise OSError(errno.EEXIST, "it exists and is no FIFO", path) from None


def open_fifo(path: str) -> int:
    """Open the read end, made where absent; it is ready for a writer when this returns."""
    make_fifo(path)
    fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        fcntl.fcntl(fd, _F_SETPIPE_SZ, _FIFO_BYTES)
    except OSError:  # past the user's pipe budget: the default 64 KiB works too
        return fd
    return fd


def touch_fifo(fd: int) -> None:
    """Be a writer for a moment: a FIFO whose writers are all gone then shows its end.

    A FIFO that was opened again after its last writer had left would never show it otherwise; one
    that still has a writer is not changed by this.
    """
    os.close(os.open(f"/proc/self/fd/{fd}", os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC))


class _Strict:
    """What the C scanner of ``json`` asks of a decoder."""

    strict = True
    object_hook = object_pairs_hook = None
    parse_float = float
    parse_int = int
    parse_constant = float
    memo: dict[str, str]

    def __init__(self) -> None:
        self.memo = {}


_scan = _json.make_scanner(_Strict())  # type: ignore[arg-type]
_encoder = _json.make_encoder(
    None, repr, _json.encode_basestring_ascii, None, ":", ",", False, False, False
)


def decode(line: bytes) -> Request:
    """Return the JSON object of one line; anything else is refused."""
    try:
        value, _ = _scan(line.decode().strip(), 0)
    except (ValueError, StopIteration):
        raise RequestError("a request is one JSON object on one line") from None
    if not isinstance(value, dict):
        raise RequestError("a request is one JSON object on one line")
    return value


def encode(value: Facts) -> bytes:
    """Return a JSON object as one line."""
    return "".join(_encoder(value, 0)).encode() + b"\n"


def main(arguments: list[str]) -> None:
    """Run a keeper; arguments: number of the inherited listening socket, build, state directory.

    The last is for those who read the list of processes; nothing is opened by it.
    """
    listener, build, _ = arguments
    with open("/proc/self/comm", "w") as name:
        name.write("log-keeper")
    os.chdir("/")
    Keeper(int(listener), build).run()
