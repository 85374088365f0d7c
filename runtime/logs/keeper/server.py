"""The log keeper's loop and operations.

A container's shim writes the output to FIFOs and blocks when one is full, so their reader must
outlive a restart of the server. This process does nothing else. The server starts it
(`runtime.logs.client`), passes it a listening socket, and sends it requests
(`runtime.logs.keeper.protocol`).

Standard input is not handled here, because the shim itself holds a write end of that FIFO and an
attached client can open it. An invalid request gets an error and never ends the process. The
process exits by itself when it holds no open FIFO and its last client has disconnected.
"""

from __future__ import annotations

import errno
import os
import resource
import select
import socket
import sys
import threading

from runtime.logs.keeper.clients import Client, Clients
from runtime.logs.keeper.container import Container
from runtime.logs.keeper.files import LogFile
from runtime.logs.keeper.outputs import Outputs
from runtime.logs.keeper.protocol import (
    END_OF_OUTPUT,
    STREAMS,
    Facts,
    OpenRequest,
    Request,
    RequestError,
    decode,
)
from runtime.logs.keeper.turn import Turn

TYPE_CHECKING = False  # without typing, to save the import
if TYPE_CHECKING:
    from collections.abc import Callable

FIRST_CLIENT_SECONDS = 60.0
"""How long a new keeper waits for its first client."""

RETIRE_SECONDS = 2.0
"""How long a keeper that retires waits for a log's file system."""

_STACK_BYTES = 1 << 20


class Keeper:
    """One epoll over the listening socket, the clients and the FIFOs.

    Only the thread that holds the turn accesses this state.
    """

    def __init__(self, listener: int, build: str) -> None:
        self._build = build
        self._epoll = select.epoll()
        self._listener = socket.socket(fileno=listener)
        self._listener.setblocking(False)
        self._turn = Turn()
        self._clients = Clients(self._epoll, self._answer)
        self._outputs = Outputs(self._epoll, self._turn, self._clients)
        self._containers: dict[str, Container] = {}
        self._opening: set[str] = set()
        """Containers whose log file is being opened for the first time."""
        self._retired = False
        self._epoll.register(listener, select.EPOLLIN)

    # The loop

    def run(self) -> None:
        """Serve until retired, or until there is nothing left to drain and no client left."""
        # in another thread, because the thread that runs the loop can block forever
        loop = threading.Thread(target=self._loop, args=(FIRST_CLIENT_SECONDS,), daemon=True)
        loop.start()
        self._turn.watch(go_on=self._loop, stalled=self._outputs.stall)
        self._listener.close()

    def _loop(self, patience: float | None = None) -> None:
        """Run the loop until it ends, or another thread has taken it over."""
        with self._turn:
            self._turn.take_loop()
            try:
                events = self._events(patience)
                while events and not self._retired:
                    self._handle(events)
                    if not self._turn.has_loop():
                        return
                    events = self._events()
            except BaseException:
                self._turn.end_loop()
                raise
            self._turn.end_loop()

    def _events(self, patience: float | None = None) -> list[tuple[int, int]]:
        """Wait for events; returns none if nothing is left to do, or after ``patience``."""
        while not self._retired and (
            patience or self._clients or self._outputs or self._turn.anything_hangs
        ):
            # after a blocked thread has returned, there can be nothing left to do
            seconds = patience or (1.0 if self._turn.anything_hangs else None)
            events = self._turn.poll(self._epoll, seconds)
            if events or patience:
                return events
        return []

    def _handle(self, events: list[tuple[int, int]]) -> None:
        # Output first: a request can open a FIFO with a descriptor number that an earlier event of
        # this round refers to, and reading a FIFO that never had a writer looks like its end.
        for fd, _ in events:
            if fd in self._outputs:
                self._outputs.drain(fd)
                if not self._turn.has_loop():
                    return  # these events are outdated; the new loop thread gets them again
        for fd, event in events:
            if fd == self._listener.fileno():
                self._clients.accept(self._listener)
            else:
                self._clients.serve(fd, event)
            if not self._turn.has_loop():
                return

    # Requests

    def _answer(self, client: Client, line: bytes) -> None:
        """Serve one request; in a separate thread if it can block and others are blocked."""
        try:
            request = Request(decode(line))
        except RequestError as error:
            self._refuse(client, None, error)
            return
        if self._turn.anything_hangs and request.operation in ("open", "reopen"):
            self._turn.in_own_thread(self._perform, client, request)
        else:
            self._perform(client, request)

    def _perform(self, client: Client, request: Request) -> None:
        name = request.operation
        try:
            operation = _OPERATIONS.get(name) if isinstance(name, str) else None
            if operation is None:
                raise RequestError(f"unknown op; known are {', '.join(_OPERATIONS)}")
            facts = operation(self, client, request)
        except RequestError as error:
            self._refuse(client, request.sequence, error)
        except Exception as error:  # a bug must not end the process that drains the containers
            sys.excepthook(type(error), error, error.__traceback__)
            self._refuse(client, request.sequence, RequestError(f"internal error: {error!r}"))
        else:
            if facts is not None:
                self._accept(client, request, facts)

    def _accept(self, client: Client, request: Request, facts: Facts) -> None:
        self._clients.reply(client, {"seq": request.sequence, "ok": facts})

    def _refuse(self, client: Client, sequence: object, error: RequestError) -> None:
        self._clients.reply(client, {"seq": sequence, "error": str(error), "kind": error.kind})

    # Operations: each returns the facts for the reply, or None if it replies itself

    def _hello(self, client: Client, request: Request) -> Facts:
        return {"build": self._build, "pid": os.getpid(), "containers": len(self._containers)}

    def _open(self, client: Client, request: Request) -> Facts:
        parameters = OpenRequest(request)
        identity = parameters.container_id
        known = self._containers.get(identity)
        if known is not None and known.request.fifos() == parameters.fifos():
            return known.facts()
        if identity in self._opening:
            raise RequestError(
                f"the log file {parameters.log} is being opened; its file system does not respond",
                "busy",
            )
        self._opening.add(identity)
        try:
            if known is not None:
                self._remove(known)  # the container was recreated, with other FIFOs
            container = Container(parameters)
            if container.log is not None and not request.flag("tolerant"):
                self._open_log(container, container.log)
            if identity not in self._opening:
                self._outputs.finish(container)
                raise RequestError(f"container {identity} was closed meanwhile")
        finally:
            self._opening.discard(identity)
        try:
            self._outputs.open(container)
        except OSError as error:
            raise RequestError(f"cannot open FIFO {error.filename}: {_reason(error)}") from None
        self._containers[identity] = container
        return container.facts()

    def _open_log(self, container: Container, file: LogFile) -> None:
        try:
            self._outputs.call(container, file.open)
        except OSError as error:
            raise RequestError(f"cannot open the log file {file.path}: {_reason(error)}") from None

    def _reopen(self, client: Client, request: Request) -> Facts:
        container = self._find(request)
        if container.log is None:
            return {}
        if not container.call_since:
            for stream in list(container.streams):
                self._outputs.flush(container, stream)
        if container.call_since:
            raise RequestError(
                f"the file system of the log file {container.log.path} does not respond", "busy"
            )
        try:
            self._outputs.call(container, container.log.open)
        except OSError as error:
            raise RequestError(
                f"cannot reopen the log file {container.log.path}: {_reason(error)}; "
                "output continues in the old one"
            ) from None
        if not container.streams:
            self._outputs.finish(container)
        return {}

    def _drained(self, client: Client, request: Request) -> Facts | None:
        container = self._containers.get(request.text("id"))
        if container is None:
            return {}
        self._outputs.when_written(container, lambda: self._accept(client, request, {}))
        return None

    def _close(self, client: Client, request: Request) -> Facts:
        identity = request.text("id")
        self._opening.discard(identity)
        container = self._containers.get(identity)
        if container is None:
            return {}
        self._remove(container)
        return container.facts()

    def _list(self, client: Client, request: Request) -> Facts:
        return {name: container.facts() for name, container in self._containers.items()}

    def _counts(self, client: Client, request: Request) -> Facts:
        return self._outputs.counts.facts()

    def _attach(self, client: Client, request: Request) -> Facts | None:
        container = self._find(request)
        client.streams = tuple(stream for stream in STREAMS if request.flag(stream))
        client.detach = container.detach
        self._accept(client, request, {})
        if container.streams:
            container.feeds.append(client)
        else:
            self._clients.send(client, END_OF_OUTPUT)
        return None

    def _retire(self, client: Client, request: Request) -> Facts:
        give_up = threading.Timer(RETIRE_SECONDS, self._stop_waiting)
        give_up.daemon = True
        give_up.start()
        for container in list(self._containers.values()):
            self._remove(container, drain=False)
        self._retired = True
        return {}

    def _stop_waiting(self) -> None:
        """End the loop although a log's file system has not responded since the retirement."""
        with self._turn:
            self._retired = True

    def _find(self, request: Request) -> Container:
        container = self._containers.get(request.text("id"))
        if container is None:
            raise RequestError(f"container {request.text('id')} is not open here", "not-found")
        return container

    def _remove(self, container: Container, *, drain: bool = True) -> None:
        """Remove a container; by default, first write what is left in its FIFOs to the log."""
        self._outputs.close(container, drain=drain)
        if self._containers.get(container.identity) is container:
            del self._containers[container.identity]


_OPERATIONS: dict[str, Callable[[Keeper, Client, Request], Facts | None]] = {
    "hello": Keeper._hello,
    "open": Keeper._open,
    "reopen": Keeper._reopen,
    "drained": Keeper._drained,
    "close": Keeper._close,
    "list": Keeper._list,
    "counts": Keeper._counts,
    "attach": Keeper._attach,
    "retire": Keeper._retire,
}


def _reason(error: OSError) -> str:
    """Why a file cannot be opened. The limit of open files is that of the server that started this
    process, so it is not enough to raise it and to restart the server."""
    if error.errno != errno.EMFILE:
        return str(error.strerror)
    most, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return (
        f"the log keeper has all of the {most} files open that it may have: raise LimitNOFILE of "
        f"cri-containerd, restart it, and end the log keeper with `kill -9 {os.getpid()}`; "
        "containers keep running, and a new one takes over their output"
    )


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
