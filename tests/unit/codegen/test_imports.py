"""Imports point one way: spec ← codegen, generated → runtime.transforms → generated types."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.unit.codegen.project import ROOT

_OURS = ("codegen", "generated", "runtime", "tests")
_ALLOWED = {
    "codegen": ("codegen",),
    "generated": ("generated", "runtime.transforms", "runtime.errors", "runtime.frame"),
    "runtime/transforms": (
        "runtime.transforms",
        "runtime.errors",
        "generated.cri",
        "generated.lifecycle",
        "generated.oci.defaults",
        "generated.oci.types",
    ),
    "runtime": ("runtime", "generated"),
}


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
