"""Generated modules, changed or observed in the running process."""

from __future__ import annotations

import ast
import builtins
import importlib
import inspect
import sys
import types
from collections.abc import Callable, Iterator, Mapping
from difflib import SequenceMatcher
from typing import Any

Line = tuple[str, int]
"""A path under generated/ and a line of its canonical text."""
_HIT = "__hit__"


def canonical(text: str) -> str:
    """The code without comments, docstrings and formatting: one statement on each line."""
    tree = ast.parse(text)
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            node.body = [one for one in node.body if not _is_docstring(one)] or [ast.Pass()]
    return ast.unparse(tree)


def _is_docstring(node: ast.stmt) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)


def changed_lines(before: str, after: str) -> set[int]:
    """The lines of ``before`` that are different in ``after``, or next to which ``after`` has
    more."""
    old, new = before.splitlines(), after.splitlines()
    found: set[int] = set()
    for tag, first, end, _, _ in SequenceMatcher(None, old, new, autojunk=False).get_opcodes():
        if tag == "insert":
            found |= {first, first + 1}
        elif tag != "equal":
            found |= set(range(first + 1, end + 1))
    return found


class _Observed(ast.NodeTransformer):
    """Says of every statement of a function that it runs."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._inside = False

    def visit_FunctionDef(self, node: Any) -> Any:
        outside, self._inside = self._inside, True
        self.generic_visit(node)
        self._inside = outside
        return node

    visit_AsyncFunctionDef = visit_FunctionDef

    def generic_visit(self, node: ast.AST) -> ast.AST:
        super().generic_visit(node)
        if self._inside:
            for name in ("body", "orelse", "finalbody"):
                statements = getattr(node, name, None)
                if isinstance(statements, list):
                    setattr(node, name, [one for s in statements for one in (self._note(s), s)])
        return node

    def _note(self, statement: ast.stmt) -> ast.stmt:
        call = ast.Call(
            ast.Name(_HIT, ast.Load()),
            [ast.Tuple([ast.Constant(self._path), ast.Constant(statement.lineno)], ast.Load())],
            [],
        )
        return ast.copy_location(ast.fix_missing_locations(ast.Expr(call)), statement)


def observe(name: str, path: str, text: str, hit: Callable[[Line], None]) -> None:
    """Call ``hit`` for each line of ``text``, the code of the module ``name``, that runs from now
    on. Only functions that somebody imported can run."""
    if name not in sys.modules:
        return
    setattr(builtins, _HIT, hit)
    tree = _Observed(path).visit(ast.parse(text))
    whole = compile(ast.fix_missing_locations(tree), path, "exec")
    _observe_in(vars(sys.modules[name]), whole)


def _observe_in(names: Mapping[str, Any], body: types.CodeType) -> None:
    for code in body.co_consts:
        if not isinstance(code, types.CodeType):
            continue
        known = names.get(code.co_name)
        known = inspect.unwrap(known) if callable(known) else known
        if isinstance(known, type):
            _observe_in(vars(known), code)
        elif isinstance(known, types.FunctionType) and not known.__code__.co_freevars:
            known.__code__ = code


def replace_code(path: str, code: types.CodeType | None) -> None:
    """Let the module of ``path`` do what ``code`` does, for everybody who has imported its
    functions; without code, what a file without entries does."""
    name = module_name(path)
    if code is None:
        for function in _functions(vars(sys.modules[name]), name):
            _leave_out(function)
        return
    if name not in sys.modules:
        module = types.ModuleType(name)
        sys.modules[name] = module
        package, _, last = name.rpartition(".")
        setattr(importlib.import_module(package), last, module)
        exec(code, vars(module))  # noqa: S102 - the code of a mutant
        return
    old = vars(sys.modules[name])
    new: dict[str, Any] = {"__name__": name}
    exec(code, new)  # noqa: S102 - the code of a mutant
    for function in list(_functions(old, name)):
        if function.__name__ not in new:
            _leave_out(function)
    for key, value in new.items():
        _replace(old, key, value, name)


def _replace(old: dict[str, Any], key: str, value: Any, module: str) -> None:
    known = old.get(key)
    own = getattr(value, "__module__", None) == module
    if isinstance(value, types.FunctionType) and own and isinstance(known, types.FunctionType):
        _take_over(known, value)
    elif isinstance(value, type) and own and isinstance(known, type):
        for name, part in vars(value).items():
            whole = vars(known).get(name)
            if not isinstance(part, types.FunctionType) or not isinstance(
                whole, types.FunctionType
            ):
                continue
            if part.__code__.co_freevars == whole.__code__.co_freevars:
                _take_over(whole, part)
            else:  # such as that of a plan that has lost its only value
                setattr(known, name, part)
    elif isinstance(known, dict) and isinstance(value, dict) and not key.startswith("__"):
        known.clear()
        known.update(value)
    elif not key.startswith("__"):
        old[key] = value


def _take_over(old: types.FunctionType, new: types.FunctionType) -> None:
    if old.__code__.co_freevars == new.__code__.co_freevars:
        old.__code__ = new.__code__
        old.__kwdefaults__ = new.__kwdefaults__
        old.__defaults__ = new.__defaults__
        old.__annotations__.clear()  # the tables make what a function asks for
        old.__annotations__.update(new.__annotations__)


def _functions(names: Mapping[str, Any], module: str) -> Iterator[types.FunctionType]:
    for value in names.values():
        if isinstance(value, types.FunctionType) and value.__module__ == module:
            yield value


_WITHOUT = {
    "apply": "def apply(*_, **__): pass",
    "check": "def check(*_, **__): return []",
    "fill": "def fill(*_, **__): pass",
    "read": "def read(**_): from generated.cri import api_pb2; return {returns}()",
    "selected": "def selected(src, items): return items",
    "selects_all": "def selects_all(src): return True",
}
"""What the functions of a file are that has no entries."""
_GONE = "def gone(*_, **__): raise ImportError('the alteration leaves this out')"


def _leave_out(function: types.FunctionType) -> None:
    text = _WITHOUT.get(function.__name__, _GONE)
    made: dict[str, Any] = {}
    returns = function.__annotations__.get("return")
    exec(text.format(returns=returns), made)  # noqa: S102 - one of the above
    [code] = [one.__code__ for one in made.values() if isinstance(one, types.FunctionType)]
    function.__code__, function.__kwdefaults__ = code, None


def module_name(path: str) -> str:
    """``generated.oci.mount`` for ``oci/mount.py``."""
    return "generated." + path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
