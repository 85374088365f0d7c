"""What differs between two trees of JSON values, by path."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

ABSENT = "<absent>"
_PLAIN = re.compile(r"[A-Za-z_]\w*")


@dataclass(frozen=True, slots=True)
class Difference:
    """One place where the two sides differ."""

    path: str
    """Keys joined with dots; those that are not words, and the keys of list items, in brackets."""
    builtin: Any
    ours: Any

    def __str__(self) -> str:
        return f"{self.path}: built-in {_text(self.builtin)}, ours {_text(self.ours)}"

    @property
    def group(self) -> str:
        """The path in its object, without the keys in brackets: what one cause has in common."""
        if ".refused[" in self.path:
            return self.path
        inside = re.sub(r"^\w+\.(?=(?:pod|container|process)\.)", "", self.path)
        return re.sub(r"\[[^\]]*\]", "[*]", inside)


def differences(
    builtin: Any, ours: Any, identity: Mapping[str, Sequence[str]], path: str = ""
) -> Iterator[Difference]:
    """The leaves that differ.

    ``identity`` gives, by the name of a list, the keys that can identify its items: the first that
    an item has counts, ``=`` is for texts ``NAME=VALUE``. Items of other lists that are not as long
    as each other, or that are not objects, identify themselves. Lists are compared item by item,
    and by the order of the items that both have.
    """
    if ABSENT in (builtin, ours) and builtin != ours:
        empty = type(ours if builtin == ABSENT else builtin)
        if empty in (dict, list) and (builtin or ours):
            builtin, ours = (empty() if side == ABSENT else side for side in (builtin, ours))
    if isinstance(builtin, dict) and isinstance(ours, dict):
        for key in dict.fromkeys([*builtin, *ours]):
            below = f"{path}.{key}" if _PLAIN.fullmatch(key) else f"{path}[{key}]"
            yield from differences(
                builtin.get(key, ABSENT), ours.get(key, ABSENT), identity, below.lstrip(".")
            )
    elif isinstance(builtin, list) and isinstance(ours, list):
        yield from _of_lists(builtin, ours, identity, path)
    elif builtin != ours:
        yield Difference(path, builtin, ours)


def _of_lists(
    builtin: list[Any], ours: list[Any], identity: Mapping[str, Sequence[str]], path: str
) -> Iterator[Difference]:
    name = path.rpartition(".")[2]
    objects = all(isinstance(item, dict) for item in [*builtin, *ours])
    if name not in identity and objects and len(builtin) == len(ours):
        for index, pair in enumerate(zip(builtin, ours, strict=True)):
            yield from differences(*pair, identity, f"{path}[{index}]")
        return
    first, second = (_keyed(items, identity.get(name, ())) for items in (builtin, ours))
    if first is None or second is None:
        if builtin != ours:
            yield Difference(path, builtin, ours)
        return
    for key in dict.fromkeys([*first, *second]):
        below = f"{path}[{key}]"
        yield from differences(first.get(key, ABSENT), second.get(key, ABSENT), identity, below)
    orders = [[key for key in side if key in first and key in second] for side in (first, second)]
    if orders[0] != orders[1]:
        yield Difference(f"{path}.order", *orders)


def _keyed(items: Sequence[Any], keys: Sequence[str]) -> dict[str, Any] | None:
    """The items by identity; None if two have the same."""
    found = dict(_identified(item, keys) for item in items)
    return found if len(found) == len(items) else None


def _identified(item: Any, keys: Sequence[str]) -> tuple[str, Any]:
    if "=" in keys:
        name, _, value = str(item).partition("=")
        return name, value
    for key in keys:
        place = item
        for step in key.split("."):
            place = place.get(step, {})
        if place:
            return str(place), item
    return (item if isinstance(item, str) else json.dumps(item, sort_keys=True)), item


def _text(value: Any) -> str:
    text = value if value == ABSENT else json.dumps(value, sort_keys=True, ensure_ascii=False)
    return text if len(text) <= 300 else f"{text[:300]}…"
