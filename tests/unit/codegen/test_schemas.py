"""Editors complete and check the YAML files of a specification by JSON Schemas."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import codegen.project
from codegen import load, mapping_file
from codegen.errors import Problems
from tests.unit.codegen.project import ROOT

_PROJECTS = (ROOT, ROOT / "examples/jobs")
_FILES = [path for root in _PROJECTS for path in sorted((root / "spec").rglob("*.y*ml"))]
_LINE = re.compile(r"# yaml-language-server: \$schema=(\S+)\n")


def _root(path: Path) -> Path:
    return next(root for root in reversed(_PROJECTS) if path.is_relative_to(root))


@pytest.mark.parametrize("path", _FILES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_the_first_line_leads_to_the_schema_that_the_file_follows(path: Path) -> None:
    text = path.read_text()
    match = _LINE.match(text)
    assert match is not None, "lacks the line, which stubs writes into new files"
    schema = load.LANGUAGE / Path(match[1]).name  # the copy is the same, as is tested below
    if _root(path) == ROOT:
        assert (path.parent / match[1]).is_file()
    name = path.relative_to(_root(path)).as_posix()
    kind = "mapping" if path.parent.name == Path(mapping_file.FOLDER).name else path.stem
    assert text.startswith(codegen.project.read(_root(path)).schema_line(name, kind))
    problems = Problems()
    load.check_schema(
        load.yaml_text(text, name),
        load.Schema(load.json_file(schema.parent, schema.name)),
        problems,
    )
    assert list(problems) == []


def test_the_schemas_are_those_that_the_generator_checks_by() -> None:
    output = ROOT / codegen.project.read(ROOT).output
    assert {
        path.relative_to(output).as_posix(): path.read_text()
        for path in (output / codegen.project.SCHEMAS).iterdir()
    } == codegen.project.schemas()


@pytest.mark.parametrize("path", sorted(load.LANGUAGE.iterdir()), ids=lambda path: path.name)
def test_a_schema_says_what_a_file_is_and_knows_its_first_level(path: Path) -> None:
    data = load.json_file(path.parent, path.name)
    assert data["title"].startswith(("spec/", "One mapping file"))
    assert data["$schema"] == "https://json-schema.org/draft/2020-12/schema"
