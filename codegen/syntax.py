"""Walks over syntax trees that skip what cannot hold what is looked for.

Most of a tree is expressions; a walk over its statements alone visits a tenth of the nodes.
"""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator


def statements(body: Iterable[ast.stmt]) -> Iterator[ast.stmt]:
    """Every statement of ``body`` and below it, those of inner functions and classes too."""
    for node in body:
        yield node
        for name in ("body", "orelse", "finalbody"):
            yield from statements(getattr(node, name, ()))
        for part in (*getattr(node, "handlers", ()), *getattr(node, "cases", ())):
            yield from statements(part.body)
