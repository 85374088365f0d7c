"""The specification in memory: read once, then generated again with one alteration at a time."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from codegen import generate, load, mapping_file
from codegen.errors import Place, Problems, SpecError
from codegen.generate import Project
from codegen.load import Key, ListNode, MappingNode, Node, ScalarNode
from codegen.model import Mapped, MappingFile

Document = dict[str, Any]
"""A mapping file as plain dicts and lists."""


@dataclass(frozen=True, slots=True)
class Mutant:
    """The specification with one alteration."""

    entry: str
    """``Message.field`` or ``Message.target``."""
    change: str
    """What is different, in words."""
    documents: Mapping[str, Document] = field(default_factory=dict)
    """By message: the files that are different."""
    message: str = ""
    altered: Callable[[Mapped], Mapped] | None = None
    """What is different in the resolved mapping of ``message``, where no file can say it, or where
    the generator would refuse it before a test could notice."""

    @property
    def name(self) -> str:
        return f"{self.entry}: {self.change}"


class Specification:
    """The project's specification."""

    def __init__(self, root: Path) -> None:
        self.project: Project = generate.load_project(root)
        self._root = root
        self._schema = load.language_schema("mapping")
        found = self.project.translation
        self.documents: dict[str, Document] = {
            name: load.yaml_file(root, file.file).plain()  # type: ignore[misc]
            for name, file in found.files.items()
        }

    def generated(self, mutant: Mutant | None = None) -> dict[str, str]:
        """The unformatted Python that is generated, by its path; raises SpecError if the generator
        refuses the alteration."""
        whole = self.project
        if mutant is not None and mutant.documents:
            files = dict(whole.translation.files)
            for message, document in mutant.documents.items():
                files[message] = self._file(files[message].file, document)
            whole = generate.with_files(whole, files)
        if mutant is not None and mutant.altered is not None:
            found = whole.translation
            altered = mutant.altered(found.mapped[mutant.message])
            found = replace(found, mapped={**found.mapped, mutant.message: altered})
            whole = replace(whole, translation=found)
        texts = generate.unformatted(whole)
        return {path: text for path, text in texts.items() if path.endswith(".py")}

    def _file(self, name: str, document: Document) -> MappingFile:
        node = _node(document, Place(name, 1, 1))
        problems = Problems()
        load.check_schema(node, self._schema, problems)
        problems.stop_if_any()
        return mapping_file.from_node(node, name, self.project.translation.api.package)


def _node(plain: Any, place: Place) -> Node:
    if isinstance(plain, dict):
        pairs = ((Key(name, place), _node(value, place)) for name, value in plain.items())
        return MappingNode(tuple(pairs), place)
    if isinstance(plain, list):
        return ListNode(tuple(_node(value, place) for value in plain), place)
    return ScalarNode(plain, place)


__all__ = ["Document", "Mutant", "SpecError", "Specification"]
