"""Short ways into nodes whose file has passed its schema: what they assert is then true."""

from __future__ import annotations

from collections.abc import Iterator

from codegen.load import ListNode, MappingNode, Node, ScalarNode


def child(node: Node, name: str) -> Node:
    """The value under a required key."""
    found = optional(node, name)
    assert found is not None
    return found


def optional(node: Node, name: str) -> Node | None:
    """The value under a key that may be left out."""
    assert isinstance(node, MappingNode)
    return node.get(name)


def items(node: Node) -> Iterator[tuple[str, Node]]:
    """Keys and values, in order."""
    assert isinstance(node, MappingNode)
    return ((key.value, value) for key, value in node.items())


def values(node: Node | None) -> tuple[Node, ...]:
    """The values of a list; none when it was left out."""
    if node is None:
        return ()
    assert isinstance(node, ListNode)
    return node.values


def text(node: Node) -> str:
    """The word itself."""
    assert isinstance(node, ScalarNode)
    return str(node.value)
