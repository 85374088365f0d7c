"""Whether hand-written code does what rpc.yaml and lifecycle.yaml say of it: the method that serves
an RPC exists, and every event is fired."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from codegen.errors import Problems, nearest, one_of
from codegen.lifecycle import Lifecycle
from codegen.python_source import Sources
from codegen.rpc import Noun, Rpcs
from codegen.syntax import nodes, statements


def check_operations(rpcs: Rpcs, sources: Sources, problems: Problems) -> None:
    """Record a fault for each ``served_by`` that names no method."""
    for noun in rpcs.nouns:
        file = f"{sources.settings.code}/{noun.name}/operations.py"
        tree = sources.tree(file)
        methods = dict(_methods(tree, noun)) if tree is not None else None
        for rpc in noun.rpcs:
            operation = rpc.operation
            if operation is None:
                continue
            if methods is not None and operation.method in methods:
                if _is_stream(methods[operation.method]) not in (rpc.method.streams, None):
                    wanted = "a stream" if rpc.method.streams else "one response"
                    problems.add(
                        f"{rpc.name} answers with {wanted}, which {operation} does not",
                        operation.place,
                        "write async def with yield for a stream, without for one response",
                        "unknown-operation",
                    )
                continue
            known = sources.operations() if methods is None else methods
            word = noun.name if methods is None else operation.method
            problems.add(
                (
                    f"{rpc.name} is served by {operation}, but {file} does not exist"
                    if tree is None
                    else f"{rpc.name} is served by {operation}, but the class {noun.python_class}"
                    f" of {file} has no method {operation.method}"
                ),
                operation.place,
                nearest(word, known) or one_of(sorted(known)),
                "unknown-operation",
            )


_Method = ast.FunctionDef | ast.AsyncFunctionDef | None


def _is_stream(method: _Method) -> bool | None:
    """Whether a method gives a stream; None if that cannot be seen."""
    if not isinstance(method, ast.AsyncFunctionDef):
        return None
    inner = (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)
    nested = {
        id(n)
        for d in ast.walk(method)
        if isinstance(d, inner) and d is not method
        for n in ast.walk(d)
    }
    return any(isinstance(n, ast.Yield) and id(n) not in nested for n in ast.walk(method))


def _methods(tree: ast.Module, noun: Noun) -> Iterator[tuple[str, _Method]]:
    """The methods of the noun's class, which it may bind by assignment."""
    for node in tree.body:
        if isinstance(node, ast.ClassDef) and node.name == noun.python_class:
            for part in statements(node.body):
                match part:
                    case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name):
                        yield name, part
                    case ast.Assign(targets=targets):
                        yield from ((t.id, None) for t in targets if isinstance(t, ast.Name))


def check_events(lifecycle: Lifecycle, sources: Sources, problems: Problems) -> None:
    """Record a fault for each event that no hand-written module names."""
    classes = [machine.event_class for machine in lifecycle.machines]
    fired = {
        (node.value.id, node.attr)
        for tree in sources.naming(classes)
        for node in nodes(tree)
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name)
    }
    for machine in lifecycle.machines:
        for event in machine.events:
            if (machine.event_class, event.constant) not in fired:
                problems.add(
                    f"nothing in {sources.settings.code}/ fires {event.name} of the {machine.noun}",
                    event.place,
                    f"fire {machine.event_class}.{event.constant}, or remove the event",
                    "event-never-fired",
                )
