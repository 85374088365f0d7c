"""docs/framework.md: its steps, followed in an empty folder, make examples/jobs."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import codegen.project
from tests.unit.codegen.project import ROOT

_PAGE = (ROOT / "docs/framework.md").read_text()
_EXAMPLE = ROOT / "examples/jobs"
_STEP = re.compile(
    r"<!-- (?P<file>\S+) -->\n```\w+\n(?P<content>.*?)```"
    r"|```sh\n(?P<commands>.*?)```(\n\n```text\n(?P<printed>.*?)```)?",
    re.S,
)
_INSTALLED = ("python3 -m venv", "venv/bin/pip", ". venv/")
"""How commands begin that this test needs not follow: the tests run where that is done."""
_FAILS = "  # fails"


def _run(folder: Path, command: str) -> str:
    """What a command prints; it must succeed, or fail if the page says so."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {
        "PATH": path,
        "HOME": os.environ.get("HOME", "/"),
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    done = subprocess.run(
        ["sh", "-c", command.removesuffix(_FAILS)],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == (1 if command.endswith(_FAILS) else 0), f"{command}: {done.stderr}"
    return done.stdout


def _files(root: Path) -> dict[str, str]:
    """What people wrote, and what the commands wrote into spec/."""
    return {
        path.relative_to(root).as_posix(): path.read_text()
        for path in sorted(root.rglob("*"))
        if path.is_file()
        and path.suffix not in (".pyc", ".sock")
        and "jobqueue_api" not in path.relative_to(root).parts
    }


@pytest.fixture(scope="module")
def followed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder after all steps."""
    folder = tmp_path_factory.mktemp("new")
    for step in _STEP.finditer(_PAGE):
        if step["file"] is not None:
            path = folder / step["file"]
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(step["content"])
            continue
        commands = [c for c in step["commands"].splitlines() if not c.startswith(_INSTALLED)]
        printed = "".join(_run(folder, command) for command in commands)
        if step["printed"] is not None:
            assert printed == step["printed"]
    return folder


def test_the_steps_make_the_example(followed: Path) -> None:
    made, wanted = _files(followed), _files(_EXAMPLE)
    assert made.keys() == wanted.keys()
    assert [name for name in made if made[name] != wanted[name]] == []


def test_the_schemas_that_editors_use_are_there(followed: Path) -> None:
    made = {path.name: path.read_text() for path in (followed / "jobqueue_api/schemas").iterdir()}
    assert made == {Path(name).name: text for name, text in codegen.project.schemas().items()}
    for path in (followed / "spec").rglob("*.yaml"):
        line = path.read_text().partition("\n")[0]
        assert (path.parent / line.removeprefix("# yaml-language-server: $schema=")).is_file()


def test_every_hand_written_file_is_on_the_page(followed: Path) -> None:
    shown = {step["file"] for step in _STEP.finditer(_PAGE) if step["file"] is not None}
    written = {name for name, text in _files(_EXAMPLE).items() if text}
    by_commands = {
        "spec/decided.yaml",
        "spec/jobs/1.0.proto",
        "spec/jobs/current",
        "spec/jobs/origins.json",
        "spec/mapping/cancel_response.yaml",
    }
    assert written - by_commands == shown
