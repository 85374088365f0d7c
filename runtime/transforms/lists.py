"""Merging lists that several entries write."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol, TypeVar


class Identified(Protocol):
    """An item with an identity of its own, such as a mount's destination."""

    @property
    def identity(self) -> str: ...


_Item = TypeVar("_Item", bound=Identified)


def merge(items: list[_Item], new: Iterable[_Item]) -> None:
    """Merge ``new`` into ``items``: each replaces the item with the same identity, or is
    appended."""
    places = {item.identity: place for place, item in enumerate(items)}
    for item in new:
        place = places.setdefault(item.identity, len(items))
        items[place : place + 1] = [item]
