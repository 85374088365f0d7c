"""Lists that several writers share."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol, TypeVar


class Identified(Protocol):
    """An item that a list knows by a name of its own, as a mount by its destination."""

    @property
    def identity(self) -> str: ...


_Item = TypeVar("_Item", bound=Identified)


def merge(items: list[_Item], new: Iterable[_Item]) -> None:
    """Put ``new`` into ``items``: each in the place of the item of the same identity, else last."""
    places = {item.identity: place for place, item in enumerate(items)}
    for item in new:
        place = places.setdefault(item.identity, len(items))
        items[place : place + 1] = [item]
