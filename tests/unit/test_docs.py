"""README and docs/ refer only to existing paths, commands, sessions, keys, metrics and tests."""

from __future__ import annotations

import functools
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec
import pytest

from runtime.config.tables import Config, RuncOptions

_ROOT = Path(__file__).parents[2]
_PAGES = [
    *(_ROOT / name for name in ("README.md", "CHANGELOG.md", "CONTRIBUTING.md", "spec/README.md")),
    *sorted((_ROOT / "docs").rglob("*.md")),
]
_CODE = re.compile(r"`([^`\n]+)`")
_LINK = re.compile(r"\]\(([^)#]+)[^)]*\)")
_PATH = re.compile(r"(?:spec|runtime|codegen|generated|docs|tests|\.ci)/[\w./-]*")
_DIRECTORY_OF_FILES = re.compile(r"\| .*Files of `(runtime/\w+/)`")

pages = pytest.mark.parametrize("page", _PAGES, ids=lambda page: page.name)


def _codes(page: Path) -> list[str]:
    return _CODE.findall(page.read_text())


@pages
def test_paths_exist(page: Path) -> None:
    paths = {found.rstrip(".:") for code in _codes(page) for found in _paths(code)}
    missing = {path for path in paths if not (_ROOT / path).exists()}
    assert not missing


def _paths(code: str) -> Iterator[str]:
    """Paths from the root; not the ones with a placeholder, and not parts of longer paths."""
    for found in _PATH.finditer(code):
        before = code[found.start() - 1 : found.start()]
        after = code[found.end() : found.end() + 1]
        if before not in ("/", ".", "~", ">") and after not in ("<", "*"):
            yield found[0]


@pages
def test_links_are_valid(page: Path) -> None:
    local = [link for link in _LINK.findall(page.read_text()) if "://" not in link]
    assert not [link for link in local if not (page.parent / link).exists()]


def test_files_of_a_package_exist() -> None:
    text = (_ROOT / "docs/architecture.md").read_text()
    _, directory, rest = _DIRECTORY_OF_FILES.split(text, maxsplit=1)
    named = re.findall(r"`(\w+\.py)`", rest.partition("\n\n")[0])
    assert len(named) > 10
    assert not [name for name in named if not (_ROOT / directory / name).exists()]


@pages
def test_sessions_and_commands_exist(page: Path) -> None:
    text = page.read_text()
    sessions = re.findall(r"def (\w+)\(session", (_ROOT / "noxfile.py").read_text())
    known = {
        r"\./dev (\w+)": {"demo", "test", "setup", *sessions},
        r"cri-codegen (\w+)": _commands("codegen/__main__.py"),
        r"cri-containerd (\w+)": _commands("runtime/__main__.py"),
    }
    code = "\n".join([*_CODE.findall(text), *re.findall(r"^    (.*)$", text, re.M)])
    for command, names in known.items():
        assert set(re.findall(command, code)) - {"NAME"} <= names


def test_the_readme_lists_every_session() -> None:
    table = (_ROOT / "README.md").read_text().partition("## Nox sessions")[2]
    sessions = re.findall(r"^def ([a-z]\w*)\(session", (_ROOT / "noxfile.py").read_text(), re.M)
    assert sessions
    assert [name for name in sessions if f"`{name}`" not in table] == []


@functools.cache
def _commands(program: str) -> set[str]:
    """The commands that the program's help lists."""
    module = program.split("/")[0]
    shown = subprocess.run(
        [sys.executable, "-m", module, "--help"],
        cwd=_ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    listed = re.search(r"\{([\w,-]+)\}", shown)
    assert listed
    return set(listed[1].split(","))


def test_every_configuration_key_is_documented_with_its_default() -> None:
    rows = re.findall(
        r"^\| (`[^|]*`) \| ([^|]*) \|", (_ROOT / "docs/configuration.md").read_text(), re.M
    )
    known = msgspec.to_builtins(Config(), enc_hook=float)
    documented = set()
    for names, default in rows:
        table = ""
        values = []
        for name in _CODE.findall(names):
            path = table + name if name.startswith(".") else name
            table = path.rpartition(".")[0]
            documented.add(path)
            values.append(_value(known, path.replace("NAME", "runc")))
        for value in values:
            if isinstance(value, str | int) and value != "":
                shown = str(value).lower() if isinstance(value, bool) else str(value)
                assert shown in default, f"{names}: the default is {shown}"
    text = (_ROOT / "docs/configuration.md").read_text()
    refused = {f"images.registry.{key}" for key in ("mirrors", "configs", "auths")}
    keys = {path.replace(".runc.", ".NAME.") for path in _paths_of_keys(known)}
    assert keys - documented - refused == set()
    assert [key for key in RuncOptions.__struct_fields__ if f"`{key}`" not in text] == []


def _paths_of_keys(table: Mapping[str, Any], before: str = "") -> Iterator[str]:
    """The paths of all keys; a table that has a row of its own counts as one key."""
    for key, value in table.items():
        path = before + key
        if isinstance(value, dict) and value and not path.endswith("x509_key_pair_streaming"):
            yield from _paths_of_keys(value, f"{path}.")
        else:
            yield path


def test_symptoms_are_texts_of_the_code() -> None:
    """What an operator searches the page for is what the server says."""
    page = (_ROOT / "docs/operations.md").read_text()
    table = page.partition("## Troubleshooting")[2].partition("\n## ")[0]
    symptoms = [row.split(" | ")[0] for row in table.splitlines() if row.startswith("| ")]
    phrases = {
        part.strip()
        for symptom in symptoms
        for quoted in re.findall(r'"([^"]+)"', symptom)
        for part in quoted.split("…")
        if len(part.strip()) > 6
    }
    assert len(phrases) > 20
    # texts continue on the next line of the code
    code = "\n".join(path.read_text() for path in (_ROOT / "runtime").rglob("*.py"))
    code = re.sub(r'"\s*\n\s*f?"', "", code)
    assert [phrase for phrase in sorted(phrases) if phrase not in code] == []


def _value(table: Any, path: str) -> Any:
    for key in path.split("."):
        assert key in table, f"{path}: there is no such key"
        table = table[key]
    return table


@pages
def test_metrics_and_tests_exist(page: Path) -> None:
    named = set(re.findall(r"\b(cri_containerd_\w+|test_\w+)\b", " ".join(_codes(page))))
    sources = [*(_ROOT / "runtime").rglob("*.py"), *(_ROOT / "tests").rglob("*.py")]
    code = "\n".join(path.read_text() for path in sources if path != Path(__file__))
    files = {path.stem for path in sources}
    assert not [name for name in named - files if name not in code]
