"""Walks over syntax trees that skip irrelevant parts.

Most nodes of a tree are expressions; a walk over its statements visits only a tenth of them.
"""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator

_SCOPES = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)


def statements(body: Iterable[ast.stmt], *, inner_scopes: bool = True) -> Iterator[ast.stmt]:
    """Every statement of ``body`` and below it; without ``inner_scopes``, not those of nested
    functions and classes."""
    for node in body:
        yield node
        if not inner_scopes and isinstance(node, _SCOPES):
            continue
        for name in ("body", "orelse", "finalbody"):
            yield from statements(getattr(node, name, ()), inner_scopes=inner_scopes)
        for part in (*getattr(node, "handlers", ()), *getattr(node, "cases", ())):
            yield from statements(part.body, inner_scopes=inner_scopes)


def nodes(tree: ast.AST) -> Iterator[ast.AST]:
    """Every node of ``tree``, in no order: two to three times as fast as ``ast.walk``."""
    pending = [tree]
    while pending:
        node = pending.pop()
        yield node
        for part in vars(node).values():
            if isinstance(part, list):
                pending += [one for one in part if isinstance(one, ast.AST)]
            elif isinstance(part, ast.AST):
                pending.append(part)
