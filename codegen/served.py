"""Whether hand-written code does what rpc.yaml and lifecycle.yaml say of it: the method that serves
an RPC exists, and every event is fired."""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator

from codegen.errors import Place, Problems, nearest, one_of
from codegen.lifecycle import Lifecycle
from codegen.python_source import Sources
from codegen.rpc import Noun, Rpc, Rpcs, ServiceRpcs
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
                _hint(word, rpc, known, is_file=tree is None),
                "unknown-operation",
            )


def _hint(word: str, rpc: Rpc, known: Iterable[str], *, is_file: bool) -> str:
    """The method that is probably meant, or how to write it."""
    public = sorted(name for name in known if not name.startswith("_"))
    close = nearest(word, public)
    if close is not None or is_file:
        return close or one_of(public)
    subject = f"{rpc.subject.kind}, " if rpc.subject is not None else ""
    given = "requests" if rpc.method.takes_stream else "request"
    return (
        f"write it: async def {word}(self, {subject}{given} or plan) -> {rpc.answer}; or name one"
        f" of: {', '.join(public)}"
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
            for part in statements(node.body, inner_scopes=False):
                match part:
                    case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name):
                        yield name, part
                    case ast.Assign(targets=targets):
                        yield from ((t.id, None) for t in targets if isinstance(t, ast.Name))


def check_services(rpcs: Rpcs, sources: Sources, problems: Problems) -> None:
    """Record a fault for each service with served RPCs that no hand-written module adds to a
    server, and for each call of its class with other arguments than the class has."""
    served = [one for one in rpcs.services if any(not rpc.issue for rpc in one.rpcs)]
    names = {f"add_{one.name}Servicer_to_server" for one in served}
    found = dict(sources.naming([*names, *(one.name for one in served)]))
    used = {
        getattr(node, part, None)
        for tree in found.values()
        for node in nodes(tree)
        for part in ("attr", "id")
    }
    for one in served:
        register = f"add_{one.name}Servicer_to_server"
        if register not in used:
            first = next(rpc for rpc in one.rpcs if not rpc.issue)
            problems.add(
                f"no server in {sources.settings.code}/ has the service {one.name}, so nothing"
                f" serves {first.name}",
                first.place,
                f"call {register} where the other services are added",
                "service-not-added",
            )
        wanted = {"frame"}  # and what has no fault of its own
        wanted |= {f"find_{s.kind}" for s in one.subjects if s.kind in sources.settings.objects}
        nouns = {rpc.operation.noun for rpc in one.rpcs if rpc.operation}
        wanted |= nouns & set(sources.operations())
        for file, tree in found.items():
            for call in _calls(tree, one, f"{sources.settings.output}.handlers"):
                _check_arguments(call, file, one.name, wanted, wanted | nouns, problems)


def _calls(tree: ast.Module, service: ServiceRpcs, package: str) -> Iterator[ast.Call]:
    """The calls of the generated class of a service, by the name that it was imported as."""
    module = service.service.module
    local = {
        part.asname or part.name
        for node in nodes(tree)
        if isinstance(node, ast.ImportFrom) and node.module == f"{package}.{module}"
        for part in node.names
        if part.name == service.name
    }
    for node in nodes(tree):
        match node:
            case ast.Call(func=ast.Name(id=name)) if name in local:
                yield node
            case ast.Call(func=ast.Attribute(value=ast.Name(id=owner), attr=attr)) if (
                owner,
                attr,
            ) == (module, service.name):
                yield node


def _check_arguments(
    call: ast.Call, file: str, name: str, wanted: set[str], known: set[str], problems: Problems
) -> None:
    given = {keyword.arg for keyword in call.keywords}
    if None in given:
        return  # **arguments, which cannot be seen
    for word in sorted(wanted - given):
        problems.add(
            f"{name} also needs {word}",
            Place(file, call.lineno, call.col_offset + 1),
            "spec/rpc.yaml says so: it is what serves some of its RPCs",
            "service-arguments",
        )
    for keyword in call.keywords:
        if keyword.arg not in known:
            problems.add(
                f"{name} takes no {keyword.arg}",
                Place(file, keyword.lineno, keyword.col_offset + 1),
                one_of(sorted(known)),
                "service-arguments",
            )


def check_events(lifecycle: Lifecycle, sources: Sources, problems: Problems) -> None:
    """Record a fault for each event that no hand-written module names."""
    classes = [machine.event_class for machine in lifecycle.machines]
    fired = {
        (node.value.id, node.attr)
        for _, tree in sources.naming(classes)
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
