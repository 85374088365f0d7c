"""Imports point one way: spec ← codegen, generated → runtime.transforms → generated types.

Within ``runtime/`` a package imports packages of lower layers only, and nouns do not import each
other: what one needs of another is a Protocol in its own ``services.py``, connected in
``server/app.py``.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.unit.codegen.project import ROOT

_OURS = ("codegen", "generated", "runtime", "tests")
_ALLOWED = {
    "codegen": ("codegen",),
    "generated": ("generated", "runtime.transforms", "runtime.frame", "runtime.errors"),
    "runtime/transforms": (
        "runtime.transforms",
        "runtime.errors",
        "runtime.readings",
        "generated.cri",
        "generated.items",
        "generated.lifecycle",
        "generated.oci.defaults",
        "generated.oci.types",
    ),
    "runtime": ("runtime", "generated"),
}

_NOUNS = {"sandboxes", "containers", "images", "stats", "streaming", "node", "events"}
_HOUSE = (
    {"text", "regular_files"},
    {"errors", "documents", "certificates", "readings", "ignored"},
    {"steps", "config", "frame"},
    {"linux"},
    {"transforms", "cni", "logs"},
    {"containerd", "store"},
    {"tasks", "lookups"},
    _NOUNS,
    {"commands"},
    {"server"},
    {"__main__"},
)
"""The packages and modules of ``runtime/``, from the lowest layer to the highest."""


def _imported(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: relative import"
            yield from (f"{node.module}.{name.name}" for name in node.names)


@pytest.mark.parametrize("folder", _ALLOWED)
def test_a_package_imports_only_what_lies_below_it(folder: str) -> None:
    wrong = [
        f"{path.relative_to(ROOT)} imports {name}"
        for path in sorted((ROOT / folder).rglob("*.py"))
        for name in _imported(path)
        if name.partition(".")[0] in _OURS
        and not any(f"{name}.".startswith(f"{allowed}.") for allowed in _ALLOWED[folder])
    ]
    assert wrong == []


def test_transforms_do_no_input_or_output() -> None:
    banned = {"asyncio", "grpc", "os", "pathlib", "shutil", "socket", "subprocess", "time"}
    wrong = [
        f"{path.relative_to(ROOT)} imports {name}"
        for path in sorted((ROOT / "runtime/transforms").rglob("*.py"))
        for name in _imported(path)
        if name.partition(".")[0] in banned and not name.startswith("os.path")
    ]
    assert wrong == []


def _line(name: str) -> int:
    return next(number for number, line in enumerate(_HOUSE) if name in line)


def test_every_package_of_runtime_stands_in_the_table() -> None:
    parts = {
        path.stem
        for path in (ROOT / "runtime").iterdir()
        if path.suffix == ".py" or any(path.glob("*.py"))
    }
    assert parts - {"__init__"} <= set().union(*_HOUSE)


def test_a_package_of_runtime_imports_packages_of_lower_lines_only() -> None:
    wrong = []
    for path in sorted((ROOT / "runtime").rglob("*.py")):
        own = path.relative_to(ROOT / "runtime").parts[0].removesuffix(".py")
        for name in _imported(path):
            if not name.startswith("runtime."):
                continue
            other = name.split(".")[1]
            if other != own and _line(other) >= _line(own):
                wrong.append(f"{path.relative_to(ROOT)} imports {name}")
    assert wrong == []


def test_the_log_keeper_imports_only_the_log_format_from_the_rest_of_the_server() -> None:
    keeper = sorted((ROOT / "runtime/logs/keeper").glob("*.py"))
    assert len(keeper) > 1
    imported = {name for path in keeper for name in _imported(path)}
    ours = {name.rpartition(".")[0] for name in imported if name.partition(".")[0] in _OURS}
    own = {f"runtime.logs.keeper.{path.stem}" for path in keeper} | {"runtime.logs.keeper"}
    assert ours - own == {"runtime.logs.format"}
    assert (ROOT / "runtime/logs/__init__.py").read_text() == ""


def test_unit_tests_lie_in_folders_named_after_the_packages_they_test() -> None:
    packages = {
        str(path.parent.relative_to(ROOT / "runtime"))
        for path in (ROOT / "runtime").rglob("__init__.py")
    }
    folders = {
        str(path.parent.relative_to(ROOT / "tests/unit"))
        for path in (ROOT / "tests/unit").rglob("test_*.py")
    }
    assert folders <= packages | {"codegen", "mapping"}  # mapping: all of what spec/mapping says
