"""A smaller case that still shows a difference."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from google.protobuf.message import Message

Steps = tuple[Message, ...]


def shrunk(steps: Steps, still: Callable[[Steps], bool], tries: int) -> Steps:
    """The smallest case found with at most ``tries`` calls of ``still``, which says whether a case
    still shows the difference."""
    while True:
        for smaller in _smaller(steps):
            if not tries:
                return steps
            tries -= 1
            if still(smaller):
                steps = smaller
                break
        else:
            return steps


def _smaller(steps: Steps) -> Iterator[Steps]:
    """Without one step, or without one part of a step, the largest parts first."""
    for index in reversed(range(1, len(steps))):
        yield steps[:index] + steps[index + 1 :]
    for index, step in enumerate(steps):
        for path in sorted(_parts(step), key=len):
            made = type(step)()
            made.CopyFrom(step)
            _clear(made, path)
            yield (*steps[:index], made, *steps[index + 1 :])


def _parts(message: Any) -> Iterator[tuple[str | int, ...]]:
    """The paths of everything that is set in a message: fields and items of lists."""
    for field, value in message.ListFields():
        yield (field.name,)
        holds_messages = field.message_type is not None
        if holds_messages and field.message_type.GetOptions().map_entry:
            continue
        if field.is_repeated:
            for index, item in enumerate(value):
                if len(value) > 1:
                    yield (field.name, index)
                if holds_messages:
                    yield from ((field.name, index, *below) for below in _parts(item))
        elif holds_messages:
            yield from ((field.name, *below) for below in _parts(value))


def _clear(message: Any, path: Sequence[str | int]) -> None:
    name, *rest = path
    if not rest:
        message.ClearField(name)
        return
    value = getattr(message, str(name))
    if isinstance(rest[0], int):
        index, *rest = rest
        if not rest:
            del value[index]
            return
        value = value[index]
    _clear(value, rest)
