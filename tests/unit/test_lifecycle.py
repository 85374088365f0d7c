"""The lifecycle over the full product of states and events."""

from __future__ import annotations

import itertools
from typing import Any

import pytest

from generated.cri import api_pb2
from generated.lifecycle import (
    CONTAINER_TRANSITIONS,
    CRI_CONTAINER_STATE,
    CRI_SANDBOX_STATE,
    SANDBOX_TRANSITIONS,
    ContainerEvent,
    ContainerState,
    SandboxEvent,
    SandboxState,
    Transition,
    fire_container,
    fire_sandbox,
)
from runtime.errors import FailedPrecondition


@pytest.mark.parametrize(("state", "event"), list(itertools.product(SandboxState, SandboxEvent)))
def test_a_sandbox_moves_only_as_the_table_says(state: SandboxState, event: SandboxEvent) -> None:
    move = SANDBOX_TRANSITIONS.get((state, event))
    if move:
        assert fire_sandbox(state, event) is move
    else:
        with pytest.raises(FailedPrecondition, match=f"{state.name}.*{event.value}"):
            fire_sandbox(state, event)


@pytest.mark.parametrize(
    ("state", "event"), list(itertools.product(ContainerState, ContainerEvent))
)
def test_a_container_moves_only_as_the_table_says(
    state: ContainerState, event: ContainerEvent
) -> None:
    move = CONTAINER_TRANSITIONS.get((state, event))
    if move:
        assert fire_container(state, event) is move
    else:
        with pytest.raises(FailedPrecondition, match=f"{state.name}.*{event.value}"):
            fire_container(state, event)


def test_every_state_has_a_cri_state() -> None:
    assert CRI_SANDBOX_STATE.keys() == set(SandboxState)
    assert CRI_CONTAINER_STATE.keys() == set(ContainerState)


def test_every_emitted_event_is_one_of_the_cri() -> None:
    moves: list[Transition[Any]] = [*SANDBOX_TRANSITIONS.values(), *CONTAINER_TRANSITIONS.values()]
    told = {move.emits for move in moves if move.emits}
    assert told <= set(api_pb2.ContainerEventType.keys())


def test_a_stop_is_sent_once_however_the_sandbox_ends() -> None:
    for first, second in itertools.permutations((SandboxEvent.EXITED, SandboxEvent.STOPPED)):
        one = fire_sandbox(SandboxState.READY, first)
        assert one.to is not None
        two = fire_sandbox(one.to, second)
        assert (one.emits, two.emits) == ("CONTAINER_STOPPED_EVENT", None)


def test_what_subscribers_must_find_on_disk_is_written_first() -> None:
    saved = {event for (_, event), move in CONTAINER_TRANSITIONS.items() if move.persists}
    assert saved == {
        ContainerEvent.STARTED,
        ContainerEvent.START_FAILED,
        ContainerEvent.FOUND,
        ContainerEvent.EXITED,
    }


def test_from_every_state_an_object_can_be_removed() -> None:
    """The kubelet stops and removes whatever it sees; no state may be a trap."""
    for table, states in (
        (SANDBOX_TRANSITIONS, SandboxState),
        (CONTAINER_TRANSITIONS, ContainerState),
    ):
        for state in states:
            reached: set[object] = {state}
            seen: set[object] = set()
            while reached - seen:
                here = (reached - seen).pop()
                seen.add(here)
                reached |= {move.to for (at, _), move in table.items() if at is here}
            assert None in seen, f"{state} is a trap"
