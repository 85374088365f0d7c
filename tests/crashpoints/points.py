"""The operations, the ways to interrupt them, and what is checked at each point."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import tempfile
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import structlog

from runtime.steps import background

from .kubelet import Kubelet
from .machine import Life, Machine, Refused, Server

_AWAY = 20.0
"""Seconds that a restarted daemon is down."""


@dataclass(frozen=True, slots=True)
class Node:
    """A pod and its container before the operation; "" if there is none yet."""

    machine: Machine
    kubelet: Kubelet
    pod: str = ""
    container: str = ""


Step = Callable[[Node], Awaitable[object]]


@dataclass(frozen=True, slots=True)
class Verb:
    """The operation that is interrupted, and the state of the pod before it."""

    name: str
    before: int
    """0: no pod; 1: a pod; 2: a created container in it; 3: it runs; 4: it exited."""
    act: Step


async def _process_ends(node: Node) -> None:
    """The exit of the container's process, until it is handled."""
    node.machine.daemon.end(node.container, 42)
    container = node.kubelet._server.store.containers.get(node.container)
    assert container is not None
    await container.exited.wait()


async def _start_of_a_short_process(node: Node) -> None:
    """Its process exits before the start returns."""
    node.machine.daemon.short_lived = True
    await node.kubelet.start(node.container)
    container = node.kubelet._server.store.containers.get(node.container)
    assert container is not None
    await container.exited.wait()


async def _stop_of_a_stubborn_process(node: Node) -> None:
    node.machine.daemon.stubborn = True
    await node.kubelet.stop(node.container, grace=1)


async def _update_beside_removal(node: Node) -> None:
    results = await asyncio.gather(
        node.kubelet.update(node.container),
        node.kubelet.remove(node.container),
        return_exceptions=True,
    )
    for result in results:
        if isinstance(result, BaseException) and not isinstance(result, Refused):
            raise result


async def _stop_beside_start(node: Node) -> None:
    results = await asyncio.gather(
        node.kubelet.start(node.container), node.kubelet.stop_pod(node.pod), return_exceptions=True
    )
    for result in results:
        if isinstance(result, BaseException) and not isinstance(result, Refused):
            raise result


VERBS = (
    Verb("RunPodSandbox", 0, lambda node: node.kubelet.run_pod()),
    Verb("CreateContainer", 1, lambda node: node.kubelet.create(node.pod)),
    Verb("StartContainer", 2, lambda node: node.kubelet.start(node.container)),
    Verb("StartContainer, short process", 2, _start_of_a_short_process),
    Verb("StartContainer beside StopPodSandbox", 2, _stop_beside_start),
    Verb("exit", 3, _process_ends),
    Verb("StopContainer", 3, lambda node: node.kubelet.stop(node.container)),
    Verb("StopContainer, stubborn process", 3, _stop_of_a_stubborn_process),
    Verb("UpdateContainerResources", 3, lambda node: node.kubelet.update(node.container)),
    Verb("UpdateContainerResources beside RemoveContainer", 4, _update_beside_removal),
    Verb("RemoveContainer, created", 2, lambda node: node.kubelet.remove(node.container)),
    Verb("RemoveContainer, running", 3, lambda node: node.kubelet.remove(node.container)),
    Verb("RemoveContainer, exited", 4, lambda node: node.kubelet.remove(node.container)),
    Verb("StopPodSandbox", 3, lambda node: node.kubelet.stop_pod(node.pod)),
    Verb("RemovePodSandbox", 4, lambda node: node.kubelet.remove_pod(node.pod)),
    Verb("RemovePodSandbox, running", 3, lambda node: node.kubelet.remove_pod(node.pod)),
)

CUTS = ("cancel", "cancel, late", "kill", "kill, late", "shutdown", "daemon away")
"""The client cancels; the server is killed, or told to stop; containerd is restarted. Late: the
call in progress takes effect in containerd although its response is lost."""


@dataclass(frozen=True, slots=True)
class Point:
    """One operation, interrupted in one way after this many iterations of the loop."""

    verb: Verb
    cut: str
    turns: int

    def __str__(self) -> str:
        return f"{self.verb.name}: {self.cut} after {self.turns}"


@contextlib.contextmanager
def _node(directory: str) -> Iterator[Machine]:
    machine = Machine(Path(directory))
    with machine.in_place():
        yield machine


async def _prepared(machine: Machine, life: Life, before: int) -> Node:
    kubelet = Kubelet(machine, life.server)
    pod = await kubelet.run_pod() if before else ""
    container = await kubelet.create(pod) if before > 1 else ""
    if before > 2:
        await kubelet.start(container)
    if before > 3:
        machine.daemon.end(container, 3)
        await kubelet.settled()
    return Node(machine, kubelet, pod, container)


def turns_of(verb: Verb) -> int:
    """How many iterations the operation takes if it is not interrupted."""
    with tempfile.TemporaryDirectory() as directory, _node(directory) as machine:
        life = Life(machine)
        node = life.run(_prepared(machine, life, verb.before))
        count = 0

        async def counted() -> None:
            nonlocal count
            work = asyncio.ensure_future(_acted(verb, node))
            while not work.done():
                await asyncio.sleep(0)
                count += 1
            work.result()

        life.run(counted())
        machine.daemon.stubborn = machine.daemon.short_lived = False
        life.run(node.kubelet.tear_down())
        life.discard()
        return count


async def _acted(verb: Verb, node: Node) -> None:
    await verb.act(node)


def points(verbs: tuple[Verb, ...] = VERBS) -> Iterator[Point]:
    """Every point of every operation."""
    for verb in verbs:
        turns = turns_of(verb)
        for cut in CUTS:
            yield from (Point(verb, cut, count) for count in range(1, turns + 1))


def check(point: Point) -> None:
    """Interrupt at this point, recover, continue as the kubelet; raises AssertionError for any
    fault."""
    with tempfile.TemporaryDirectory() as directory, _node(directory) as machine:
        lives = [Life(machine)]
        try:
            _check(point, machine, lives)
        finally:
            for life in lives:
                life.discard()


def _check(point: Point, machine: Machine, lives: list[Life]) -> None:
    life = lives[0]
    node = life.run(_prepared(machine, life, point.verb.before))
    machine.daemon.late = point.cut.endswith("late")
    work = life.loop.create_task(_acted(point.verb, node))
    work.add_done_callback(lambda work: work.cancelled() or work.exception())
    life.turns(point.turns)
    if point.cut.startswith("kill") or point.cut == "shutdown":
        if point.cut == "shutdown":
            life.run(_shut_down(life.server, work))
        life.kill()
        life = Life(machine)
        lives.append(life)
        life.run(life.server.recovery.run())
    elif point.cut.startswith("cancel"):
        work.cancel()
        life.run(_ended(work))
    else:
        life.run(_daemon_restarted(machine, work))
    machine.daemon.late = False
    machine.daemon.stubborn = machine.daemon.short_lived = False
    kubelet = Kubelet(machine, life.server)
    life.run(kubelet.settled())
    life.run(kubelet.judge())
    life.run(kubelet.bring_up())
    life.run(kubelet.judge())
    life.run(kubelet.tear_down())


async def _ended(work: asyncio.Task[None]) -> None:
    """Return when the operation has ended, failed or was cancelled, within the client's
    deadline."""
    async with asyncio.timeout(600):
        with contextlib.suppress(Refused, asyncio.CancelledError):
            await work


async def _shut_down(server: Server, work: asyncio.Task[None]) -> None:
    """What the server does on SIGTERM, after the grace period for calls."""
    work.cancel()
    await _ended(work)
    await background.finished(10)
    await server.recovery.stop()
    await server.exits.stop()
    await server.store.close()


async def _daemon_restarted(machine: Machine, work: asyncio.Task[None]) -> None:
    machine.daemon.away.set()
    await asyncio.sleep(_AWAY)
    machine.daemon.away.clear()
    await _ended(work)


def quiet() -> None:
    """Suppress the server's log messages about the interruptions."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
