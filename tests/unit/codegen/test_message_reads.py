"""Reads of hand-written code, by the types that the type checker knows: the generator finds
every read of a message field, and no value is generated that nothing uses."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest
from mypy import build
from mypy.config_parser import parse_config_file
from mypy.modulefinder import BuildSource
from mypy.nodes import MemberExpr, NameExpr
from mypy.options import Options
from mypy.traverser import NameAndMemberCollector
from mypy.types import Instance, Type, UnionType, get_proper_type

from codegen.message_reads import MessageReads, messages_of
from generated import plans
from tests.unit.codegen.project import ROOT, api, project, settings

_API: Final = "generated.cri.api_pb2."
_PLANS: Final = "generated.plans."
_A_READ: Final = ("runtime/containers/image_volumes.py", "ContainerConfig.mounts")
"""One of the few reads that are left, which shows that the type checker is asked about all."""


@dataclasses.dataclass(frozen=True, slots=True)
class Known:
    """One name or attribute in a file of runtime/."""

    file: str
    line: int
    name: str
    """The attribute, or the full name of what a name stands for."""
    of: tuple[str, ...]
    """Full names of the classes that the value before the dot may be of."""


def _files() -> list[str]:
    return [p.relative_to(ROOT).as_posix() for p in sorted((ROOT / "runtime").rglob("*.py"))]


@pytest.fixture(scope="module")
def known() -> list[Known]:
    """Everything that mypy knows about runtime/."""
    options = Options()
    parse_config_file(options, lambda: None, str(ROOT / "pyproject.toml"), sys.stdout, sys.stderr)
    options.export_types = options.preserve_asts = True
    options.incremental = False
    options.mypy_path = [str(ROOT)]
    modules = {file.removesuffix(".py").replace("/", "."): file for file in _files()}
    sources = [
        BuildSource(str(ROOT / file), name.removesuffix(".__init__"))
        for name, file in modules.items()
    ]
    made = build.build(sources, options)
    found: list[Known] = []
    for name, file in modules.items():
        collector = NameAndMemberCollector()
        made.files[name.removesuffix(".__init__")].accept(collector)
        nodes: list[MemberExpr | NameExpr] = [*collector.member_exprs, *collector.name_exprs]
        for node in nodes:
            of = tuple(_classes(made.types.get(node.expr))) if isinstance(node, MemberExpr) else ()
            found.append(Known(file, node.line, node.name if of else node.fullname, of))
    return found


def _classes(of: Type | None) -> Iterator[str]:
    proper = get_proper_type(of) if of is not None else None
    if isinstance(proper, UnionType):
        for item in proper.items:
            yield from _classes(item)
    elif isinstance(proper, Instance):
        yield proper.type.fullname


def test_every_read_known_to_the_type_checker_is_found(known: list[Known]) -> None:
    trees = {file: ast.parse((ROOT / file).read_text()) for file in _files()}
    held = messages_of(project().translation.plans.values())
    uses = MessageReads(settings(), api(), trees, held).uses
    ours = {(use.file, use.line, f"{use.message}.{use.field}") for use in uses}
    theirs = {
        (one.file, one.line, f"{message}.{one.name}")
        for one in known
        for message in (of.removeprefix(_API) for of in one.of if of.startswith(_API))
        if message in api().messages and one.name in api().messages[message].fields
    }
    assert _A_READ in {(file, name) for file, _, name in theirs}
    assert theirs - ours == set()


def test_each_value_of_a_plan_is_used(known: list[Known]) -> None:
    used = {
        (of.removeprefix(_PLANS), one.name)
        for one in known
        for of in one.of
        if of.startswith(_PLANS)
    }
    planned = {
        (name, field.name)
        for name, made in inspect.getmembers(plans, dataclasses.is_dataclass)
        for field in dataclasses.fields(made)
    }
    assert len(planned) > 30
    assert planned - used == set()


def test_each_builder_of_items_is_used(known: list[Known]) -> None:
    names = {one.name for one in known}
    generated = "".join(
        path.read_text()
        for path in Path(ROOT / "generated").rglob("*.py")
        if path.stem != "api_pb2"
    )
    for path in (ROOT / "generated/items").glob("[a-z]*.py"):
        functions = re.findall(r"^def (\w+)\(", path.read_text(), re.M)
        for one in (name for name in functions if not name.endswith("items")):
            called = {f"generated.items.{path.stem}.{one}", f"generated.items.{path.stem}.{one}s"}
            used = called & names or f"{path.stem}.{one}" in generated
            assert used, f"nothing calls {path.stem}.{one}"
