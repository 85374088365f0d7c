"""The project under test: its root, and its model read once."""

from __future__ import annotations

import functools
import shutil
from pathlib import Path

from codegen import generate
from codegen.model import Api

ROOT = Path(__file__).parents[3]


@functools.cache
def api() -> Api:
    """The current CRI."""
    return generate.read_api(ROOT)


@functools.cache
def project() -> generate.Project:
    """The whole specification; it must be without a fault."""
    return generate.load_project(ROOT)


def copy_of_spec(root: Path) -> None:
    """Lay out a project in ``root`` whose spec/ may be changed; its runtime/ is ours."""
    shutil.copytree(ROOT / "spec", root / "spec")
    (root / "runtime").symlink_to(ROOT / "runtime")
