"""Parts of files as they are written: an entry, a generated block, a function."""

from __future__ import annotations

import ast
import re
import textwrap
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from codegen.errors import Place

_STUBS = re.compile(r"_pb2(_grpc)?\.py$")
"""What protoc writes; it has no blocks."""
_CLASS = re.compile(r"class (\w+)")
_SUBJECT = re.compile(r"# (?P<subject>.+?)(?: -> | <- |: |, |$)")


@dataclass(frozen=True, slots=True)
class Excerpt:
    """Consecutive lines of a file, without their common indentation."""

    file: str
    line: int
    text: str

    @property
    def place(self) -> str:
        return f"{self.file}:{self.line}"


@dataclass(frozen=True, slots=True)
class Block:
    """One commented block of a generated function."""

    function: str
    subject: str
    """What the comment begins with: the name of a field or a target."""
    excerpt: Excerpt
    """The lines below the comment."""


@dataclass(slots=True)
class Files:
    """The files below one root; each is read once."""

    root: Path
    _lines: dict[str, list[str]] = field(default_factory=dict)
    _trees: dict[str, ast.Module] = field(default_factory=dict)

    def lines(self, name: str) -> list[str]:
        """The lines of ``root/name``; none if there is no such file."""
        if name not in self._lines:
            path = self.root / name
            text = path.read_bytes().decode(errors="replace") if path.is_file() else ""
            self._lines[name] = text.splitlines()
        return self._lines[name]

    def tree(self, name: str) -> ast.Module:
        """The syntax tree of a Python file; an empty one if it cannot be parsed."""
        if name not in self._trees:
            try:
                self._trees[name] = ast.parse("\n".join(self.lines(name)))
            except SyntaxError:
                self._trees[name] = ast.Module([], [])
        return self._trees[name]

    def python(self, folder: str) -> list[str]:
        """The Python files of a folder and the folders in it, sorted."""
        return self.below(folder, "*.py")

    def below(self, folder: str, pattern: str) -> list[str]:
        """The files of a folder and the folders in it whose names fit, sorted."""
        found = (path.relative_to(self.root) for path in (self.root / folder).rglob(pattern))
        return sorted(path.as_posix() for path in found)

    def excerpt(self, name: str, first: int, last: int) -> Excerpt:
        """Lines ``first`` to ``last``, from 1 and both included."""
        text = textwrap.dedent("\n".join(self.lines(name)[first - 1 : last])).rstrip()
        return Excerpt(name, first, text)

    def yaml_entry(self, place: Place) -> Excerpt:
        """The key at ``place`` and everything below it, without the comments of what follows."""
        lines = self.lines(place.file)
        last = place.line
        for number, line in enumerate(lines[place.line :], place.line + 1):
            if not line.strip():
                continue
            if indent(line) < place.column:
                break
            last = number
        return self.excerpt(place.file, place.line, last)

    def function(self, place: Place) -> Excerpt | None:
        """The function that begins at ``place``, with its decorators."""
        for node in ast.walk(self.tree(place.file)):
            if isinstance(node, _FUNCTIONS) and node.lineno == place.line:
                return self._node(place.file, node)
        return None

    def classes(self, folder: str) -> dict[str, str]:
        """The file of every class at the top of a file; of two of the same name, the last."""
        return {
            found[1]: name
            for name in self.python(folder)
            for line in self.lines(name)
            if (found := _CLASS.match(line))
        }

    def method(self, name: str, class_name: str, method: str) -> Excerpt | None:
        """A method of a class at the top of the file."""
        for owner in self.tree(name).body:
            if isinstance(owner, ast.ClassDef) and owner.name == class_name:
                for node in owner.body:
                    if isinstance(node, _FUNCTIONS) and node.name == method:
                        return self._node(name, node)
        return None

    def _node(self, name: str, node: ast.FunctionDef | ast.AsyncFunctionDef) -> Excerpt:
        first = min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)])
        return self.excerpt(name, first, node.end_lineno or node.lineno)


_FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)


@dataclass(frozen=True, slots=True)
class Blocks:
    """The blocks of all generated functions, by file and subject."""

    found: Mapping[str, Mapping[str, list[Block]]]

    def of(self, file: str, subject: str) -> list[Block]:
        """The blocks of a file that begin with ``subject``."""
        return self.found.get(file, {}).get(subject, [])

    def of_module(self, module: str, subject: str) -> list[Block]:
        """Those of every file of this name, sorted by path."""
        files = [name for name in self.found if name.endswith(f"/{module}.py")]
        return [block for name in files for block in self.of(name, subject)]


def blocks(files: Files, folder: str) -> Blocks:
    """The blocks below ``folder``."""
    found: dict[str, dict[str, list[Block]]] = {}
    for name in files.python(folder):
        for block in () if _STUBS.search(name) else _blocks(files, name):
            found.setdefault(name, {}).setdefault(block.subject, []).append(block)
    return Blocks(found)


def _blocks(files: Files, name: str) -> Iterator[Block]:
    """A block ends where its function does, or at the next comment of the same indentation."""
    function, begun, subject = "", 0, ""
    lines = files.lines(name)
    for number, line in enumerate([*lines, ""], 1):
        if begun and _ends(line, indent(lines[begun - 1])):
            if number - begun > 1:
                yield Block(function, subject, files.excerpt(name, begun + 1, number - 1))
            begun = 0
        stripped = line.strip()
        if stripped.startswith(("def ", "async def ")):
            function = stripped.partition("def ")[2].partition("(")[0]
        comment = _SUBJECT.match(stripped)
        if comment and indent(line) and not begun:
            begun, subject = number, comment["subject"]


def _ends(line: str, outer: int) -> bool:
    own = indent(line)
    return not line.strip() or own < outer or (own == outer and line[own:].startswith(_NEXT))


_NEXT = ("#", "return")


def indent(line: str) -> int:
    """The number of spaces before the text."""
    return len(line) - len(line.lstrip(" "))
