"""The project under test: its root, and its model read once."""

from __future__ import annotations

import functools
import shutil
from pathlib import Path

import codegen.project
from codegen import generate
from codegen.model import Api
from codegen.project import Settings

ROOT = Path(__file__).parents[3]


def settings() -> Settings:
    """What spec/project.yaml says."""
    return codegen.project.read(ROOT)


def begin(root: Path) -> None:
    """Make ``root`` a project that has ours as its spec/project.yaml, and no pinned version."""
    (root / settings().api.protos).mkdir(parents=True)
    shutil.copy(ROOT / codegen.project.FILE, root / codegen.project.FILE)


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
