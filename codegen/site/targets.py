"""The tree of what the entries write, and with it who writes each part."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from codegen.backwards import Link

_STEPS = re.compile(r"\[[^\]]*\]|[^.\[]+")


@dataclass(slots=True)
class Node:
    """One step of the paths, and everything below it."""

    step: str
    """As it is written after its parent: ``.limit``, ``[]`` or ``[key]``."""
    path: str
    links: list[Link] = field(default_factory=list)
    below: dict[str, Node] = field(default_factory=dict)

    @property
    def total(self) -> int:
        """The number of targets, this and below."""
        return bool(self.links) + sum(node.total for node in self.below.values())

    def walk(self) -> Iterator[Node]:
        """The node and all below it."""
        yield self
        for node in self.below.values():
            yield from node.walk()


def tree(links: Iterable[Link]) -> Node:
    """The tree of all names of ``links``."""
    top = Node("", "")
    for link in links:
        node = top
        for step in steps(link.name):
            if step not in node.below:
                node.below[step] = Node(step, node.path + step)
            node = node.below[step]
        node.links.append(link)
    return top


def steps(path: str) -> list[str]:
    """``linux.uids[].size`` as ``linux``, ``.uids``, ``[]``, ``.size``."""
    found = _STEPS.findall(path)
    return [
        step if number == 0 or step.startswith("[") else f".{step}"
        for number, step in enumerate(found)
    ]


def tops(paths: Iterable[str]) -> list[str]:
    """The first steps of paths, sorted."""
    return sorted({steps(path)[0] for path in paths})
