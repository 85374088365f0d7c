"""Nothing is generated or measured without a use: the server uses all of it. For plans, see
test_message_reads."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from tests.unit.codegen.project import ROOT

_PLANS = ("plan", "requested", "known")
"""What hand-written code calls a plan."""
_FOLDERS = ("cni", "filters", "items", "oci", "statuses", "validators")


def _modules(folder: str) -> dict[str, Path]:
    files = (ROOT / folder).rglob("*.py")
    return {
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
        for path in files
    }


@cache
def _tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text())


def _imported(path: Path) -> Iterator[str]:
    """Every module or name that a file imports, by its full name."""
    for node in ast.walk(_tree(path)):
        if isinstance(node, ast.ImportFrom):
            for name in node.names:
                yield f"{node.module}.{name.name}"
                yield f"{node.module}"
        elif isinstance(node, ast.Import):
            yield from (name.name for name in node.names)


def _reached() -> set[str]:
    """What is imported from runtime/, at once or through what it imports."""
    modules = _modules("generated")
    pending = [name for path in _modules("runtime").values() for name in _imported(path)]
    reached: set[str] = set()
    while pending:
        name = pending.pop()
        if name not in reached:
            reached.add(name)
            pending += _imported(modules[name]) if name in modules else []
    return reached


@cache
def _read_attributes() -> frozenset[str]:
    """Every name that comes after a dot where its value is used."""
    paths = [*_modules("runtime").values(), *_modules("generated").values()]
    return frozenset(
        node.attr
        for path in paths
        if not path.name.endswith(("_pb2.py", "_pb2_grpc.py"))
        for node in ast.walk(_tree(path))
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load)
    )


def _members(path: Path) -> Iterator[str]:
    """The fields and properties of the classes in a file, as ``Class.name``."""
    for node in _tree(path).body:
        if isinstance(node, ast.ClassDef):
            for part in node.body:
                if isinstance(part, ast.AnnAssign) and isinstance(part.target, ast.Name):
                    yield f"{node.name}.{part.target.id}"
                elif isinstance(part, ast.FunctionDef):
                    yield f"{node.name}.{part.name}"


def test_every_generated_module_is_imported() -> None:
    reached = _reached()
    made = [name for name in _modules("generated") if name.split(".")[1:2] and "_pb2" not in name]
    ours = [name for name in made if name.split(".")[1] in _FOLDERS]
    assert len(ours) > 100
    assert [name for name in ours if name not in reached] == []


def test_every_function_that_makes_a_plan_is_called() -> None:
    tree = _tree(ROOT / "generated/plans.py")
    made = [node.name for node in tree.body if isinstance(node, ast.FunctionDef)]
    reached = _reached()
    assert made
    assert [name for name in made if f"generated.plans.{name}" not in reached] == []


@pytest.mark.parametrize("file", ["runtime/readings.py", "runtime/transforms/facts.py"])
def test_every_value_is_read(file: str) -> None:
    members = list(_members(ROOT / file))
    assert members
    read = _read_attributes()
    assert [name for name in members if name.rpartition(".")[2] not in read] == []


def test_no_hand_written_code_chooses_the_default_of_a_plans_value() -> None:
    """What a request gets that does not set a field is an entry's to say: ``plan.timeout or 10``
    would be a decision that ``explain`` cannot tell."""
    chosen = [
        f"{path.relative_to(ROOT)}:{node.lineno}: {ast.unparse(node)}"
        for path in (ROOT / "runtime").rglob("*.py")
        for node in _defaults(path)
    ]
    assert chosen == []


def _defaults(path: Path) -> Iterator[ast.expr]:
    """Every choice between a plan's value and something that no plan has, outside of conditions."""
    tree = _tree(path)
    asked = {id(node.test) for node in ast.walk(tree) if isinstance(node, ast.If | ast.IfExp)}
    asked |= {id(n.operand) for n in ast.walk(tree) if isinstance(n, ast.UnaryOp)}
    for node in ast.walk(tree):
        if isinstance(node, ast.BoolOp) and isinstance(node.op, ast.Or) and id(node) not in asked:
            of_plans = [_is_of_a_plan(value) for value in node.values]
            if any(of_plans) and not all(of_plans):
                yield node


def _is_of_a_plan(node: ast.expr) -> bool:
    return isinstance(node, ast.Attribute) and ast.unparse(node.value).rpartition(".")[2] in _PLANS
