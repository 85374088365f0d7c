"""One entry of the mapping, and what its mutants are made of."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from codegen.model import Computed, Copied, Entry, Kind, Mapped
from tests.mutation.specification import Document, Mutant, Specification


@dataclass(frozen=True, slots=True)
class Place:
    """One entry, as written and as resolved."""

    specification: Specification
    message: str
    section: str
    """``fields`` or ``targets``."""
    name: str

    @property
    def full_name(self) -> str:
        return f"{self.message}.{self.name}"

    @property
    def document(self) -> Document:
        return self.specification.documents[self.message]

    @property
    def body(self) -> Document:
        body: Document = self.document[self.section][self.name]
        return body

    @property
    def mapped(self) -> Mapped:
        return self.specification.project.translation.mapped[self.message]

    @property
    def entry(self) -> Entry:
        file = self.mapped.file
        return (file.entries if self.section == "fields" else file.targets)[self.name]

    @property
    def kind(self) -> Kind | None:
        """The kind of the value: of the field, or of the source of a target."""
        if self.section == "fields":
            return self.mapped.message.fields[self.name].kind
        for write in self.mapped.writes:
            if isinstance(write, Copied) and write.entry is self.entry:
                return write.source.kind
        return None

    @property
    def target(self) -> Kind | None:
        """The kind of what it writes."""
        for write in self.mapped.writes:
            if isinstance(write, Copied | Computed) and write.entry is self.entry:
                return write.target.kind
        return None

    def altered(self, change: str, body: Document) -> Mutant:
        """The mutant in which the entry has another body."""
        document = copy.deepcopy(self.document)
        document[self.section][self.name] = body
        return Mutant(self.full_name, change, {self.message: document})

    def without(self, change: str, key: str) -> Mutant:
        return self.altered(change, {k: v for k, v in self.body.items() if k != key})

    def with_key(self, change: str, key: str, value: Any) -> Mutant:
        return self.altered(change, {**self.body, key: value})

    def resolved(self, change: str, altered: Callable[[Mapped], Mapped]) -> Mutant:
        """The mutant whose resolved mapping is ``altered``."""
        return Mutant(self.full_name, change, message=self.message, altered=altered)
