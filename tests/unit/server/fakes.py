"""Small fakes for what the generated handlers call, and a server around them."""

from __future__ import annotations

import inspect
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
from grpc import aio

from generated.cri import api_pb2, api_pb2_grpc
from generated.handlers.image_service import ImageService
from generated.handlers.runtime_service import RuntimeService
from generated.lifecycle import ContainerState, SandboxState
from runtime.frame import Frame
from runtime.server import listener
from runtime.steps import background

Answer = Callable[..., Any]


@dataclass
class Thing:
    """A sandbox or a container."""

    id: str
    state: Any


@dataclass
class Things:
    """A lookup of objects by exact ID."""

    things: list[Thing] = field(default_factory=list)

    def find(self, prefix: str, field: str = "") -> Thing | None:
        return next((thing for thing in self.things if thing.id == prefix), None)


class Operations:
    """Has every method: records its call and returns what is configured."""

    def __init__(self) -> None:
        self.calls: list[tuple[Any, ...]] = []
        self.answers: dict[str, Answer] = {}
        self.any: Answer | None = None
        """The answer for calls without one in ``answers``."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)

        async def operation(*arguments: Any) -> Any:
            self.calls.append((name, *arguments))
            answer = (self.answers.get(name) or self.any or _unexpected)(*arguments)
            return await answer if inspect.isawaitable(answer) else answer

        return operation

    async def follow(self, *arguments: Any) -> AsyncIterator[Any]:
        """The streaming operation; its answer is what it yields."""
        self.calls.append(("follow", *arguments))
        answer = self.answers.get("follow") or (lambda *_: [])
        for response in answer(*arguments):
            yield response


def _unexpected(*arguments: object) -> None:
    raise AssertionError(f"nobody said what to answer to {arguments}")


@dataclass
class Line:
    """One line of the log."""

    level: str
    event: str
    fields: dict[str, Any]


class Log:
    """Stores its lines."""

    def __init__(self) -> None:
        self.lines: list[Line] = []

    def debug(self, event: str, **fields: object) -> None:
        self.lines.append(Line("debug", event, fields))

    def info(self, event: str, **fields: object) -> None:
        self.lines.append(Line("info", event, fields))

    def error(self, event: str, **fields: object) -> None:
        self.lines.append(Line("error", event, fields))


class World:
    """A server with fakes behind it, and both stubs in front of it."""

    def __init__(self, events: Any = None) -> None:
        self.operations = Operations()
        self.events = events
        self.sandboxes = Things([Thing("ready", SandboxState.READY)])
        self.containers = Things([Thing("running", ContainerState.RUNNING)])
        self.log = Log()
        self.observed: list[tuple[str, grpc.StatusCode]] = []
        self.closed: str | None = None
        self.runtime: Any = None
        self.images: Any = None

    def add_container(self, state: ContainerState) -> str:
        self.containers.things.append(Thing(state.name, state))
        return state.name

    def _services(self, debugging: bool) -> tuple[RuntimeService[Any, Any], ImageService]:
        frame = Frame(
            closed=lambda: self.closed,
            observe=lambda rpc, code, seconds: self.observed.append((rpc, code)),
            log=self.log,
            debugging=debugging,
            awaited_at_shutdown=background.awaited_at_shutdown,
        )
        every = self.operations
        return (
            RuntimeService(
                frame=frame,
                find_container=self.containers,
                find_sandbox=self.sandboxes,
                containers=every,
                events=self.events or every,
                node=every,
                sandboxes=every,
                stats=every,
                streaming=every,
            ),
            ImageService(frame=frame, images=every),
        )


@asynccontextmanager
async def world(
    socket: Path, *, debugging: bool = False, events: Any = None
) -> AsyncIterator[World]:
    """A world behind a unix socket, for the length of the block; ``events`` are its events if they
    are not made up too."""
    made = World(events)

    server = listener.bound(socket)
    runtime, images = made._services(debugging)
    api_pb2_grpc.add_RuntimeServiceServicer_to_server(runtime, server)
    api_pb2_grpc.add_ImageServiceServicer_to_server(images, server)
    await server.start()
    try:
        async with aio.insecure_channel(f"unix://{socket}") as channel:
            made.runtime = api_pb2_grpc.RuntimeServiceStub(channel)
            made.images = api_pb2_grpc.ImageServiceStub(channel)
            yield made
    finally:
        await server.stop(0)


def empty(rpc: str) -> Any:
    """The response message of an RPC, empty."""
    for service in api_pb2.DESCRIPTOR.services_by_name.values():
        if rpc in service.methods_by_name:
            return getattr(api_pb2, service.methods_by_name[rpc].output_type.name)()
    raise KeyError(rpc)
