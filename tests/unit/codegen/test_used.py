"""Nothing is generated or measured without a use: the server uses all of it. For plans, see
test_message_reads."""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Iterable, Iterator
from functools import cache
from pathlib import Path

import pytest
import yaml

from tests.unit.codegen.project import ROOT

_PLANS = ("plan", "requested", "known")
"""What hand-written code calls a plan."""
_DEFAULT, _COMPARISON = "a default", "a comparison"
_LOOKS = ("startswith", "endswith", "removeprefix", "removesuffix")
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


def test_every_outcome_of_the_lifecycle_is_used_by_its_name() -> None:
    """A status says "OOMKilled" only because spec/lifecycle.yaml does."""
    written = yaml.safe_load((ROOT / "spec/lifecycle.yaml").read_text())
    outcomes = [
        (f"{noun}_{name}_{key}".upper(), value)
        for noun, machine in written.items()
        for name, outcome in machine.get("outcomes", {}).items()
        for key, value in outcome["values"].items()
    ]
    assert len(outcomes) > 3
    reached = _reached()
    assert [n for n, _ in outcomes if f"generated.lifecycle.{n}" not in reached] == []
    words = {value for _, value in outcomes if isinstance(value, str)}
    repeated = [
        f"{path.relative_to(ROOT)}:{node.lineno}"
        for path in _modules("runtime").values()
        for node in ast.walk(_tree(path))
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value in words
    ]
    assert repeated == []


def test_no_hand_written_code_chooses_the_default_of_a_plans_value() -> None:
    """What a request gets that does not set a field is an entry's to say: ``plan.timeout or 10``
    would be a decision that ``explain`` cannot tell."""
    assert _found(_defaults) == []


def test_no_hand_written_code_compares_a_plans_value_with_a_literal() -> None:
    """What a text or a number means is an entry's to say: the plan has a value for the answer."""
    assert _found(_comparisons) == []


@pytest.mark.parametrize(
    ("code", "finds"),
    [
        ("plan.timeout or 10", _DEFAULT),
        ("services.plan.timeout or limit", _DEFAULT),
        ("plan_container(config).timeout or limit", _DEFAULT),
        ("number = plan.timeout\n    use(number or 10)", _DEFAULT),
        ("plan.timeout if plan.timeout else 10", _DEFAULT),
        ("LIMIT if plan.timeout is None else plan.timeout", _DEFAULT),
        ("plan.mode == 'private'", _COMPARISON),
        ("mode = plan.mode\n    use(mode != 2)", _COMPARISON),
        ("plan.path.startswith('/')", _COMPARISON),
        ("plan.timeout > 0", _COMPARISON),
        ("plan.mounts or plan.devices", None),
        ("plan.path is None", None),
        ("a if plan.terminal else b", None),
        ("if plan.mounts or image.mounts: pass", None),
    ],
)
def test_a_decision_about_a_plans_value_is_found(code: str, finds: str | None) -> None:
    """The two tests above, of code that decides and of code that does not."""
    tree = ast.parse(f"def work():\n    {code}")
    found = {_DEFAULT: list(_defaults(tree)), _COMPARISON: list(_comparisons(tree))}
    assert [kind for kind, every in found.items() if every] == ([finds] if finds else [])


def _found(kind: Callable[[ast.AST], Iterable[ast.expr]]) -> list[str]:
    return [
        f"{path.relative_to(ROOT)}:{node.lineno}: {ast.unparse(node)}"
        for path in (ROOT / "runtime").rglob("*.py")
        for node in kind(_tree(path))
    ]


def _functions(tree: ast.AST) -> Iterator[tuple[ast.AST, frozenset[str]]]:
    """Every function, with the names in it that stand for values of plans."""
    for function in ast.walk(tree):
        if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef):
            assigned = [node for node in ast.walk(function) if isinstance(node, ast.Assign)]
            names = {
                target.id
                for node in assigned
                if _is_of_a_plan(node.value)
                for target in node.targets
                if isinstance(target, ast.Name)
            }
            yield function, frozenset(names)


def _defaults(tree: ast.AST) -> Iterator[ast.expr]:
    """Every choice between a plan's value and something that no plan has, outside of conditions."""
    for function, names in _functions(tree):
        asked = {id(n.test) for n in ast.walk(function) if isinstance(n, ast.If | ast.IfExp)}
        asked |= {id(n.operand) for n in ast.walk(function) if isinstance(n, ast.UnaryOp)}
        for node in ast.walk(function):
            if isinstance(node, ast.BoolOp) and isinstance(node.op, ast.Or):
                of_plans = [_is_of_a_plan(value, names) for value in node.values]
                if any(of_plans) and not all(of_plans) and id(node) not in asked:
                    yield node
            elif isinstance(node, ast.IfExp):
                asks = {ast.unparse(part) for part in ast.walk(node.test)}
                for one, other in ((node.body, node.orelse), (node.orelse, node.body)):
                    chosen = _is_of_a_plan(one, names) and ast.unparse(one) in asks
                    if chosen and isinstance(other, ast.Constant | ast.Name):
                        yield node


def _comparisons(tree: ast.AST) -> Iterator[ast.expr]:
    """Every comparison of a plan's value with a text or a number, and every look at its beginning
    or end."""
    for function, names in _functions(tree):
        for node in ast.walk(function):
            if isinstance(node, ast.Compare):
                sides = [node.left, *node.comparators]
                if any(_is_of_a_plan(side, names) for side in sides) and any(
                    isinstance(side, ast.Constant) and side.value is not None for side in sides
                ):
                    yield node
            elif (
                isinstance(node, ast.Call)
                and isinstance(node.func, ast.Attribute)
                and node.func.attr in _LOOKS
                and _is_of_a_plan(node.func.value, names)
            ):
                yield node


def _is_of_a_plan(node: ast.expr, names: frozenset[str] = frozenset()) -> bool:
    if isinstance(node, ast.Name):
        return node.id in names
    if not isinstance(node, ast.Attribute):
        return False
    of = node.value
    if isinstance(of, ast.Call):
        return isinstance(of.func, ast.Name) and of.func.id.startswith("plan_")
    return ast.unparse(of).rpartition(".")[2] in _PLANS


def test_names_of_kubernetes_annotations_are_in_transforms() -> None:
    """What an annotation or label of Kubernetes means is decided by an entry, whose pure function
    knows its name."""
    named = [
        f"{path.relative_to(ROOT)}:{node.lineno}: {node.value}"
        for path in (ROOT / "runtime").rglob("*.py")
        if not path.is_relative_to(ROOT / "runtime/transforms")
        for node in ast.walk(_tree(path))
        if isinstance(node, ast.Constant)
        and isinstance(node.value, str)
        and re.fullmatch(r"\S*(io\.kubernetes\.|\.kubernetes\.io/|cdi\.k8s\.io)\S*", node.value)
    ]
    assert named == []
