"""Accessors for nodes whose file has passed its schema.

If a schema accepts something that no accessor can handle, SpecError names the place.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TypeVar

from codegen.errors import SpecError
from codegen.load import ListNode, MappingNode, Node, ScalarNode

_Kind = TypeVar("_Kind", MappingNode, ListNode, ScalarNode)


def _must_be(node: Node, kind: type[_Kind], words: str) -> _Kind:
    if not isinstance(node, kind):
        raise SpecError(f"must be {words}", node.place, "the schema of this file should say so")
    return node


def mapping(node: Node) -> MappingNode:
    """The node, which has keys."""
    return _must_be(node, MappingNode, "keys with values")


def child(node: Node, name: str) -> Node:
    """The value under a required key."""
    found = optional(node, name)
    if found is None:
        raise SpecError(f"lacks the key {name!r}", node.place)
    return found


def optional(node: Node, name: str) -> Node | None:
    """The value of an optional key."""
    return mapping(node).get(name)


def items(node: Node) -> Iterator[tuple[str, Node]]:
    """Keys and values, in order."""
    return ((key.value, value) for key, value in mapping(node).items())


def values(node: Node | None) -> tuple[Node, ...]:
    """The values of a list; empty if it was omitted."""
    return () if node is None else _must_be(node, ListNode, "a list").values


def text(node: Node) -> str:
    """The word itself."""
    return str(_must_be(node, ScalarNode, "a word").value)


def word_or_number(node: Node) -> str | int:
    """The word or whole number itself."""
    value = _must_be(node, ScalarNode, "a word or a number").value
    return value if isinstance(value, int) else str(value)
