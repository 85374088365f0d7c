"""The reads of message fields that the generator finds are those that the type checker knows."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator

from mypy import build
from mypy.config_parser import parse_config_file
from mypy.modulefinder import BuildSource
from mypy.options import Options
from mypy.traverser import NameAndMemberCollector
from mypy.types import Instance, Type, UnionType, get_proper_type

from codegen.message_reads import MessageReads
from tests.unit.codegen.project import ROOT, api

_API = "generated.cri.api_pb2."


def test_no_read_escapes_that_the_type_checker_knows() -> None:
    files = sorted((ROOT / "runtime").rglob("*.py"))
    trees = {path.relative_to(ROOT).as_posix(): ast.parse(path.read_text()) for path in files}
    ours = {(u.file, u.line, f"{u.message}.{u.field}") for u in MessageReads(api(), trees).uses}
    known = set(_known_to_mypy(list(trees)))
    assert len(known) > 30
    assert known - ours == set()


def _known_to_mypy(files: list[str]) -> Iterator[tuple[str, int, str]]:
    """File, line and ``Message.field`` of each attribute of a CRI message."""
    options = Options()
    parse_config_file(options, lambda: None, str(ROOT / "pyproject.toml"), sys.stdout, sys.stderr)
    options.export_types = options.preserve_asts = True
    options.incremental = False
    options.mypy_path = [str(ROOT)]
    modules = {file.removesuffix(".py").replace("/", "."): file for file in files}
    sources = [
        BuildSource(str(ROOT / file), name.removesuffix(".__init__"))
        for name, file in modules.items()
    ]
    made = build.build(sources, options)
    for name, file in modules.items():
        collector = NameAndMemberCollector()
        made.files[name.removesuffix(".__init__")].accept(collector)
        for node in collector.member_exprs:
            for message in _messages(made.types.get(node.expr)):
                if node.name in api().messages[message].fields:
                    yield file, node.line, f"{message}.{node.name}"


def _messages(of: Type | None) -> Iterator[str]:
    proper = get_proper_type(of) if of is not None else None
    if isinstance(proper, UnionType):
        for item in proper.items:
            yield from _messages(item)
    elif isinstance(proper, Instance):
        name = proper.type.fullname.removeprefix(_API)
        if name in api().messages:
            yield name
