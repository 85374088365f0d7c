"""``explain`` of an RPC: who answers it, in which states, and in which files."""

from __future__ import annotations

import ast
import textwrap
from collections.abc import Iterator, Mapping
from pathlib import Path

from codegen.model import snake
from codegen.project import Settings
from codegen.python_source import parsed
from codegen.rpc import Noun, Rpc, Rpcs


def explained(root: Path, settings: Settings, rpcs: Rpcs, name: str) -> str | None:
    """Everything about one RPC, by its key in rpc.yaml; None if there is no such RPC."""
    rpc = rpcs.find(name)
    if rpc is None:
        return None
    lines = [rpc.name]
    for word, value in _rows(root, settings, rpcs, rpc):
        lines += textwrap.wrap(
            value, 100, initial_indent=f"  {word:10} ", subsequent_indent=" " * 13
        )
    return "\n".join(lines)


def _rows(root: Path, settings: Settings, rpcs: Rpcs, rpc: Rpc) -> Iterator[tuple[str, str]]:
    service = next(one for one in rpcs.services if rpc in one.rpcs)
    method = rpc.method
    asked = f"stream {method.request}" if method.takes_stream else method.request
    answer = f"stream {method.response}" if method.streams else method.response
    yield "type", f"{service.name}, {asked} → {answer}, since {method.since}"
    if rpc.operation is not None:
        noun = next(noun for noun in rpcs.nouns if noun.name == rpc.operation.noun)
        yield "served by", str(rpc.operation)
        yield "code", ", ".join(_files(root, settings, noun, rpc.operation.method))
    if rpc.batches is not None:
        yield "batches of", rpc.batches.of.name
    if rpc.issue is not None:
        yield "unserved", f"UNIMPLEMENTED; {rpc.issue}"
    if rpc.subject is not None:
        absent = "an empty response" if rpc.subject.absent_is_ok else "NOT_FOUND"
        yield "object", f"{rpc.subject.kind}, by {rpc.subject.field}; {absent} if it does not exist"
    if rpc.allowed is not None:
        other = "ok" if rpc.allowed.otherwise_is_ok else rpc.allowed.otherwise.upper()
        yield "states", f"{', '.join(rpc.allowed.states)}; {other} in others"
    yield "why", rpc.why
    yield "entry", f"{rpc.place.file}:{rpc.place.line}"
    yield "fields", f"cri-codegen explain {method.request}"
    yield "generated", f"{settings.output}/handlers/{snake(service.name)}.py"


def _files(root: Path, settings: Settings, noun: Noun, name: str) -> Iterator[str]:
    """Where the method is, and the modules of its package that it calls."""
    package = f"{settings.code}/{noun.name}"
    file = f"{package}/operations.py"
    if not (root / file).is_file():
        return
    tree = parsed((root / file).read_text(), file)
    imported = dict(_modules(tree, package))
    for owner in tree.body:
        if isinstance(owner, ast.ClassDef) and owner.name == noun.python_class:
            for node in owner.body:
                if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name == name:
                    yield f"{file}:{node.lineno}"
                    yield from _called(node, imported)


def _modules(tree: ast.Module, package: str) -> Iterator[tuple[str, str]]:
    """The files of a package that a module imports, by the name that they have there."""
    dotted = package.replace("/", ".")
    for node in tree.body:
        if isinstance(node, ast.ImportFrom):
            home = node.module or ""
            for part in node.names:
                if home == dotted:
                    yield part.asname or part.name, f"{package}/{part.name}.py"
                elif home.startswith(f"{dotted}."):
                    yield part.asname or part.name, f"{home.replace('.', '/')}.py"


def _called(method: ast.AST, imported: Mapping[str, str]) -> Iterator[str]:
    """Each file once, in the order of the calls."""
    calls = (node.func for node in ast.walk(method) if isinstance(node, ast.Call))
    names = [node for call in calls for node in ast.walk(call) if isinstance(node, ast.Name)]
    names.sort(key=lambda name: (name.lineno, name.col_offset))
    yield from dict.fromkeys(imported[name.id] for name in names if name.id in imported)
